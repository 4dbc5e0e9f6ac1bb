"""Where things are on this machine. The only module that reads the environment and ``fer.toml``."""

import os
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.plain import Plain
from fer_ml.base.reading import read_file
from fer_ml.base.versions import upgraded

CONFIG_FILE = "fer.toml"
LOCAL, RAY = "local", "ray"
WINDOWS_PATH = "write a path of Windows with /, or in single quotes: 'C:\\faces'"
#: OpenTelemetry's own variables: where spans go, as it reads them itself.
OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class UserConfig(Plain):
    """``fer.toml``: the user's own roots, default profile and profiles. Unknown keys are refused.

    ``roots`` maps a source to the folder its publisher's files lie in; ``profiles`` holds own
    profiles, each with a ``base`` and the fields that differ. ``faces_in_ui`` lets Dagster show
    contact sheets of real faces, and keep them in its event log. Recorded frames of the demo are
    deleted ``keep_recordings_days`` after their session; without it they stay.
    """

    version: int = 3
    profile: str | None = None
    roots: dict[str, str] = {}
    faces_in_ui: bool = False
    keep_recordings_days: int | None = Field(default=None, ge=0)
    profiles: dict[str, dict[str, Any]] = {}


class Notifiers(BaseModel):
    """Where news goes besides the log. Addresses with a password in them never print.

    ``webhook`` (``FER_WEBHOOK``) is an http or https URL; ``smtp`` (``FER_SMTP``) a mail server as
    ``smtps://USER:PASSWORD@HOST:PORT``, or ``smtp://`` for STARTTLS; ``mail_to`` (``FER_MAIL_TO``)
    addresses separated by commas, ``mail_from`` (``FER_MAIL_FROM``) the sender.
    """

    model_config = ConfigDict(frozen=True)

    webhook: SecretStr | None = None
    smtp: SecretStr | None = None
    mail_to: tuple[str, ...] = ()
    mail_from: str | None = None

    @property
    def ways(self) -> tuple[str, ...]:
        """Which ways are configured: ``webhook``, ``e-mail``."""
        return ("webhook",) * (self.webhook is not None) + ("e-mail",) * (self.smtp is not None)


class Settings(BaseModel):
    """What the environment says: paths are absolute.

    ``project`` holds ``workspace.yaml``; ``dagster_home`` (``DAGSTER_HOME``) is Dagster's own
    folder, in the project where nothing is named; ``home`` (``FER_HOME``) is the artifact root;
    where that is an object store, ``bucket`` is its address and ``home`` the local cache
    (``FER_CACHE``); ``profile`` (``FER_PROFILE``) the active recipe; ``device``
    (``FER_DEVICE``) where trainings compute: ``cpu``, ``cuda``, or ``auto``, a GPU where there is
    one; ``processes`` (``FER_PROCESSES``) how many processes share a training, 1 if it is not said;
    ``notify`` where news goes; ``json_log`` (``FER_LOG=json``) whether standard error is for
    programs; ``tracing`` (``OTEL_EXPORTER_OTLP_ENDPOINT``, or the same of traces) whether spans are
    exported.
    """

    model_config = ConfigDict(frozen=True)

    project: Path
    dagster_home: Path
    home: Path
    bucket: str | None = None
    profile: str
    device: str
    processes: int = 1
    config: UserConfig
    notify: Notifiers = Notifiers()
    json_log: bool = False
    tracing: bool = False

    def environment(self) -> dict[str, str]:
        """What gives a process on another machine these settings, without passwords."""
        home = {"FER_HOME": self.bucket or str(self.home)}
        if self.bucket:
            home["FER_CACHE"] = str(self.home)
        return {
            "FER_PROJECT": str(self.project),
            **home,
            # A step looks its run up in Dagster's own storage.
            "DAGSTER_HOME": str(self.dagster_home),
            "FER_PROFILE": self.profile,
            "FER_DEVICE": self.device,
            "FER_PROCESSES": str(self.processes),
            "FER_ENGINE": engine(),
        }


def named_path(variable: str) -> Path | None:
    """The path that a variable of the environment holds, absolute; ``None`` where it holds none.

    ``~`` is the user's home, as no shell expands it in a unit file or a ``.env``.
    """
    held = os.environ.get(variable)
    try:
        return Path(held).expanduser().resolve() if held else None
    except (RuntimeError, ValueError) as error:  # ~nobody, or a NUL.
        raise FerError(f"{variable} is no path: {error}", where=repr(held)) from error


def find_project() -> Path:
    """The folder that holds ``workspace.yaml``: the nearest one above here, else the checkout.

    ``FER_PROJECT`` names it outright.
    """
    named, here = named_path("FER_PROJECT"), Path.cwd()
    checkout = Path(__file__).resolve().parents[2]
    for folder in (named,) if named else (here, *here.parents, checkout):
        if (folder / "workspace.yaml").is_file() and (folder / "dagster_home").is_dir():
            return folder
    raise FerError(
        "no project found: no workspace.yaml beside a dagster_home folder",
        where=f"FER_PROJECT={named}" if named else here,
        fix="correct FER_PROJECT, or run fer inside the project's folder without it",
    )


