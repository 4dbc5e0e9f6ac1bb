"""Evaluation: the benchmark of stored predictions, comparisons, selection, external models."""
