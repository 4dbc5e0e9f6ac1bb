"""Per-sample predictions as CSV: what every metric is computed from."""

from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASS_INDEX, CLASSES
from fer_ml.base.reading import as_text

LOGITS = tuple(f"logit_{name}" for name in CLASSES)


def write_predictions(path: Path, frame: pl.DataFrame, logits: np.ndarray) -> None:
    """Write a csv: sample_id, source, y_true, y_pred and the raw logits of each row of ``frame``.

    ``logits [N, C]`` are in the order of the rows. Nine digits restore each float32 exactly.

    >>> from tempfile import TemporaryDirectory
    >>> faces = pl.DataFrame({"sample_id": ["a"], "source": ["s"], "label": ["Happy"]})
    >>> with TemporaryDirectory() as folder:
    ...     write_predictions(Path(folder) / "val.csv", faces, np.eye(7)[:1])
    ...     (Path(folder) / "val.csv").read_text().splitlines()[1]
    'a,s,Happy,Angry,1.0,0.0,0.0,0.0,0.0,0.0,0.0'
    """
    if frame.height != len(logits):
        raise FerError(
            f"{len(logits)} predictions do not match {frame.height} rows",
            code="length-mismatch",
            where=path,
        )
    table = frame.select("sample_id", "source", pl.col("label").alias("y_true")).with_columns(
        pl.Series("y_pred", [CLASSES[i] for i in logits.argmax(axis=1)]),
        *(pl.Series(name, logits[:, i].astype(np.float32)) for i, name in enumerate(LOGITS)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_csv(path, float_precision=None)


def read_predictions(path: Path) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Read a file of ``write_predictions`` as ``(table, y [N], logits [N, C])``.

    >>> from tempfile import TemporaryDirectory
    >>> faces = pl.DataFrame({"sample_id": ["a"], "source": ["s"], "label": ["Happy"]})
    >>> with TemporaryDirectory() as folder:
    ...     write_predictions(Path(folder) / "val.csv", faces, np.eye(7)[:1])
    ...     read_predictions(Path(folder) / "val.csv")[2].argmax(axis=1)
    array([0])
    """
    table = pl.read_csv(
        as_text(path), glob=False, schema_overrides=dict.fromkeys(LOGITS, pl.Float32)
    )
    missing = [name for name in ("sample_id", "y_true", *LOGITS) if name not in table.columns]
    if missing:
        raise FerError(
            f"the predictions lack the columns {', '.join(missing)}",
            code="missing-column",
            where=path,
        )
    y = np.array([CLASS_INDEX[label] for label in table["y_true"]], dtype=np.int64)
    return table, y, table.select(LOGITS).to_numpy()
