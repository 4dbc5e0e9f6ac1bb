"""``fer doctor --bundle``: what a maintainer needs to help, without data, faces, names or secrets.

The content is an allow-list, never the rest after removing suspicious values. It contains numbers,
hashes, times, the platform's own definitions (fields, rules, built-in recipes), and the names of
profiles, assets and partitions, which the graph shows to everybody. Paths, file names that people
chose, rows, sentences, examples and messages are left out. At the end all bytes are searched for
secrets and folders of this machine.
"""

import json
import os
import platform
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fer_assets.doctor import PACKAGES, Finding
from fer_assets.pipeline import Pipeline
from fer_ml.base.errors import FerError
from fer_ml.base.files import write_atomic
from fer_ml.base.logs import LOG_FOLDER, log_files
from fer_ml.base.plain_yaml import read_plain
from fer_ml.base.reading import read_file, read_text
from fer_ml.recipes.builtin import PROFILES
from fer_ml.storage.artifact import Artifact

#: Findings that say something of the machine, and nothing of its folders.
SHOWN_FINDINGS = frozenset({"python", "processor", "GPU", "packages", "half-written runs", "video"})
#: Of dagster.yaml: keys whose text is kept. ``env`` names a variable and not its value.
SHOWN_YAML = frozenset({"module", "class", "env", "python_log_level", "managed_python_loggers"})
#: Variables of which is told whether they are set.
VARIABLES = re.compile(r"(FER|DAGSTER|OTEL)_\w+")
#: Variables whose value is a secret, or holds one.
SECRET = re.compile(
    r"SECRET|PASSW|TOKEN|KEY|SMTP|MAIL|WEBHOOK|POSTGRES|DSN|CREDENTIAL|HEADERS|AUTH(?!OR)|_URL$|_URI$"
)
#: A shorter value would be found by chance.
MIN_SECRET = 6
LOG_LINES = 2000
LOG_FIELDS = (
    *("time", "level", "logger", "event", "process", "run", "profile", "asset", "partition"),
    *("step", "error", "frames"),
)
#: Assets whose files, and whose partitions, have names that people chose.
NAMED_BY_PEOPLE = ("adopted", "report")
LEFT_OUT = [
    "raw data, images, faces, rows, predictions and weights",
    "paths, and names of files that people chose",
    "what logs and gates say: messages, details, examples",
    "claims, templates and reports",
    "values of variables",
]


