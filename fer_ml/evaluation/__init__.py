"""The benchmark of stored predictions, comparisons, the selection, and what is measured."""
