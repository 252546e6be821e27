"""Operations of neural networks, with their gradients: segment sums, messages, dropout."""
