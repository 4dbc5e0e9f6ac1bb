"""Deployable models outside their artifact root: their cards, lineage, and safe loading."""