def read_config(path: Path) -> UserConfig:
    """Read ``fer.toml``; an absent file is an empty configuration."""
    text = ""
    try:
        text = read_file(path).decode("utf-8-sig")  # Some editors put a byte order mark first.
        held = tomllib.loads(text)
        _refuse_control(held, path)
        return UserConfig.from_plain(upgraded("fer.toml", held, path, "version"))
    except FileNotFoundError:
        return UserConfig()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = "correct that line; docs/faq.md and the README show what fer.toml holds"
        if isinstance(error, UnicodeDecodeError) or "\0" in text:
            fix = "save it as UTF-8"
        elif "\\" in text:
            fix = WINDOWS_PATH
        raise FerError(f"not valid TOML: {error}", where=path, fix=fix) from error
    except RecursionError as error:
        raise FerError("not valid TOML: it is nested too deep", where=path) from error
    except ValidationError as error:
        raise FerError(
            first_fault(error),
            where=path,
            allowed="version, profile, faces_in_ui, keep_recordings_days, [roots], [profiles.NAME]",
        ) from error


def _refuse_control(held: Any, path: Path, key: str = "") -> None:
    """Nobody means a control character, as TOML reads one in ``"D:/temp"`` with backslashes."""
    if isinstance(held, str) and any(character < " " for character in held):
        raise FerError(f"{key} has a control character: {held!r}", where=path, fix=WINDOWS_PATH)
    parts = dict(enumerate(held)) if isinstance(held, list) else held
    for name, value in parts.items() if isinstance(parts, dict) else ():
        _refuse_control(value, path, f"{key}.{name}" if key else str(name))


@cache
def settings() -> Settings:
    """The settings of this process. Changes of the environment need ``settings.cache_clear()``."""
    project = find_project()
    config = read_config(project / CONFIG_FILE)
    named = os.environ.get("FER_HOME")
    bucket = named.rstrip("/") if named and "://" in named else None
    if bucket and not re.fullmatch(r"s3://[^/@:]+(/[^/]+)*", bucket):
        raise FerError("FER_HOME is no artifact root", allowed="a folder, or s3://BUCKET/PREFIX")
    home = named_path("FER_CACHE" if bucket else "FER_HOME") or project / "outputs"
    return Settings(
        project=project,
        dagster_home=named_path("DAGSTER_HOME") or project / "dagster_home",
        home=home,
        bucket=bucket,
        profile=os.environ.get("FER_PROFILE") or config.profile or "sample",
        device=os.environ.get("FER_DEVICE") or "auto",
        processes=_processes(),
        config=config,
        notify=_notifiers(),
        json_log=_json_log(),
        tracing=any(os.environ.get(name) for name in OTLP_ENDPOINTS),
    )


def _processes() -> int:
    named = os.environ.get("FER_PROCESSES") or "1"
    if not re.fullmatch(r"[1-9]\d{0,3}", named):
        raise FerError(f"FER_PROCESSES is {named!r}", allowed="a whole number, 1 to 9999")
    return int(named)


def postgres_url() -> SecretStr | None:
    """``FER_POSTGRES``: Dagster's database as ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``.

    Not one of ``Settings``: processes of Dagster's own need it, which may run outside the project.
    """
    return _address("FER_POSTGRES", "postgresql")


def engine() -> str:
    """Who computes shards and steps (``FER_ENGINE``): ``local`` processes, or a ``ray`` cluster."""
    named = os.environ.get("FER_ENGINE") or LOCAL
    if named not in (LOCAL, RAY):
        raise FerError(f"FER_ENGINE is {named!r}", allowed=f"{LOCAL}, {RAY}")
    return named


def ray_address() -> tuple[str, int] | None:
    """Host and port that ``RAY_ADDRESS`` names, if any: ``HOST:PORT`` or ``ray://HOST:PORT``."""
    named = os.environ.get("RAY_ADDRESS")
    if not named or named == "auto":
        return None
    try:
        parts = urlsplit(named if "://" in named else f"//{named}")
        place = parts.hostname, parts.port
    except ValueError:
        place = None, None
    if place[0] is None or place[1] is None:
        raise FerError(f"RAY_ADDRESS is {named!r}", allowed="HOST:PORT")
    return place[0], place[1]


def _json_log() -> bool:
    held = os.environ.get("FER_LOG") or "text"
    if held not in ("text", "json"):
        raise FerError(f"FER_LOG is {held!r}", allowed="text, json")
    return held == "json"


def _notifiers() -> Notifiers:
    mail_to = [a.strip() for a in (os.environ.get("FER_MAIL_TO") or "").split(",") if a.strip()]
    webhook = _address("FER_WEBHOOK", "http", "https")
    smtp = _address("FER_SMTP", "smtp", "smtps")
    if bool(smtp) != bool(mail_to):
        raise FerError(
            "FER_SMTP and FER_MAIL_TO belong together: one of them is not set",
            fix="set both to be told by e-mail, or neither",
        )
    return Notifiers(
        webhook=webhook,
        smtp=smtp,
        mail_to=tuple(mail_to),
        mail_from=os.environ.get("FER_MAIL_FROM") or None,
    )


def _address(variable: str, *schemes: str) -> SecretStr | None:
    """The variable's URL, or ``None``; what is wrong with one is told without repeating it."""
    held = os.environ.get(variable)
    if not held:
        return None
    try:
        parts = urlsplit(held)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise FerError(
            f"{variable} is not such an address",
            allowed=" or ".join(f"{scheme}://HOST..." for scheme in schemes),
        )
    return SecretStr(held)
