"""Is a new student better than the one that ships? On val, where choices are made.

python benchmarks/successor.py --home FOLDER --before FOLDER [--ships FOLDER] [--docs FILE]

``--home`` is the artifact root of a finished run (``outputs/ferplus_best``). Its selected student,
in the precision that ships, and the one that ships now are measured on the same faces of val, which
both annotators label: by FER+'s majority, corrupted as by a camera, and by FER2013's label. The new
one is better if the means of its three macro-F1 and of its three accuracies are higher, and no
macro-F1 is lower by an interval below zero. No test face is read. Exit code 1: the old one stays.

``--before`` is the artifact root of the run that trained the one that ships: its split may be
another one, and faces whose group it trained on are left out. Only the training manifest that the
card names by its hash is read of it. Where the run is gone, ``fer materialize --select manifests``
makes it again, in a checkout of the commit of that time.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from choices import HQ, SETS, Measured, measured_on

from demo_app.shipped import SHIPPED
from fer_ml.base.errors import FerError
from fer_ml.bundles.bundle import Bundle, load_bundle
from fer_ml.figures.measurements import write_part
from fer_ml.manifests.curation import UNIFIED, manifest_file
from fer_ml.manifests.schema import read_manifest
from fer_ml.metrics.resampling import Difference, group_sums, paired_difference, resampled_metrics
from fer_ml.storage.store import Store

BATCH = 64
METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy", "ece": "ECE"}


def trained_on(before: Path, ships: Bundle) -> pl.Series:
    """Return the ``sample_id`` of the faces that the student ``ships`` was trained on."""
    inputs = {each["asset"]: each["sha256"] for each in ships.card.lineage.get("inputs", ())}
    wanted = inputs.get(HQ, "unknown")
    held = Store(before, before.name).find(HQ, None, wanted)
    if held is None or held.damage():
        raise FerError(
            f"the run has not the {HQ} that {ships.card.name} was trained on",
            code="asset-not-made",
            where=before,
            allowed=f"sha256 {wanted}",
            fix="make it in a checkout of the commit of that time: fer materialize",
        )
    rows = pl.read_csv(held.file(manifest_file(HQ)), columns=["sample_id", "split"])
    return rows.filter(pl.col("split") == "train")["sample_id"]


def val_of(home: Path, seen: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Return the rows of val that have a label in FER2013 too, and FER2013's rows.

    Rows of a group with a face among ``seen`` are left out; their number comes last.
    """
    store = Store(home, home.name)
    rows = read_manifest(store.verified(HQ).file(manifest_file(HQ)))
    unified = read_manifest(store.verified(UNIFIED).file(manifest_file(UNIFIED)))
    other = unified.filter(pl.col("source") == "fer2013").unique("sample_id", keep="first")
    if not rows["sample_id"].is_in(seen.implode()).any():
        raise FerError(
            "the runs name no face alike, so which ones the old student knew cannot be told",
            code="other-sample-ids",
            where=home,
            fix="make both runs of the same sources, with identities of one kind",
        )
    val = rows.filter(pl.col("split") == "val", pl.col("twin_in").is_null())
    val = val.filter(pl.col("sample_id").is_in(other["sample_id"].implode()))
    known = val.filter(pl.col("sample_id").is_in(seen.implode()))["group_id"]
    unseen = val.filter(~pl.col("group_id").is_in(known.implode()))
    return unseen, other, val.height - unseen.height


def sums_of(bundle: Bundle, asked: Measured) -> dict[str, np.ndarray]:
    """Return by set the sums of a bundle's answers, at its own temperature."""
    clean, hard = (
        np.concatenate(
            [
                bundle.logits(np.asarray(faces.images[start : start + BATCH]))
                for start in range(0, len(faces), BATCH)
            ]
        )
        / bundle.card.temperature
        for faces in (asked.clean, asked.spoilt)
    )
    logits = dict(zip(SETS, (clean, hard, clean), strict=True))
    return {name: group_sums(asked.labels[name], z, asked.groups) for name, z in logits.items()}


def is_better(gaps: dict[str, dict[str, Difference]]) -> bool:
    """Whether the new one replaces the other, by its differences on each set."""
    higher = [
        sum(gap[metric].value for gap in gaps.values()) > 0 for metric in ("macro_f1", "accuracy")
    ]
    return all(higher) and all(gap["macro_f1"].high >= 0 for gap in gaps.values())


def page(home: Path, before: Path, ships: Path) -> tuple[str, bool]:
    """Return the table of both students, and whether the new one is better."""
    new = Store(home, home.name).verified("small_bundles").file("fp16/card.json").parent
    bundles = load_bundle(new), load_bundle(ships)
    rows, other, left_out = val_of(home, trained_on(before, bundles[1]))
    with tempfile.TemporaryDirectory() as place:
        sums = [
            sums_of(each, measured_on(rows, other, home, Path(place), each.card.preprocess))
            for each in bundles
        ]
    one, two = (f"{each.card.name} of {each.card.profile}" for each in bundles)
    lines = [
        f"`python benchmarks/successor.py --home outputs/{home.name} --before FOLDER --docs "
        f"docs/results.md` compares {one}, the new one, with {two}, which ships until then. In "
        f"brackets: paired 95% intervals. {left_out} faces of val are left out, since the old one "
        "was trained on faces of their groups.",
        "",
        f"| faces of val (n = {rows.height:,}) | "
        + " | ".join(f"{name}, new | old | difference" for name in METRICS.values())
        + " |",
        f"| --- |{' ---: | ---: | --- |' * len(METRICS)}",
    ]
    gaps = {}
    for name in SETS:
        models = resampled_metrics(np.stack([each[name] for each in sums]))
        gaps[name], cells = paired_difference(models, 0, 1), []
        for metric in METRICS:
            (a, b), gap = models.value[metric], gaps[name][metric]
            shown = f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
            cells.append(f"{a:.3f} | {b:.3f} | {shown}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    better = is_better(gaps)
    lines += ["", f"So the {'new one ships' if better else 'old one stays'}."]
    return "\n".join(lines) + "\n", better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--ships", type=Path, default=SHIPPED)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args()
    text, better = page(given.home, given.before, given.ships)
    print(text)
    if given.docs:
        write_part(given.docs, "successor", text)
    sys.exit(0 if better else 1)


if __name__ == "__main__":
    main()
