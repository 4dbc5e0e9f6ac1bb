"""Names of a profile's objects in Dagster, where all profiles share one instance.

Dagster identifies events by asset key, dynamic partitions by the name of their definition, and the
state of sensors, schedules and runs by repository. Each of these names therefore contains the
profile. Pools do not, because all profiles share one machine.
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
    """Return the repository name of a profile, in capitals if Dagster reserves the name.

    No profile name contains capitals.
    """
    return profile if is_valid_name(profile) else profile.upper()


def asset_key(profile: str, asset: str) -> dg.AssetKey:
    """Return an asset's key: ``manifest/ferplus`` of ``sample`` is ``sample/manifest/ferplus``."""
    return dg.AssetKey([profile, *asset.split("/")])


def asset_of(key: dg.AssetKey) -> str:
    """Return the asset's name within its profile, from its key."""
    return "/".join(key.path[1:])


def step_of(profile: str, asset: str) -> str:
    """Return the key of the step that makes an asset."""
    return asset_key(profile, asset).to_python_identifier()


def table_of(profile: str, asset: str) -> str:
    """Return the name of the dynamic partitions definition of an asset."""
    return f"{profile}/{asset}"


def origin_of(profile: str, job: str) -> RemoteJobOrigin:
    """Return the origin of a run, which makes the UI list it under its profile."""
    location = RegisteredCodeLocationOrigin(LOCATION)
    return RemoteRepositoryOrigin(location, repository_name(profile)).get_job_origin(job)
