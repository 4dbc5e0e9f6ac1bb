"""What the things of a profile are called in Dagster, where all profiles share one instance.

Dagster knows events by their asset's key, dynamic partitions by the name of their table, and the
state of sensors, schedules and runs by their repository. So each of these carries the profile.
Pools do not: the machine is one.
"""

import dagster as dg

from fer_assets.dagster_private import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
    is_valid_name,
)

#: The code location, as ``workspace.yaml`` names it too.
LOCATION = "fer"


def repository_name(profile: str) -> str:
    """The repository of a profile: its name, in capitals where Dagster keeps that for itself.

    No profile has capitals in its name.
    """
    return profile if is_valid_name(profile) else profile.upper()


def asset_key(profile: str, asset: str) -> dg.AssetKey:
    """The key of an asset: ``manifest/ferplus`` of ``sample`` is ``sample/manifest/ferplus``."""
    return dg.AssetKey([profile, *asset.split("/")])


def asset_of(key: dg.AssetKey) -> str:
    """The asset that a key is of."""
    return "/".join(key.path[1:])


def step_of(profile: str, asset: str) -> str:
    """The key of the step that makes an asset."""
    return asset_key(profile, asset).to_python_identifier()


def table_of(profile: str, asset: str) -> str:
    """The table of the dynamic partitions of an asset."""
    return f"{profile}/{asset}"


def origin_of(profile: str, job: str) -> RemoteJobOrigin:
    """Where a run of a job belongs: the UI shows it among those of the profile."""
    location = RegisteredCodeLocationOrigin(LOCATION)
    return RemoteRepositoryOrigin(location, repository_name(profile)).get_job_origin(job)
