"""The code location. Each profile is an attribute of this module: its repository of definitions.

A run's origin holds the attribute, so whoever makes its steps opens the profile that it was started
for. Nothing else is in this module, lest a profile be called as something that is. Without an
attribute Dagster finds the default profile (``FER_PROFILE``, ``fer.toml``).
"""


def __getattr__(name: str) -> object:
    """The repository of the profile ``name``."""
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(name)
    from fer_assets.repository import opened

    return opened(name)


def __dir__() -> list[str]:
    from fer_ml.base.settings import settings

    return [settings().profile]
