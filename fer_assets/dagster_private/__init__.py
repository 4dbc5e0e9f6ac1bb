"""Every private Dagster name that this project uses, each with its reason.

Public names are used wherever they exist. Because of the private ones, ``pyproject.toml`` bounds
Dagster's minor version.
"""

from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)
from dagster._core.definitions.utils import is_valid_name
from dagster._core.events import RunFailureReason, StepMaterializationData
from dagster._core.execution.api import execute_run
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.tags import PARTITION_NAME_TAG as PARTITION_TAG

__all__ = [
    # The tag under which an event without a run carries a data version: only results of assets
    # have a public field for it.
    "DATA_VERSION_TAG",
    # On a run: the partition that it makes. No public way starts a run of the command with it.
    "PARTITION_TAG",
    # An event without a run that carries the time of its work: the public way knows only now.
    "RUNLESS_JOB_NAME",
    "RUNLESS_RUN_ID",
    # A job that is not loaded anew for its run, ...
    "InMemoryJob",
    # ... where a run belongs, ...
    "RegisteredCodeLocationOrigin",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    # A run that was told to stop fails with a reason, and no public field tells it from a fault.
    "RunFailureReason",
    # What an event without a run holds of a materialization.
    "StepMaterializationData",
    # What ``dg.define_asset_job`` returns: a type for annotations alone.
    "UnresolvedAssetJobDefinition",
    # ... and its run. ``execute_in_process`` makes a run that belongs nowhere: no page shows it.
    "execute_run",
    # Which names Dagster takes: it keeps some for itself.
    "is_valid_name",
]
