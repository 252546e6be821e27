"""Message-passing layers, one per file, and what they share; names and needs are in trainers/layer_table.py."""
