"""Where things are on this machine. The only module that reads the environment and ``fer.toml``."""

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fer_ml.errors import FerError

CONFIG_FILE = "fer.toml"
#: Below the artifact root: where 'fer doctor --fetch-detector' puts YuNet.
YUNET_FILE = "models/face_detection_yunet_2023mar.onnx"


class UserConfig(BaseModel):
    """``fer.toml``: the user's own roots, default profile and profiles. Unknown keys are refused.

    ``roots`` maps a source to the folder its publisher's files lie in; ``profiles`` holds own
    profiles, each with a ``base`` and the fields that differ. ``faces_in_ui`` lets Dagster show
    contact sheets of real faces, and keep them in its event log.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str | None = None
    roots: dict[str, str] = {}
    faces_in_ui: bool = False
    profiles: dict[str, dict[str, Any]] = {}


class Settings(BaseModel):
    """What the environment says: paths are absolute.

    ``project`` holds ``workspace.yaml`` and ``dagster_home``; ``home`` (``FER_HOME``) is the
    artifact root; ``profile`` (``FER_PROFILE``) the active recipe; ``yunet`` (``FER_YUNET``, or
    else ``YUNET_FILE`` where it is) an optional face detector file; ``device`` (``FER_DEVICE``)
    where trainings compute: ``cpu``, ``cuda``, or ``auto``, a GPU where there is one.
    """

    model_config = ConfigDict(frozen=True)

    project: Path
    home: Path
    profile: str
    yunet: Path | None
    device: str
    config: UserConfig


def find_project() -> Path:
    """The folder that holds ``workspace.yaml``: the nearest one above here, else the checkout.

    ``FER_PROJECT`` names it outright.
    """
    here = Path(os.environ.get("FER_PROJECT") or Path.cwd()).resolve()
    checkout = Path(__file__).resolve().parent.parent
    for folder in (here, *here.parents, checkout):
        if (folder / "workspace.yaml").is_file() and (folder / "dagster_home").is_dir():
            return folder
    raise FerError(
        "no project found: no workspace.yaml beside a dagster_home folder",
        where=here,
        fix="run fer inside the project's folder",
    )


def read_config(path: Path) -> UserConfig:
    """Read ``fer.toml``; an absent file is an empty configuration."""
    try:
        return UserConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return UserConfig()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FerError(f"not valid TOML: {error}", where=path) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise FerError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=path,
            allowed="profile, faces_in_ui, [roots], [profiles.NAME]",
        ) from error


@cache
def settings() -> Settings:
    """The settings of this process. Changes of the environment need ``settings.cache_clear()``."""
    project = find_project()
    config = read_config(project / CONFIG_FILE)
    home = Path(os.environ.get("FER_HOME") or project / "outputs").resolve()
    yunet = os.environ.get("FER_YUNET")
    fetched = home / YUNET_FILE
    return Settings(
        project=project,
        home=home,
        profile=os.environ.get("FER_PROFILE") or config.profile or "sample",
        yunet=Path(yunet).resolve() if yunet else fetched if fetched.is_file() else None,
        device=os.environ.get("FER_DEVICE") or "auto",
        config=config,
    )
