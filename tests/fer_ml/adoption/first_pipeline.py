"""Results as the first pipeline left them, with its known faults, on made-up numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_ml.base.labels import CLASSES
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, ArcFace, Training
from fer_ml.training.checkpoint import Checkpoint, save_checkpoint
from fer_ml.training.models import build_model

#: Rows of the made-up val split, and of soft labels.
VAL_ROWS, SOFT_ROWS = 210, 60
BEST, LAST = 1, 3


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def metrics(seed: int, right: float) -> dict[str, Any]:
    """Metrics of made-up predictions, by definition and not by this project's code."""
    rng = np.random.default_rng(seed)
    y = np.arange(VAL_ROWS) % 7
    guess = np.where(rng.random(VAL_ROWS) < right, y, rng.integers(0, 7, VAL_ROWS))
    scores = {}
    for i, name in enumerate(CLASSES):
        hit = ((guess == i) & (y == i)).sum()
        scores[name] = float(2 * hit / ((guess == i).sum() + (y == i).sum()))
    return {
        "accuracy": float((guess == y).mean()),
        "macro_f1": float(np.mean(list(scores.values()))),
        "per_class_f1": scores,
        "nll": 4.0,
        "ece": 0.2,
    }


def checkpoint(path: Path, *, teacher: bool = True, epoch: int = BEST) -> None:
    """A converted checkpoint: this platform's format, and weights that no code made."""
    torch.manual_seed(0)
    task = ArcFace(embedding=16) if teacher else CE()
    recipe = Training(architecture="test_resnet", task=task, init="none", epochs=1)
    network = build_model(recipe)
    save_checkpoint(
        path,
        Checkpoint(network.state_dict(), recipe, Preprocess(size=32), CLASSES, epoch),
    )


def teacher_run(folder: Path, *, manifest_sha256: str = "0" * 64) -> Path:
    """A teacher's run folder: metrics and temperature of the last epoch, T on its clamp."""
    by_epoch = {
        0: metrics(0, 0.5),
        BEST: metrics(1, 0.9),
        2: metrics(1, 0.9),
        LAST: metrics(3, 0.8),
    }
    scaled = {**by_epoch[LAST], "nll": 0.9, "ece": 0.15}
    write(
        folder / "history.json",
        [
            {
                "epoch": epoch,
                "train": {"loss": 1.0, "warmup_plain_logits": epoch == 0, "arcface_margin": 0.0},
                "val": held,
                "calibration": {"mode": "global", "temperature": 5.0, "val_scaled": scaled},
                "lr": 1e-4,
                "timing": {"epoch_sec": 1.0, "total_sec": 1.0},
                "eval": {"ran": epoch != 2, "every": 1},
            }
            for epoch, held in by_epoch.items()
        ],
    )
    write(
        folder / "reliabilitymetrics.json",
        {
            "epoch": LAST,
            "raw": by_epoch[LAST],
            "temperature_scaled": {"mode": "global", "global_temperature": 5.0, **scaled},
        },
    )
    write(
        folder / "calibration.json",
        {"epoch": LAST, "mode": "global", "global_temperature": 5.0, "temperature_vector": None},
    )
    write(
        folder / "alignmentreport.json",
        {
            "time": "2025-12-20T10:00:00",
            "repo_root": "C:\\work\\fer",
            "paths": {"manifest": "C:\\work\\m.csv", "manifest_sha256": manifest_sha256},
            "seed": 1337,
            "model": {"name": "resnet18", "pretrained": True, "image_size": 224, "embed_dim": 512},
            "data": {
                "rows_total_after_filter": 1000,
                "source_counts_after_filter": {"ferplus": 700, "rafdb_basic": 300},
                "train_rows": 790,
                "val_rows": VAL_ROWS,
                "source_filter": {"include": ["ferplus", "rafdb_basic", "expw_hq"]},
            },
        },
    )
    (folder / "checkpoint_last.pt").write_bytes(b"\x80\x04never opened")
    checkpoint(folder / "best.pt")
    return folder


def student_run(folder: Path) -> Path:
    """A student's run folder that is sound, but for what no file tells."""
    held = [metrics(seed, right) for seed, right in ((0, 0.5), (1, 0.9))]
    write(
        folder / "history.json",
        [
            {
                "epoch": epoch,
                "train_loss": 0.5,
                "epoch_sec": 1.0,
                "lr": 1e-3,
                "val": {"raw": raw, "temperature_scaled": raw, "t_star": 3.2},
            }
            for epoch, raw in enumerate(held)
        ],
    )
    scaled = {"mode": "global", "global_temperature": 3.2, **held[BEST]}
    write(folder / "reliabilitymetrics.json", {"raw": held[BEST], "temperature_scaled": scaled})
    write(folder / "calibration.json", {"mode": "global", "global_temperature": 3.2})
    checkpoint(folder / "best.pt", teacher=False)
    return folder


