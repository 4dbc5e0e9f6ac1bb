"""Manifests: what is in a dataset, row by row. Cleaned, unified, split and curated."""
