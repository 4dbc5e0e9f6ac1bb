"""From teachers to soft labels: cached logits, their fusion, and the labels of a student."""