def evaluation(folder: Path, *, drop: int = 0) -> Path:
    """An evaluation of a student, the first ``drop`` rows of the set left out."""
    rng = np.random.default_rng(5)
    y = np.arange(VAL_ROWS) % 7
    guess = np.where(rng.random(VAL_ROWS) < 0.8, y, rng.integers(0, 7, VAL_ROWS))
    y, guess = y[drop:], guess[drop:]
    scores = [
        2 * ((guess == i) & (y == i)).sum() / ((guess == i).sum() + (y == i).sum())
        for i in range(7)
    ]
    raw = {
        "accuracy": float((guess == y).mean()),
        "macro_f1": float(np.mean(scores)),
        "per_class_f1": [float(s) for s in scores],
        "nll": 1.0,
        "ece": 0.1,
    }
    scaled = {"mode": "global", "global_temperature": 3.1, **raw}
    write(folder / "reliabilitymetrics.json", {"raw": raw, "temperature_scaled": scaled})
    write(
        folder / "eval_meta.json",
        {"checkpoint": "D:\\runs\\best.pt", "split": "test", "tta": "singlecrop",
         "data_root": "." if drop else "D:\\data", "counts": VAL_ROWS, "max_batches": None},
    )  # fmt: skip
    lines = ["image_path,source,y_true,y_pred,pred_prob,true_prob,margin_top1_top2,correct"]
    lines += [
        f"a/{i}.png,x,{t},{p},0.9,0.9,0.8,{int(t == p)}"
        for i, (t, p) in enumerate(zip(y, guess, strict=True))
    ]
    (folder / "preds.csv").write_text("\n".join(lines) + "\n")
    return folder


def softlabels(folder: Path, *, manifest_sha256: str = "0" * 64) -> Path:
    """A soft-label export in which everything agrees."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    y = np.arange(SOFT_ROWS) % 7
    logits = (
        rng.normal(0, 1, (SOFT_ROWS, 7)) + 8 * np.eye(7)[y] * (rng.random(SOFT_ROWS) < 0.9)[:, None]
    )
    logits = logits.astype(np.float16)
    np.savez(folder / "softlabels.npz", logits=logits, y=y.astype(np.uint8))
    lines = [
        json.dumps({"i": i, "image_path": f"a/{i}.png", "source": "ferplus", "y": int(y[i])})
        for i in range(SOFT_ROWS)
    ]
    (folder / "softlabels_index.jsonl").write_text("\n".join(lines) + "\n")
    write(folder / "classorder.json", list(CLASSES))
    write(folder / "hash_manifest.json", {"manifest": "C:\\m.csv", "sha256": manifest_sha256})
    write(
        folder / "alignmentreport.json",
        {
            "time": "2025-12-22T10:00:00",
            "manifest": "C:\\m.csv",
            "manifest_sha256": manifest_sha256,
            "split": "train",
            "rows": SOFT_ROWS,
            "ensemble": {"weights": [0.4, 0.4, 0.2], "teachers": [{"ckpt": "C:\\best.pt"}]},
        },
    )
    guess = logits.argmax(axis=1)
    scores = [
        2 * ((guess == i) & (y == i)).sum() / ((guess == i).sum() + (y == i).sum())
        for i in range(7)
    ]
    write(
        folder / "ensemble_metrics.json",
        {"accuracy": float((guess == y).mean()), "macro_f1": float(np.mean(scores)), "nll": 1.0},
    )
    return folder


def manifest(path: Path, *extra: str) -> Path:
    """A manifest whose images are not here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        f"ferplus/{split}/{label}/{i}.png,{label},{split},ferplus"
        for split in ("train", "val", "test")
        for i, label in enumerate(CLASSES)
    ]
    path.write_text("\n".join(["image_path,label,split,source", *rows, *extra]) + "\n")
    return path


def report(path: Path, **changes: Any) -> Path:
    """The validation report of ``manifest``."""
    labels = {f"ferplus|{s}|{label}": 1 for s in ("train", "val", "test") for label in CLASSES}
    held = {
        "manifest": "C:\\work\\m.csv",
        "out_root": "C:\\work",
        "rows_total": 21,
        "rows_valid": 21,
        "bad_labels": 0,
        "missing_paths": 0,
        "decode": {"attempted": 5, "ok": 5, "fail": 0},
        "counts": {"by_source": {"ferplus": 21}, "by_source_split_label": labels},
        "canonical": list(CLASSES),
    }
    write(path, {**held, **changes})
    return path
