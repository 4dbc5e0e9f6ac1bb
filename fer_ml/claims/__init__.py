"""Claims: sentences bound to the bytes they came from, traced back to the raw rows."""
