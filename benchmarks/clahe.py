"""Does CLAHE pay on faces of 48 px? The student of ``ferplus`` without it, with it, and as it was.

python benchmarks/clahe.py --data FOLDER [--rows N] [--epochs N] [--seeds N] [--docs FILE]

FOLDER is FER+ as its authors lay it out (fer2013new.csv, data/FER2013Train). All arms train from
the same first weights on the same faces in the same order, one run for each seed. Other faces
choose the epoch, and others again are measured. ``--docs`` writes the section ``clahe`` of a page.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from small_faces import faces, part

from fer_ml.figures.measurements import write_part
from fer_ml.images.pixels import prepare_packed
from fer_ml.metrics.resampling import group_sums, resampled_metrics
from fer_ml.metrics.runs import over_runs
from fer_ml.recipes.builtin import ferplus
from fer_ml.training.loop import train
from fer_ml.training.models import build_model
from fer_ml.training.prediction import predict
from fer_ml.training.views import FaceSet

#: By arm: clip limit, and the least px of a tile.
ARMS = {"no CLAHE": (0.0, 16), "CLAHE, 3 x 3 tiles": (2.0, 16), "CLAHE, 8 x 8 tiles": (2.0, 1)}


def prepared(data: FaceSet, clip: float, tile_px: int) -> FaceSet:
    """Return the same faces prepared with another CLAHE setting."""
    spec = replace(ferplus().preprocess, clahe_clip=clip, clahe_tile_px=tile_px)
    assert isinstance(data.images, np.ndarray)
    images = np.stack([prepare_packed(face, None, spec) for face in data.images])
    return replace(data, images=images, preprocess=spec)


def measured(raw: FaceSet, epochs: int, seeds: int) -> list[np.ndarray]:
    """Return the sums of each run, arm by arm, over the last quarter of the faces."""
    cut, held = len(raw) * 5 // 8, len(raw) * 3 // 4
    recipe, sums = replace(ferplus().students["ce"], epochs=epochs), []
    for arm, (clip, tile_px) in ARMS.items():
        data = prepared(raw, clip, tile_px)
        shown, chooses, asked = (
            part(data, slice(first, last)) for first, last in ((0, cut), (cut, held), (held, None))
        )
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = build_model(recipe)
            trained = train(network, recipe, shown, chooses, seed=seed, name=f"{arm}, {seed}")
            network.load_state_dict(trained.state)
            logits = predict(network, asked)
            sums.append(group_sums(asked.y, logits, np.arange(len(asked))))
            print(f"{arm}, seed {seed}: {trained.history[-1]['val']['macro_f1']:.3f}", flush=True)
    return sums


def page(raw: FaceSet, epochs: int, seeds: int) -> str:
    """Return the section: mean and spread of each arm, and its difference from no CLAHE."""
    models = resampled_metrics(np.stack(measured(raw, epochs, seeds)))
    lines = [
        f"`python benchmarks/clahe.py --data FOLDER --rows {len(raw)} --epochs {epochs} "
        f"--seeds {seeds} --docs docs/training.md`",
        f"wrote this table: {len(raw) * 5 // 8:,} faces of FER+ to train, "
        f"{len(raw) - len(raw) * 3 // 4:,} others to measure,",
        f"{seeds} runs of each arm, 95% intervals over runs and faces.",
        "",
        "| arm | macro-F1 | less no CLAHE | accuracy | less no CLAHE |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for place, arm in enumerate(ARMS):
        runs, cells = range(place * seeds, (place + 1) * seeds), []
        for metric in ("macro_f1", "accuracy"):
            cells.append(f"{models.value[metric][list(runs)].mean():.3f}")
            gap = over_runs(models, runs, range(seeds))[metric] if place else None
            cells.append(f"{gap.value:.3f} ({gap.low:.3f} to {gap.high:.3f})" if gap else "-")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args()
    text = page(faces(given.data, given.rows), given.epochs, given.seeds)
    print(text)
    if given.docs:
        write_part(given.docs, "clahe", text)


if __name__ == "__main__":
    main()
