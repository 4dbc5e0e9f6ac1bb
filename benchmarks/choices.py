"""What pays for faces from elsewhere? One choice of ``ferplus_best`` at a time, over several seeds.

python benchmarks/choices.py --home FOLDER [--faces N] [--epochs N] [--seeds N] [--docs FILE]

FOLDER is the artifact root of a run of ``ferplus`` (``outputs/ferplus``), of which the curated
manifest and the faces are read. Each arm changes one thing in a recipe of the pretrained teacher,
whose network enlarges the faces to 64 px here. It trains on the same faces in the same order, one
run for each seed. Calib chooses the epoch, and val is measured: by either annotator's labels, and
corrupted once a face by a kind and strength that its id draws. No test face is read.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from fer_ml.base.labels import CLASS_INDEX
from fer_ml.bundles.abstaining import spoilt
from fer_ml.figures.measurements import write_part
from fer_ml.manifests.curation import UNIFIED, add_votes, manifest_file, votes_of
from fer_ml.manifests.schema import read_manifest
from fer_ml.metrics.resampling import Resampled, group_sums, resampled_metrics
from fer_ml.metrics.runs import over_runs
from fer_ml.packed.packing import drawn_faces, load_faces, prepared, squares
from fer_ml.recipes.builtin import ferplus_best
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Imbalance, Training
from fer_ml.runs.logits import labels_of
from fer_ml.storage.store import Store
from fer_ml.training.loop import train
from fer_ml.training.models import build_model, first_weights
from fer_ml.training.prediction import predict
from fer_ml.training.views import FaceSet

HQ = "hq_train_manifest"
#: The recipe before any choice was measured.
BASE = replace(ferplus_best().teachers["B3"], network_size=64, ema=0.99, augment="camera")
#: By arm: its recipe, and how many votes FER2013's label adds to FER+'s ten.
ARMS: dict[str, tuple[Training, float]] = {
    "votes, camera": (BASE, 0),
    "FER+'s majority": (replace(BASE, targets="labels"), 0),
    "10 votes for FER2013's label": (BASE, 10),
    "1,000 votes for FER2013's label": (BASE, 1000),
    "no camera (`affine`)": (replace(BASE, augment="affine"), 0),
    "balanced sampler": (replace(BASE, imbalance=Imbalance(sampler="balanced")), 0),
    "logit adjustment 0.5": (replace(BASE, imbalance=Imbalance(logit_adjustment=0.5)), 0),
}
SETS = ("FER+'s labels", "the same, corrupted", "FER2013's labels")


@dataclass(frozen=True)
class Measured:
    """The rows of val by both annotators, clean and corrupted."""

    clean: FaceSet
    spoilt: FaceSet
    groups: np.ndarray
    labels: dict[str, np.ndarray]

    def sums(self, network: torch.nn.Module) -> dict[str, np.ndarray]:
        """Return by set the sums of a network's answers."""
        clean, hard = predict(network, self.clean), predict(network, self.spoilt)
        logits = dict(zip(SETS, (clean, hard, clean), strict=True))
        return {name: group_sums(self.labels[name], z, self.groups) for name, z in logits.items()}


def measured_on(
    rows: pl.DataFrame, other: pl.DataFrame, home: Path, cache: Path, spec: Preprocess
) -> Measured:
    """Return what is measured on ``rows``, which have a label in ``other`` too."""
    pairs = zip(squares(rows, home, spec.frame), rows["sample_id"], strict=True)
    by_face = dict(zip(other["sample_id"], other["label"], strict=True))
    theirs = np.array([CLASS_INDEX[by_face[name]] for name in rows["sample_id"]])
    own = labels_of(rows)
    return Measured(
        load_faces(rows, home, spec, cache),
        prepared([spoilt(face, name) for face, name in pairs], spec),
        rows["group_id"].to_numpy(),
        dict(zip(SETS, (own, own, theirs), strict=True)),
    )


def runs(home: Path, faces: int, epochs: int, seeds: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the sums of each run by set, arm by arm."""
    store = Store(home, home.name)
    rows = read_manifest(store.verified(HQ).file(manifest_file(HQ)))
    unified = read_manifest(store.verified(UNIFIED).file(manifest_file(UNIFIED)))
    other = unified.filter(pl.col("source") == "fer2013").unique("sample_id", keep="first")
    rows = rows.filter(pl.col("sample_id").is_in(other["sample_id"].implode()))
    split = {name: rows.filter(pl.col("split") == name) for name in ("train", "calib", "val")}
    shown = drawn_faces(split["train"], faces, 0)
    with tempfile.TemporaryDirectory() as place:
        cache, spec = Path(place), ferplus_best().preprocess
        asked = measured_on(split["val"], other, home, cache, spec)
        chooses = load_faces(split["calib"], home, spec, cache)
        for arm, (recipe, votes) in ARMS.items():
            voted = add_votes(shown, votes_of(other, votes))[0] if votes else shown
            data = load_faces(voted, home, spec, cache)
            for seed in range(seeds):
                torch.manual_seed(seed)
                network, held = build_model(recipe), replace(recipe, epochs=epochs)
                first_weights(network, held)
                trained = train(network, held, data, chooses, seed=seed, name=f"{arm}, {seed}")
                network.load_state_dict(trained.state)
                print(f"{arm}, seed {seed}: {trained.history[-1]['val']}", flush=True)
                yield asked.sums(network)


def table(name: str, models: Resampled, seeds: int) -> list[str]:
    """Return the lines of one set: the mean of each arm, and its difference from the first."""
    metrics = {"macro_f1": "macro-F1", "accuracy": "accuracy", "nll": "NLL"}
    lines = [
        "",
        f"By {name}, n = {models.groups:,} groups of faces:",
        "",
        f"| arm | {' | '.join(f'{shown} | difference' for shown in metrics.values())} |",
        f"| --- |{' ---: | --- |' * len(metrics)}",
    ]
    for place, arm in enumerate(ARMS):
        own, cells = range(place * seeds, (place + 1) * seeds), []
        for metric in metrics:
            cells.append(f"{models.value[metric][list(own)].mean():.3f}")
            gap = over_runs(models, own, range(seeds))[metric] if place else None
            cells.append(f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})" if gap else "")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def page(home: Path, faces: int, epochs: int, seeds: int) -> str:
    """Return the section: a table for each set."""
    found = list(runs(home, faces, epochs, seeds))
    lines = [
        f"`python benchmarks/choices.py --home outputs/ferplus --faces {faces} --epochs {epochs} "
        f"--seeds {seeds} --docs docs/training.md`",
        f"wrote these tables: {faces:,} faces to train, {seeds} runs of each arm. In brackets: 95% "
        "intervals over runs and faces, each on its own.",
    ]
    for name in SETS:
        models = resampled_metrics(np.stack([sums[name] for sums in found]))
        lines += table(name, models, seeds)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args()
    text = page(given.home, given.faces, given.epochs, given.seeds)
    print(text)
    if given.docs:
        write_part(given.docs, "choices", text)


if __name__ == "__main__":
    main()
