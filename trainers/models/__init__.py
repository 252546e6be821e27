"""Networks: encoders, layers, heads, losses, export."""
