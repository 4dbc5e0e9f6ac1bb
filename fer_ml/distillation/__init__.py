"""From teachers to soft labels: cached logits, their fusion, and what a student is given."""
