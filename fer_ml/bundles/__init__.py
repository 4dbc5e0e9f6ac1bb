"""A network that left its artifact root: its card, its lineage, its one reader."""
