"""Stored predictions are exact, so metrics computed from them are those of the run."""

from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.base.labels import CLASS_INDEX, CLASSES
from fer_ml.metrics.classification import classification_metrics
from fer_ml.metrics.predictions import read_predictions, write_predictions
from tests.refusals import refused

N = 50
FRAME = pl.DataFrame(
    {
        "sample_id": [f"s{i}" for i in range(N)],
        "source": ['a, "b"'] * N,
        "label": [CLASSES[i % 7] for i in range(N)],
    }
)
LOGITS = (np.random.default_rng(0).normal(size=(N, 7)) * 10.0 ** np.arange(-3, 4)).astype("f4")


def test_round_trip_to_the_last_bit(tmp_path: Path) -> None:
    write_predictions(tmp_path / "deep/p.csv", FRAME, LOGITS)
    table, y, logits = read_predictions(tmp_path / "deep/p.csv")
    assert logits.tobytes() == LOGITS.tobytes()
    assert y.tolist() == [CLASS_INDEX[label] for label in FRAME["label"]]
    assert table["sample_id"].to_list() == FRAME["sample_id"].to_list()
    assert table["y_pred"].to_list() == [CLASSES[i] for i in LOGITS.argmax(axis=1)]
    assert classification_metrics(y, logits) == classification_metrics(y, LOGITS)


def test_lost_rows_and_columns_are_refused(tmp_path: Path) -> None:
    """The first pipeline scored 6,780 of 11,890 rows and did not notice."""
    with refused("length-mismatch"):
        write_predictions(tmp_path / "p.csv", FRAME, LOGITS[:-1])
    assert not (tmp_path / "p.csv").exists()
    write_predictions(tmp_path / "p.csv", FRAME, LOGITS)
    table = pl.read_csv(tmp_path / "p.csv").drop("logit_Fear", "y_true")
    table.write_csv(tmp_path / "p.csv")
    with refused("missing-column", where=tmp_path / "p.csv") as caught:
        read_predictions(tmp_path / "p.csv")
    assert "y_true, logit_Fear" in caught.value.what
