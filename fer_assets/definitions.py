"""The code location: each profile is an attribute, and its value is the profile's repository.

The origin of a run names the attribute, so the process that executes its steps opens the same
profile. Nothing else is defined in this module, so that no profile name can collide with it. If no
attribute is named, Dagster finds the default profile (``FER_PROFILE``, ``fer.toml``).
"""


def __getattr__(name: str) -> object:
    """Return the repository of the profile ``name``."""
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(name)
    from fer_assets.repository import opened

    return opened(name)


def __dir__() -> list[str]:
    from fer_ml.base.settings import settings

    return [settings().profile]
