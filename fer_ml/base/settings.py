"""Settings of this machine: the only module that reads environment variables and ``fer.toml``."""

import os
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.plain import Plain
from fer_ml.base.reading import read_file
from fer_ml.base.versions import upgraded

CONFIG_FILE = "fer.toml"
RAY = "ray"
WINDOWS_PATH = "write a path of Windows with /, or in single quotes: 'C:\\faces'"
#: OpenTelemetry's own variables: where spans go, as it reads them itself.
OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class UserConfig(Plain):
    """The contents of ``fer.toml``: the sources' folders and the user's own profiles, checked."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    version: int = 3
    """Version of this file."""
    profile: str | None = None
    """Active profile, where `FER_PROFILE` names none."""
    roots: dict[str, str] = {}
    """By source: the folder of its publisher's files."""
    faces_in_ui: bool = False
    """Dagster shows contact sheets of real faces, and keeps them in its event log."""
    keep_recordings_days: int | None = Field(default=None, ge=0)
    """Recorded frames of the demo are deleted so many days after their session; default: never."""
    profiles: dict[str, dict[str, Any]] = {}
    """By name: a profile of your own, with its `base` and the fields that differ."""


def _absolute(text: object) -> Path:
    """Make a path absolute and expand ``~``, which no shell does in a unit file or a ``.env``."""
    try:
        return Path(str(text)).expanduser().resolve()
    except (RuntimeError, ValueError) as error:  # ~nobody, or a NUL.
        raise ValueError(f"{text!r} is no path: {error}") from error


def _root(text: str) -> str:
    if "://" not in text:
        return str(_absolute(text))
    if not re.fullmatch(r"s3://[^/@:]+(/[^/]+)*/*", text):
        raise ValueError("neither a folder nor s3://BUCKET/PREFIX")
    return text.rstrip("/")


def _of(*schemes: str) -> AfterValidator:
    """Accept only an address of one of ``schemes``; the error does not repeat the address."""

    def checked(secret: SecretStr) -> SecretStr:
        allowed = " or ".join(f"{scheme}://HOST..." for scheme in schemes)
        try:
            parts = urlsplit(secret.get_secret_value())
            good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"not an address as {allowed}")
        return secret

    return AfterValidator(checked)


def _whole(text: str) -> str:
    if not re.fullmatch("[0-9]+", text):
        raise ValueError("not a whole number")  # pydantic would read 2.0 and 1_0 as well.
    return text


Absolute = Annotated[Path, BeforeValidator(_absolute)]


class Environment(BaseModel):
    """The environment variables of this project. An empty one is unset. Secrets never print."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)

    FER_HOME: Annotated[str, AfterValidator(_root)] | None = None
    """Artifact root: a folder, or `s3://BUCKET/PREFIX`; default: `outputs` in the project."""
    FER_CACHE: Absolute | None = None
    """Where artifacts of an object store are cached; default: `outputs` in the project."""
    FER_PROFILE: str | None = None
    """Active profile; default: `profile` of `fer.toml`, else `sample`."""
    FER_PROJECT: Absolute | None = None
    """Project folder; default: the nearest folder above with `workspace.yaml`."""
    FER_DEVICE: str = "auto"
    """Where trainings compute: `cpu`, `cuda`, or `auto`, a GPU where there is one."""
    FER_PROCESSES: Annotated[int, BeforeValidator(_whole)] = Field(default=1, ge=1, le=9999)
    """Number of processes that share one training: the number of GPUs."""
    FER_ENGINE: Literal["local", "ray"] = "local"
    """What computes shards and steps: `local` processes, or a `ray` cluster."""
    RAY_ADDRESS: str | None = None
    """The Ray cluster, as `HOST:PORT`; default: the one on this machine."""
    FER_WEBHOOK: Annotated[SecretStr, _of("http", "https")] | None = None
    """Address to which failed runs, red gates and the digest are posted, as JSON."""
    FER_SMTP: Annotated[SecretStr, _of("smtp", "smtps")] | None = None
    """Mail server for the same: `smtps://USER:PASSWORD@HOST:PORT`, or `smtp://` for STARTTLS."""
    FER_MAIL_TO: str = ""
    """Addresses that get the mail, separated by commas."""
    FER_MAIL_FROM: str | None = None
    """Sender of the mail."""
    FER_LOG: Literal["text", "json"] = "text"
    """Form of the lines on standard error."""
    OTEL_EXPORTER_OTLP_ENDPOINT: str | None = None
    """Where OpenTelemetry sends spans; needs `pip install 'fer-platform[otel]'`."""
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: str | None = None
    """The same, for spans alone."""
    DAGSTER_HOME: Absolute | None = None
    """Dagster's own folder; default: `dagster_home` in the project."""
    FER_POSTGRES: Annotated[SecretStr, _of("postgresql")] | None = None
    """Dagster's database: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`; default: SQLite."""

    @model_validator(mode="after")
    def _told_by_mail(self) -> Self:
        if bool(self.FER_SMTP) != bool(self.mail_to):
            raise ValueError("FER_SMTP and FER_MAIL_TO belong together: set both, or neither")
        return self

    @property
    def mail_to(self) -> tuple[str, ...]:
        """Return the addresses of ``FER_MAIL_TO``."""
        return tuple(each.strip() for each in self.FER_MAIL_TO.split(",") if each.strip())