def write_bundle(pipeline: Pipeline, findings: Collection[Finding], path: Path) -> list[str]:
    """Write a zip with a ``manifest.json`` of its content; return the names of its files.

    Raises ``FerError``, and writes nothing, if the file exists, or if the zip would contain a
    secret or a folder of this machine.
    """
    if path.exists():
        raise FerError(
            "the output exists already", code="output-exists", where=path, fix="name a new file"
        )
    parts = {
        "versions.json": ("versions of Python and packages", _versions()),
        "findings.json": ("what fer doctor found", _findings(findings)),
        "settings.json": ("which settings are set, and the profile", _settings(pipeline)),
        "graph.json": ("the assets, their inputs and gates", _graph(pipeline)),
        "artifacts.json": ("records and receipts of current artifacts", _artifacts(pipeline)),
        "dagster.json": ("the shape of dagster.yaml", _dagster_yaml(pipeline)),
        "logs.json": (f"the last {LOG_LINES} lines of the log", list(_log_lines(pipeline))),
    }
    adopted = [t.partition for t in pipeline.targets() if t.asset == "adopted" and t.partition]
    files = {
        name: _unnamed(json.dumps(value, indent=1), adopted).encode()
        for name, (_, value) in parts.items()
    }
    manifest = {
        "schema_version": 1,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {
            name: {"holds": parts[name][0], "bytes": len(data), "sha256": sha256(data).hexdigest()}
            for name, data in files.items()
        },
        "left_out": LEFT_OUT,
    }
    files = {"manifest.json": json.dumps(manifest, indent=1).encode(), **files}
    _refuse_secrets(pipeline, files)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    write_atomic(path, buffer.getvalue())
    return list(files)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "system": platform.system()}
    for name in ("fer-platform", *PACKAGES, "opentelemetry-sdk"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _findings(findings: Collection[Finding]) -> list[dict[str, str]]:
    return [
        {"state": f.state, "what": f.what, "found": f.found if f.what in SHOWN_FINDINGS else ""}
        for f in findings
    ]


def _settings(pipeline: Pipeline) -> dict[str, Any]:
    config, words = pipeline.settings.config, _words(pipeline)
    return {
        "set": sorted(name for name in os.environ if VARIABLES.fullmatch(name)),
        "notices": list(pipeline.settings.notify.ways),
        "tracing": pipeline.settings.tracing,
        "faces_in_ui": config.faces_in_ui,
        "keep_recordings_days": config.keep_recordings_days,
        "own_profiles": len(config.profiles),
        "roots": len(config.roots),
        "profile": _harmless(pipeline.profile.model_dump(mode="json"), words),
    }


def _graph(pipeline: Pipeline) -> list[dict[str, Any]]:
    return [
        {
            "asset": stage.asset,
            "group": stage.group,
            "code_version": stage.code_version,
            "partitions": stage.partitions and pipeline.partitions(stage),
            "inputs": [[need.asset, need.partition] for need in stage.needs],
            "raw": stage.raw is not None,
            "gates": [gate.rule for gate in stage.gates],
        }
        for stage in pipeline.stages.values()
    ]


def _artifacts(pipeline: Pipeline) -> list[dict[str, Any]]:
    words, entries = _words(pipeline), []
    for target in pipeline.targets():
        try:
            artifact = pipeline.store.current(target.asset, target.partition)
        except FerError:
            entries.append(
                {"asset": target.asset, "partition": target.partition, "unreadable": True}
            )
            continue
        if artifact is not None:
            entries.append(_artifact(artifact, words))
    return entries


def _artifact(artifact: Artifact, words: Collection[str]) -> dict[str, Any]:
    record = artifact.record
    plain = record.model_dump(mode="json", exclude={"files", "inputs", "recipe", "summary"})
    named_by_people = record.asset.startswith(NAMED_BY_PEOPLE)
    return {
        **plain,
        "files": {
            f"{number}{Path(name).suffix}" if named_by_people else name: entry.model_dump()
            for number, (name, entry) in enumerate(record.files.items())
        },
        "inputs": [item.model_dump(exclude={"root"}) for item in record.inputs],
        "recipe": _harmless(record.recipe, words),
        "summary": {
            key: value for key, value in record.summary.items() if isinstance(value, int | float)
        },
        "receipts": [
            {
                "rule": receipt.rule,
                "blocking": receipt.blocking,
                "passed": receipt.passed,
                "value": _harmless(receipt.value, words),
                "limit": _harmless(receipt.limit, words),
                "checked_at": receipt.checked_at,
                "run_id": receipt.run_id,
            }
            for receipt in artifact.receipts().values()
        ],
    }


def _dagster_yaml(pipeline: Pipeline) -> Any:
    path = pipeline.settings.dagster_home / "dagster.yaml"
    try:
        return _shape(read_plain(read_file(path)))
    except (OSError, FerError, ValueError) as error:
        return {"unreadable": type(error).__name__}


def _shape(value: Any, key: str = "") -> Any:
    """Return a YAML value; text is kept only if it is a number, yes or no, or at ``SHOWN_YAML``."""
    if isinstance(value, dict):
        return {name: _shape(element, name) for name, element in value.items()}
    if isinstance(value, list):
        return [_shape(element, key) for element in value]
    plain = value is None or re.fullmatch(r"-?\d+(\.\d+)?|true|false", value)
    shown = key in SHOWN_YAML or (plain and not SECRET.search(key.upper()))
    return value if shown else "<text>"


def _log_lines(pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    files = log_files(pipeline.settings.home / LOG_FOLDER)
    lines = chain.from_iterable(read_text(path).splitlines() for path in files)
    for line in list(lines)[-LOG_LINES:]:
        try:
            record = json.loads(line)
            yield {name: record[name] for name in LOG_FIELDS if record.get(name) is not None}
        except (ValueError, AttributeError):
            yield {"unreadable": True}  # Half a line, of a process that was killed.


def _words(pipeline: Pipeline) -> frozenset[str]:
    """Return permitted texts: built-in profiles' fields and texts, asset and partition names."""
    built_in = (profile().model_dump(mode="json") for profile in PROFILES.values())
    targets = list(pipeline.targets())
    named = {name for target in targets for name in (target.asset, target.partition) if name}
    sources = {source.name for source in pipeline.profile.sources}
    fields = set(pipeline.profile.model_dump(mode="json")) | {"purged", "adapter", "options"}
    return frozenset({*chain.from_iterable(map(_texts, built_in)), *named, *sources, *fields})


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        yield from chain.from_iterable(map(_texts, value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_texts, value))


def _harmless(value: Any, words: Collection[str]) -> Any:
    """Return ``value`` without any text that is not among ``words``."""
    if isinstance(value, str):
        return value if value in words else "<text>"
    if isinstance(value, Mapping):
        return {
            key if key in words else f"<text {number}>": _harmless(element, words)
            for number, (key, element) in enumerate(value.items())
        }
    if isinstance(value, list | tuple):
        return [_harmless(element, words) for element in value]
    return value


def _unnamed(text: str, names: list[str]) -> str:
    """Return the text with adopted results numbered, because their names may be file names."""
    for number, name in enumerate(sorted(names, key=len, reverse=True)):
        text = re.sub(
            rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", f"adopted{number}", text
        )
    return text


def _refuse_secrets(pipeline: Pipeline, files: Mapping[str, bytes]) -> None:
    """Raise ``FerError`` if a secret is left; it names the variable or setting, never the value."""
    secrets = {name: secret for name, secret in os.environ.items() if SECRET.search(name.upper())}
    for name, secret in list(secrets.items()):
        if "://" in secret:
            password = urlsplit(secret).password
            secrets |= {f"{name} (its password)": unquote(password)} if password else {}
    folders = {f"roots.{name}": root for name, root in pipeline.settings.config.roots.items()}
    secrets |= {**folders, "FER_HOME": str(pipeline.settings.home)}
    for what, secret in secrets.items():
        if len(secret) < MIN_SECRET:
            continue
        for name, data in files.items():
            if secret.encode() in data or json.dumps(secret)[1:-1].encode() in data:
                raise FerError(
                    f"{name} would hold the value of {what}",
                    code="secret-in-support-file",
                    fix="nothing was written; please tell the maintainers which file it was",
                )
