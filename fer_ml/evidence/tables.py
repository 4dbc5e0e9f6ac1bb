"""Csv files of artifacts for the evidence pages: slices of their own lines, loaded on demand.

A page opened from a folder may load scripts and no other file, so a slice is a script that hands
its text over. The joined slices are the whole file; the page compares its sha256 with the record.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.reading import as_text, read_file
from fer_ml.evidence.rows import NoRows, Rows, is_whole, manifest_file
from fer_ml.manifests.schema import BOX
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store

#: A slice has at most so many rows, and about so many bytes.
SLICE_ROWS, SLICE_BYTES = 2000, 500_000
#: What a page shows of a face, from its manifest.
FACE = (
    *("image_path", "label", "split", "source", "orig_image", *BOX, "bbox_frame"),
    *("sample_id", "group_id", "votes", "twin_in"),
)
#: The first letter that names a combination of manifests.
_LETTERS = 0x100
#: What makes a row of predictions and one of a manifest the same face.
KEYS = ["sample_id", "source"]


@dataclass(frozen=True)
class Answers:
    """A file of predictions, with its model and the manifest of its rows."""

    file: str
    model: str
    manifest: Artifact
    temperature: float


@dataclass(frozen=True)
class Table:
    """A page's description of a table before it loads rows; ``faces`` names the table of its faces.

    ``asset`` and ``file`` give the source; a joined table has no ``sha256``.
    """

    asset: str
    file: str
    kind: str
    header: list[str]
    rows: int
    size: int
    sha256: str = ""
    name: str = ""
    faces: str = ""
    manifest: str = ""
    temperature: float = 1.0


class Tables:
    """Tables in the folder ``data`` of the pages, each written once under the hash of its bytes.

    ``images`` are the pictures of the image pool that their rows name.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.known: dict[str, Table] = {}
        self.images: set[str] = set()
        self._store = store
        self._folder = folder
        self._manifests: dict[str, pl.DataFrame] = {}
        self._answers: dict[str, dict[str, Answers]] = {}
        self._keys: dict[str, pl.DataFrame] = {}

    def to_json(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the descriptions of these tables and of the tables of their faces."""
        every = dict.fromkeys(n for name in names for n in (name, self.known[name].faces) if n)
        return {name: asdict(self.known[name]) for name in every}

    def add(self, rows: Rows) -> str:
        """Write the table with these rows and its faces, if needed; return its name."""
        artifact, file = rows.artifact, rows.file
        entry = artifact.record.files[file]
        name = hashlib.sha256(f"{artifact.key}/{file}/{entry.sha256}".encode()).hexdigest()[:20]
        if name in self.known:
            return name
        data = read_file(artifact.file(file), entry.bytes)
        answers = self._answers_in(artifact).get(file)
        about: dict[str, Any] = {"asset": artifact.key, "file": file, "sha256": entry.sha256}
        if answers is not None:
            faces = self._faces(answers, data)
            about |= {"kind": "predictions", "name": answers.model, "faces": faces}
            about |= {"manifest": answers.manifest.key, "temperature": answers.temperature}
        else:
            about["kind"] = "session" if file == "per_frame.csv" else "rows"
        self._write(name, data, about)
        return name

    def beside(self, rows: Rows) -> list[str]:
        """Return the tables of every model that predicted the same rows, that of ``rows`` first."""
        name = self.add(rows)
        answers = self._answers_in(rows.artifact)
        if rows.file not in answers:
            return [name]
        names = [name]
        count = self.known[name].rows
        for file in answers:
            # Only one of as many rows can be of the same; the join tells.
            alike = file.rpartition("__")[2] == rows.file.rpartition("__")[2]
            if alike and is_whole(rows.artifact, file):
                other = self.add(Rows(rows.artifact, file))
                same = self.known[other].faces == self.known[name].faces
                if other != name and same and self.known[other].rows == count:
                    names.append(other)
        return names

    def write_manifests(self) -> None:
        """Write for each table of faces which current manifests have each row, and in which split.

        ``<table>.in.js`` holds every combination once, and one letter per row that names its
        combination.
        """
        splits = [
            columns_of(made, [*KEYS, "split"])
            .unique(KEYS, keep="first")
            .with_columns(pl.format("{} {}", pl.lit(made.key), pl.col("split")).alias(made.key))
            .drop("split")
            for made in manifests_of(self._store)
        ]
        for name, rows in self._keys.items():
            frame = rows
            for each in splits:
                frame = frame.join(each, on=KEYS, how="left", maintain_order="left")
            labels = frame.select(
                pl.concat_str(
                    pl.lit(None, pl.String), pl.exclude(KEYS), separator="\n", ignore_nulls=True
                )
            )
            kinds = {
                kind: place
                for place, kind in enumerate(labels.to_series().unique(maintain_order=True))
            }
            letters = "".join(chr(_LETTERS + kinds[kind]) for kind in labels.to_series())
            held_in = [kind.split("\n") if kind else [] for kind in kinds]
            text = json.dumps([held_in, letters], ensure_ascii=False)
            path = self._folder / f"{name}.in.js"
            path.write_text(f'fer.rows("{name}", "in", {text});\n', encoding="utf-8")

    def purged(self, photos: Mapping[str, str]) -> dict[str, str]:
        """Return when a face was purged, by sample and by photo; ``photos`` are keyed by hash."""
        dates = dict(photos)
        # In the manifest of a source a photo is its own group.
        made_of = manifests_of(self._store) if photos else ()
        for made in (
            manifest for manifest in made_of if manifest.record.asset.startswith("manifest/")
        ):
            rows = columns_of(made, ["sample_id", "group_id"])
            gone = rows.filter(pl.col("group_id").is_in(list(photos)))
            dates |= {sample: photos[photo] for sample, photo in gone.iter_rows()}
        return {face: at[:10] for face, at in dates.items()}

    def _answers_in(self, artifact: Artifact) -> dict[str, Answers]:
        if artifact.sha256 not in self._answers:
            predictions = answers_of(self._store, artifact)
            self._answers[artifact.sha256] = {answers.file: answers for answers in predictions}
        return self._answers[artifact.sha256]

    def _faces(self, answers: Answers, data: bytes) -> str:
        """Write the manifest's rows for predictions, in the same order; return the table's name."""
        asked = pl.read_csv(io.BytesIO(data), infer_schema=False).select(KEYS)
        table = asked.join(
            self._manifest(answers.manifest), on=KEYS, how="left", maintain_order="left"
        )
        text = table.write_csv().encode()
        name = f"faces-{hashlib.sha256(text).hexdigest()[:20]}"
        if name not in self.known:
            file = manifest_file(answers.manifest)
            self._write(name, text, {"asset": answers.manifest.key, "file": file, "kind": "rows"})
        return name

    def _manifest(self, manifest: Artifact) -> pl.DataFrame:
        if manifest.sha256 not in self._manifests:
            rows = columns_of(manifest, FACE).unique(KEYS, keep="first")
            self._manifests[manifest.sha256] = rows
        return self._manifests[manifest.sha256]

    def _write(self, name: str, data: bytes, about: dict[str, Any]) -> None:
        records = _records(data)
        header = next(csv.reader([records[0].decode()]), []) if records else []
        rows = max(0, len(records) - 1)
        size = max(1, min(SLICE_ROWS, SLICE_BYTES * max(1, rows) // (len(data) or 1)))
        self.known[name] = Table(header=header, rows=rows, size=size, **about)
        for place, start in enumerate(range(1, max(rows, 1) + 1, size)):
            part = records[start if place else 0 : start + size]
            text = json.dumps(b"".join(part).decode("utf-8", "replace"))
            path = self._folder / f"{name}.{place}.js"
            path.write_text(f'fer.rows("{name}", {place}, {text});\n', encoding="utf-8")
        known = [column for column in ("image_path", *KEYS) if column in header]
        if known:
            frame = pl.read_csv(io.BytesIO(data), infer_schema=False, columns=known)
            self.images |= set(frame["image_path"].drop_nulls() if "image_path" in header else ())
            if set(KEYS) <= set(header) and about["kind"] != "predictions":
                self._keys[name] = frame.select(KEYS)


def current_of(store: Store) -> Iterator[Artifact]:
    """Yield every current artifact."""
    places = {}
    for folder in store.runs():
        with suppress(FerError):  # What is wrong with it the claims on it say.
            record = store.open(folder).record
            places[record.asset, record.partition] = record
    for asset, partition in places:
        with suppress(FerError):
            if (artifact := store.current(asset, partition)) is not None:
                yield artifact


def manifests_of(store: Store) -> Iterator[Artifact]:
    """Yield every current manifest whose bytes match its record."""
    return (
        artifact
        for artifact in current_of(store)
        if is_manifest(artifact) and artifact.damage() is None
    )


def is_manifest(artifact: Artifact) -> bool:
    """Return whether the artifact holds the rows of a manifest."""
    try:
        return bool(manifest_file(artifact))
    except NoRows:
        return False


def columns_of(manifest: Artifact, columns: Iterable[str]) -> pl.DataFrame:
    """Return columns of a manifest, as far as it has them."""
    path = manifest.file(manifest_file(manifest))
    frame = pl.scan_csv(as_text(path), glob=False, infer_schema=False)
    known = frame.collect_schema()
    return frame.select([name for name in columns if name in known]).collect()


def _records(data: bytes) -> list[bytes]:
    """Split a csv into records with their line ends; a line break inside quotes ends none."""
    lines = io.BytesIO(data).readlines()
    if b'"' not in data:
        return lines
    records: list[bytes] = []
    whole = True
    for line in lines:
        if whole:
            records.append(line)
        else:
            records[-1] += line
        whole ^= line.count(b'"') % 2 == 1
    return records


def answers_of(store: Store, artifact: Artifact) -> Iterator[Answers]:
    """Yield the known files of predictions of a benchmark, a comparison or a training."""
    inputs = {item.key: item for item in artifact.record.inputs}
    for file, model, manifest, temperature in _listed_predictions(artifact):
        item = inputs.get(manifest)
        manifest_artifact = store.find(item.asset, item.partition, item.sha256) if item else None
        if file not in artifact.record.files or manifest_artifact is None:
            continue
        if is_whole(manifest_artifact, manifest_file(manifest_artifact)):
            yield Answers(file, model, manifest_artifact, temperature)


def _listed_predictions(artifact: Artifact) -> Iterator[tuple[str, str, str, float]]:
    """Yield file, model, manifest and temperature of every file of predictions that is listed."""
    files = artifact.record.files
    if "benchmark.json" in files:
        for model, sets in artifact.read_json("benchmark.json")["entries"].items():
            for name, entry in sets.items():
                file = f"predictions/{model}__{name}.csv"
                yield file, model, entry["manifest"], entry.get("temperature", 1.0)
    elif "comparison.json" in files:
        report = artifact.read_json("comparison.json")
        for model, run in report["experiments"].items():
            yield f"predictions/{model}.csv", model, report["manifest"], run["temperature"]
    elif "reliabilitymetrics.json" in files:
        report = artifact.read_json("reliabilitymetrics.json")
        scaled = report["temperature_scaled"].get("global_temperature", 1.0)
        yield f"predictions_{report['split']}.csv", artifact.key, "hq_train_manifest", scaled
