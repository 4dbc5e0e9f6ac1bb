"""Claims: sentences bound to the artifacts they came from, and traced back to the raw data."""
