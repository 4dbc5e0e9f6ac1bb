"""Which numbers may stand beside each other. Needs only Python."""

from collections.abc import Mapping
from typing import Any

#: What two cells of the benchmark must agree in before their numbers share a table.
KEYS = ("manifest_sha256", "split", "n", "preprocess_sha256", "views", "selection_split")


def comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Why two entries must not share a table; an empty list when they may."""
    return [f"{key}: {a[key]} and {b[key]}" for key in KEYS if a[key] != b[key]]
