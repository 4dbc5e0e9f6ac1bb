"""The benchmark of stored predictions, comparisons, selection, and models from elsewhere."""
