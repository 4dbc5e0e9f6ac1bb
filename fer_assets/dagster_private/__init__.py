"""Every name of Dagster's that is used and not public, each with its reason.

Where a public way exists it is taken. ``pyproject.toml`` bounds Dagster's minor version for these.
"""

from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)
from dagster._core.events import RunFailureReason

__all__ = [
    # The tag under which an event without a run carries a data version: only results of assets
    # have a public field for it.
    "DATA_VERSION_TAG",
    # A run that was told to stop fails with a reason, and no public field tells it from a fault.
    "RunFailureReason",
    # What ``dg.define_asset_job`` returns: a type for annotations alone.
    "UnresolvedAssetJobDefinition",
]
