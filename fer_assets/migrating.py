"""``fer migrate``: bring a project of an earlier version up to date.

Files written by a person (``fer.toml``, claims) are rewritten, and the old file is kept beside
each. Dagster's database is migrated to the current schema, and a copy is kept. Artifacts are never
changed: their files are immutable and hashed, so old ones are read as they are, or made again.
"""

import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fer_assets.pipeline import Pipeline
from fer_assets.storage import dagster_instance
from fer_ml.base.errors import FerError
from fer_ml.base.files import write_atomic
from fer_ml.base.plain_yaml import read_plain
from fer_ml.base.reading import read_file, regular
from fer_ml.base.settings import CONFIG_FILE, Settings
from fer_ml.base.versions import upgraded, versions_of


@dataclass(frozen=True)
class Change:
    """One change of a migration: its object, a description, and the function that does it."""

    where: Path
    what: str
    carry_out: Callable[[], None]


def changes(settings: Settings) -> Iterator[Change]:
    """Yield all pending changes; nothing is changed until a change is carried out.

    Each change is atomic, so a later migration finds whatever an interrupted one left.
    """
    yield from _text(settings.project / CONFIG_FILE, "fer.toml", _parse_toml, _new_toml)
    for path in sorted((settings.project / "claims").glob("*.yaml")):
        yield from _text(path, "claims", _parse_claims, _new_claims)
    yield from _dagster(settings.dagster_home)


def made_again(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Yield the artifacts that this version makes again because code or recipe changed, and why.

    Bytes and raw folders are not checked here; ``fer materialize`` checks them.
    """
    for target in pipeline.targets():
        artifact = pipeline.store.current(target.asset, target.partition)
        if artifact is None:
            continue
        now = pipeline.stage(target.asset).code_version
        if artifact.record.code_version != now:
            yield target.label, f"code version {artifact.record.code_version} is now {now}"


def _text(
    path: Path,
    kind: str,
    parse: Callable[[str], dict[str, Any]],
    rewrite: Callable[[str], str],
) -> Iterator[Change]:
    """Return the change of a file that a person wrote, line by line so that comments stay.

    Raises ``FerError`` if the new text does not mean exactly the same as the old one.
    """
    if not path.is_file():
        return
    text = read_file(path).decode("utf-8-sig")
    document = parse(text)
    wanted = upgraded(kind, document, path, "version")
    version, written = str(document.get("version", 1)), versions_of(kind).written
    if version == str(written) or wanted == {**document, "version": written}:
        return
    new = rewrite(text)
    if upgraded(kind, parse(new), path, "version") != wanted or parse(new).get("version") is None:
        raise FerError(
            f"the file ({kind}, version {version}) cannot be rewritten automatically",
            code="not-rewritable",
            where=path,
            fix="use it as it is: earlier versions are read; or see docs/operate.md#upgrades",
        )

    def carry_out() -> None:
        shutil.copy2(regular(path), path.with_name(f"{path.name}.v{version}"))
        write_atomic(path, new.encode())

    yield Change(path, f"version {version} to {written}, kept as {path.name}.v{version}", carry_out)


def _parse_toml(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def _new_toml(text: str) -> str:
    for old, new in (
        (r"\bunique(\s*=\s*)true\b", r'one_per\1"sample"'),
        (r"(?m)^\s*unique\s*=\s*false\s*$\n?|,\s*unique\s*=\s*false\b", ""),
        (r"\bbf16(\s*=\s*)true\b", r'precision\1"bf16"'),
        (r"\bbf16(\s*=\s*)false\b", r'precision\1"fp32"'),
        (r"\baugment(\s*=\s*[\d.])", r"strength\1"),
    ):
        text = re.sub(old, new, text)
    text = re.sub(_MARGIN, _frame, text)
    text = re.sub(r"(?m)^version\s*=.*\n", "", text)
    return f"version = {versions_of('fer.toml').written}\n{text}"


#: The margin of a preprocessing, inline or in a table of its own; ArcFace has a margin too.
_MARGIN = (
    r"((?:\bpreprocess\s*=\s*\{|\[profiles\.[^\]\n]*\bpreprocess\]\s*\n)[^}\[]*?)"
    r"\bmargin\s*=\s*([\d.]+)"
)


def _frame(match: re.Match[str]) -> str:
    return f"{match[1]}frame = {{ side = {round(1 + 2 * float(match[2]), 10)} }}"


def _parse_claims(text: str) -> dict[str, Any]:
    document = read_plain(text.encode())
    if not isinstance(document, dict):
        raise FerError(
            "the claims file is not a mapping of keys to values",
            code="invalid-claims-file",
            allowed="version, title, claims",
        )
    return {**document, "version": int(document["version"])}


def _new_claims(text: str) -> str:
    head, *claims = re.split(r"(?m)^(?=\s*- id:)", text)
    head = re.sub(r"(?m)^version:\s*1\b", f"version: {versions_of('claims').written}", head)
    return head + "".join(map(_new_claim, claims))


def _new_claim(text: str) -> str:
    text = re.sub(r"(?m)^(\s*)n_pointer:", r"\1n:", text)
    if not re.search(r"(?m)^\s+kind:", text):
        text = re.sub(r"^((\s*)- id:.*\n)", r"\1\2  kind: number\n", text)
    printed = re.search(r"(?m)^\s+expected:", text)
    if printed:
        # How it is printed follows from two lines of the claim as it is read.
        (claim,) = upgraded("claims", {"claims": read_plain(text.encode())}, "claims")["claims"]
        text = re.sub(r"(?m)^\s+decimals:.*\n", "", text)
        text = re.sub(r"(?m)^(\s+expected:).*$", rf'\1 "{claim["expected"]}"', text)
    return text


def _dagster(home: Path) -> Iterator[Change]:
    """Return the migration of Dagster's database, if there is one with an older schema."""
    if not (home / "history").is_dir():
        return
    with dagster_instance() as instance:
        stores = (
            instance.run_storage,
            instance.event_log_storage,
            instance.schedule_storage,
        )
        versions = [store.alembic_version() for store in stores if store is not None]
    if all(version is None or version[0] == version[1] for version in versions):
        return
    kept = home / f"before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

    def carry_out() -> None:
        for name in ("history", "schedules"):
            if (home / name).is_dir():
                shutil.copytree(home / name, kept / name)
        with dagster_instance() as instance:
            instance.upgrade()

    yield Change(home, f"Dagster's database to its schema, kept in {kept.name}", carry_out)
