"""The lineage of a profile, the Dagster definitions made from it, and the command ``fer``."""
