"""Manifests: one row for each face, cleaned, unified, split and curated."""
