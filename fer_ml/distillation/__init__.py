"""Distillation: cached logits of the teachers, their fusion, and the soft labels of students."""
