"""Look a face up: the manifests that contain it, the models' answers, and the claims on it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import as_text
from fer_ml.claims.trace import walk
from fer_ml.evidence.rows import Evidence, Rows
from fer_ml.evidence.tables import FACE, KEYS, answers_of, columns_of, current_of, manifests_of
from fer_ml.metrics.classification import softmax
from fer_ml.metrics.predictions import LOGITS
from fer_ml.privacy.log import Log
from fer_ml.privacy.purge import rows_meant
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store

#: Faces that one name may mean: a photo with several, or the same face in several sources.
MOST = 50


@dataclass(frozen=True)
class Said:
    """A model's answer for a face; ``confidence`` is scaled by the model's temperature, in 0..1."""

    model: str
    file: str
    says: str
    confidence: float
    right: bool


@dataclass(frozen=True)
class Rests:
    """A claim on a face: with ``counts`` its number has the face as a row, else its lineage."""

    id: str
    sentence: str
    status: str
    counts: bool


@dataclass(frozen=True)
class Face:
    """A face with its row of a manifest; ``splits`` gives its split in each manifest.

    ``purged`` is the day on which its photo was purged; since then no picture of it is kept.
    """

    row: Mapping[str, str]
    purged: str | None
    raw: str
    splits: Mapping[str, str]
    said: tuple[Said, ...]
    claims: tuple[Rests, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the face as JSON values."""
        return asdict(self)


def find_faces(store: Store, what: str, evidence: Iterable[Evidence], log: Log) -> list[Face]:
    """Find faces by a sample's or photo's hash, a manifest's path, or an image file; maybe none.

    ``log`` says which photos were purged.
    """
    current = list(current_of(store))
    frames = [(made, columns_of(made, FACE)) for made in manifests_of(store)]
    try:
        meant = rows_meant(what) | (pl.col("orig_image") == what)
    except FerError:
        return []  # A file that is no image shows no face.
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for artifact, frame in frames:
        # There a photo is its own group; unified, groups hold several.
        if artifact.record.asset.startswith("manifest/"):
            for row in frame.filter(meant).iter_rows(named=True):
                rows.setdefault((row["sample_id"], row["source"]), row)
    if len(rows) > MOST:
        raise FerError(
            f"{what!r} matches {len(rows)} faces",
            code="ambiguous-name",
            fix="give more digits of the hash",
        )
    claims, finder = list(evidence), _Finder(store, current, [sample for sample, _ in rows], log)
    return [finder.face(key, row, frames, claims) for key, row in rows.items()]


class _Finder:
    """Looks up faces by sample; each file is read once."""

    def __init__(self, store: Store, current: list[Artifact], samples: list[str], log: Log) -> None:
        self._samples = samples
        self._purged = log.photos()
        self._answers = [(a, answers) for a in current for answers in answers_of(store, a)]
        self._tables: dict[tuple[str, str], dict[tuple[str, str], dict[str, str]]] = {}

    def face(
        self,
        key: tuple[str, str],
        row: dict[str, str],
        frames: list[tuple[Artifact, pl.DataFrame]],
        claims: list[Evidence],
    ) -> Face:
        splits: dict[str, str] = {}
        manifests = set()
        raw = row["orig_image"]
        for artifact, frame in frames:
            matches = frame.filter((pl.col("sample_id") == key[0]) & (pl.col("source") == key[1]))
            if not matches.is_empty():
                splits[artifact.key] = matches["split"][0]
                manifests.add((artifact.key, artifact.sha256))
                root = next((i.root for i in artifact.record.inputs if i.root), None)
                raw = f"{root}/{raw}" if root else raw
        return Face(
            {name: value for name, value in row.items() if value is not None},
            (self._purged.get(row["group_id"]) or "")[:10] or None,
            raw,
            splits,
            tuple(self._said(key, row["label"])),
            tuple(self._rests(key, claims, manifests)),
        )

    def _said(self, key: tuple[str, str], label: str) -> Iterator[Said]:
        for artifact, answers in self._answers:
            row = self._table(artifact, answers.file).get(key)
            if row is not None:
                logits = np.array([[float(row[name]) for name in LOGITS]])
                probs = softmax(logits, answers.temperature)[0]
                says = CLASSES[int(probs.argmax())]
                file = f"{artifact.key} {answers.file}"
                yield Said(answers.model, file, says, float(probs.max()), says == label)

    def _rests(
        self, key: tuple[str, str], claims: list[Evidence], manifests: set[tuple[str, str]]
    ) -> Iterator[Rests]:
        for each in claims:
            counts = any(self._counts(key, t.rows) for f in each.figures for t in f.terms)
            steps = {node.identity for node in walk(each.resolved.traces)}
            if counts or steps & manifests:
                resolved = each.resolved
                yield Rests(resolved.claim.id, resolved.sentence(), resolved.status, counts)

    def _table(self, artifact: Artifact, file: str) -> dict[tuple[str, str], dict[str, str]]:
        place = (str(artifact.folder), file)
        if place not in self._tables:
            self._tables[place] = self._rows(artifact, file)
        return self._tables[place]

    def _rows(self, artifact: Artifact, file: str) -> dict[tuple[str, str], dict[str, str]]:
        """Return the rows of a csv that belong to the samples; none if it has no sample column."""
        frame = pl.scan_csv(as_text(artifact.file(file)), glob=False, infer_schema=False)
        if not set(KEYS) <= set(frame.collect_schema()):
            return {}
        meant = frame.filter(pl.col("sample_id").is_in(self._samples)).collect().fill_null("")
        return {(row["sample_id"], row["source"]): row for row in meant.iter_rows(named=True)}

    def _counts(self, key: tuple[str, str], rows: Rows) -> bool:
        row = self._table(rows.artifact, rows.file).get(key)
        if row is None or (rows.unlabelled and row.get("label") in CLASSES):
            return False
        return all(row[column] == text for column, text in rows.where.items())