def environment() -> Environment:
    """Read the environment variables as they are now; works outside a project folder too."""
    variables = {name: os.environ.get(name) for name in Environment.model_fields}
    try:
        return Environment.model_validate({name: text for name, text in variables.items() if text})
    except ValidationError as error:
        field = Environment.model_fields.get(str(next(iter(error.errors()[0]["loc"]), "")))
        raise FerError(
            first_fault(error),
            code="invalid-setting",
            where="variables of the environment",
            allowed=field and field.description,
            fix="correct the variable, or unset it",
        ) from None


class Notifiers(BaseModel):
    """Where notices go besides the log. Addresses with a password in them never print."""

    model_config = ConfigDict(frozen=True)

    webhook: SecretStr | None = None
    smtp: SecretStr | None = None
    mail_to: tuple[str, ...] = ()
    mail_from: str | None = None

    @property
    def ways(self) -> tuple[str, ...]:
        """Return the names of the configured ways: ``webhook``, ``e-mail``."""
        return ("webhook",) * (self.webhook is not None) + ("e-mail",) * (self.smtp is not None)


class Settings(BaseModel):
    """The settings that result from the environment and ``fer.toml``. All paths are absolute.

    ``home`` is the artifact root; where that is an object store, ``bucket`` is its address and
    ``home`` the local cache. ``tracing`` says whether spans are exported.
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
        """Return variables that give a process elsewhere these settings, without passwords."""
        home = {"FER_HOME": self.bucket or str(self.home)}
        if self.bucket:
            home["FER_CACHE"] = str(self.home)
        return {
            "FER_PROJECT": str(self.project),
            **home,
            # A step looks its run up in Dagster's own storage.
            "DAGSTER_HOME": str(self.dagster_home),
            "FER_DEVICE": self.device,
            "FER_PROCESSES": str(self.processes),
            "FER_ENGINE": environment().FER_ENGINE,
        }


def require_whole_paths() -> None:
    """Raise ``FerError`` if a variable holds a relative path: other processes start elsewhere."""
    for variable in ("DAGSTER_HOME", "FER_CACHE", "FER_HOME", "FER_PROJECT"):
        text = os.environ.get(variable, "")
        if text and "://" not in text and not Path(text).expanduser().is_absolute():
            raise FerError(
                f"{variable} is relative, and Dagster's processes start in another folder",
                code="invalid-setting",
                where=text,
                fix=f"{variable}={_absolute(text)}",
            )


def find_project() -> Path:
    """Return the project: the nearest folder upwards with ``workspace.yaml``, else the checkout.

    ``FER_PROJECT`` overrides both.
    """
    named, cwd = environment().FER_PROJECT, Path.cwd()
    checkout = Path(__file__).resolve().parents[2]
    for folder in (named,) if named else (cwd, *cwd.parents, checkout):
        if (folder / "workspace.yaml").is_file() and (folder / "dagster_home").is_dir():
            return folder
    raise FerError(
        "no project found: no workspace.yaml beside a dagster_home folder",
        code="project-not-found",
        where=f"FER_PROJECT={named}" if named else cwd,
        fix="correct FER_PROJECT, or run fer inside the project's folder without it",
    )


def read_config(path: Path) -> UserConfig:
    """Read ``fer.toml``; an absent file is an empty configuration."""
    text = ""
    try:
        text = read_file(path).decode("utf-8-sig")  # Some editors put a byte order mark first.
        document = tomllib.loads(text)
        _refuse_control(document, path)
        return UserConfig.from_plain(upgraded("fer.toml", document, path, "version"))
    except FileNotFoundError:
        return UserConfig()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = "correct that line; docs/reference.md#settings shows what fer.toml holds"
        if isinstance(error, UnicodeDecodeError) or "\0" in text:
            fix = "save it as UTF-8"
        elif "\\" in text:
            fix = WINDOWS_PATH
        raise FerError(
            f"not valid TOML: {error}", code="invalid-toml", where=path, fix=fix
        ) from error
    except RecursionError as error:
        raise FerError(
            "not valid TOML: it is nested too deep",
            code="invalid-toml",
            where=path,
            fix="write fewer tables inside one another",
        ) from error
    except ValidationError as error:
        raise FerError(
            first_fault(error),
            code="invalid-config",
            where=path,
            allowed="version, profile, faces_in_ui, keep_recordings_days, [roots], [profiles.NAME]",
            fix="correct that field; docs/reference.md lists what fer.toml may hold",
        ) from error


def _refuse_control(node: Any, path: Path, key: str = "") -> None:
    """Refuse control characters, as TOML makes them of a Windows path with backslashes."""
    if isinstance(node, str) and any(character < " " for character in node):
        raise FerError(
            f"{key} has a control character: {node!r}",
            code="control-character",
            where=path,
            fix=WINDOWS_PATH,
        )
    parts = dict(enumerate(node)) if isinstance(node, list) else node
    for name, value in parts.items() if isinstance(parts, dict) else ():
        _refuse_control(value, path, f"{key}.{name}" if key else str(name))


@cache
def settings() -> Settings:
    """Return the cached settings; after a change of a variable call ``settings.cache_clear()``."""
    project, variables = find_project(), environment()
    config = read_config(project / CONFIG_FILE)
    bucket = variables.FER_HOME if variables.FER_HOME and "://" in variables.FER_HOME else None
    home = variables.FER_CACHE if bucket else variables.FER_HOME
    return Settings(
        project=project,
        dagster_home=variables.DAGSTER_HOME or project / "dagster_home",
        home=Path(home or project / "outputs"),
        bucket=bucket,
        profile=variables.FER_PROFILE or config.profile or "sample",
        device=variables.FER_DEVICE,
        processes=variables.FER_PROCESSES,
        config=config,
        notify=Notifiers(
            webhook=variables.FER_WEBHOOK,
            smtp=variables.FER_SMTP,
            mail_to=variables.mail_to,
            mail_from=variables.FER_MAIL_FROM,
        ),
        json_log=variables.FER_LOG == "json",
        tracing=any(getattr(variables, name) for name in OTLP_ENDPOINTS),
    )


def ray_address() -> tuple[str, int] | None:
    """Return host and port of ``RAY_ADDRESS`` (``HOST:PORT`` or ``ray://...``), or ``None``."""
    named = environment().RAY_ADDRESS
    if not named or named == "auto":
        return None
    try:
        parts = urlsplit(named if "://" in named else f"//{named}")
        place = parts.hostname, parts.port
    except ValueError:
        place = None, None
    if place[0] is None or place[1] is None:
        raise FerError(f"RAY_ADDRESS is {named!r}", code="invalid-setting", allowed="HOST:PORT")
    return place[0], place[1]
