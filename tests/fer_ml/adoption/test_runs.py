"""Run folders and evaluations: known faults are found, and sound ones are not accused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fer_ml.base.errors import FerError
from fer_ml.storage.artifact import Artifact
from fer_ml.training.checkpoint import load_checkpoint
from tests.fer_ml.adoption import first_pipeline as old
from tests.fer_ml.adoption.conftest import Adopt, failed
from tests.refusals import refused


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """``change`` gives another document, or changes the one it is given and gives ``None``."""
    held = json.loads(path.read_text())
    other = change(held)
    path.write_text(json.dumps(held if other is None else other))


def unverified(artifact: Artifact) -> str:
    return "\n".join(artifact.read_json("adoption.json")["unverified"])


def test_a_teacher_with_the_first_pipelines_faults(tmp_path: Path, adopt: Adopt) -> None:
    artifact = adopt(old.teacher_run(tmp_path / "run"))
    assert failed(artifact) == {
        "metrics_of_best_epoch",
        "metrics_of_checkpoint",
        "temperature_of_checkpoint",
        "temperature_not_on_clamp",
        "named_sources_have_rows",
    }
    told = artifact.read_json("adoption.json")
    assert told["missing"] == []
    assert told["left_out"] == ["best.safetensors", "checkpoint_last.pt"]
    # Epoch 2 was not evaluated and repeats the figures of epoch 1, which is the best.
    assert told["facts"]["best_epoch"] == old.BEST
    assert told["facts"]["n"] == old.VAL_ROWS
    assert "expw_hq" in json.dumps(told["checks"])
    for words in ("val was measured in 3 of 4 epochs", "sampler", "which code"):
        assert words in unverified(artifact)


def test_a_student_whose_files_tell_one_story(tmp_path: Path, adopt: Adopt) -> None:
    artifact = adopt(old.student_run(tmp_path / "run"))
    assert failed(artifact) == set()
    assert artifact.read_json("adoption.json")["missing"] == [], "students have no alignment report"
    for words in ("not say of how many rows", "the loss", "fitted on the rows it is reported on"):
        assert words in unverified(artifact)


@pytest.mark.parametrize(
    ("file", "change", "check"),
    [
        ("history.json", lambda h: [], "something_was_trained"),
        ("history.json", lambda h: h[::-1], "epochs_in_order"),
        ("reliabilitymetrics.json", lambda m: m["raw"].update(accuracy=0.5), "metrics_stand_in"),
        ("reliabilitymetrics.json", lambda m: m["raw"].update(ece=1.5), "raw_in_range"),
        ("reliabilitymetrics.json", lambda m: m["raw"].update(nll=float("nan")), "raw_in_range"),
        ("reliabilitymetrics.json", lambda m: m.update(n=211), "raw_accuracy_is_k_of_n"),
        (
            "reliabilitymetrics.json",
            lambda m: m["raw"]["per_class_f1"].update(Fear=0.0),
            "raw_macro_f1_is_mean",
        ),
        (
            "reliabilitymetrics.json",
            lambda m: m["raw"].update(per_class_f1={"Fear": 1.0}),
            "raw_classes",
        ),
        (
            "reliabilitymetrics.json",
            lambda m: m["temperature_scaled"].update(accuracy=0.5),
            "scaling_keeps_accuracy",
        ),
        (
            "reliabilitymetrics.json",
            lambda m: m.update(checkpoint_sha256="0" * 64),
            "metrics_carry_checkpoint",
        ),
        ("calibration.json", lambda c: c.update(global_temperature=2.0), "one_temperature"),
        ("calibration.json", lambda c: c.update(global_temperature=5.0), "temperature_not_on"),
        ("calibration.json", lambda c: c.update(epoch=0), "temperature_of_checkpoint"),
        (
            "history.json",
            lambda h: h[0].update(negl={"applied_frac": 0.03}),
            "negative_learning_sign",
        ),
    ],
)
def test_one_planted_contradiction(
    tmp_path: Path, adopt: Adopt, file: str, change: Callable[[Any], Any], check: str
) -> None:
    folder = old.student_run(tmp_path / "run")
    edit(folder / file, change)
    assert any(name.startswith(check) for name in failed(adopt(folder)))


def test_the_students_of_the_report_are_exact_for_their_true_n_alone(
    tmp_path: Path, adopt: Adopt
) -> None:
    """0.750174 is 16131/21503, and k/n for neither 18,020 nor 27,840."""
    folder = old.student_run(tmp_path / "run")
    for n, holds in ((21_503, True), (18_020, False), (27_840, False)):
        edit(folder / "reliabilitymetrics.json", lambda m, n=n: m["raw"].update(accuracy=0.750174) or m.update(n=n))  # noqa: E501  # fmt: skip
        assert ("raw_accuracy_is_k_of_n" not in failed(adopt(folder))) == holds


def test_weights_of_another_epoch(tmp_path: Path, adopt: Adopt) -> None:
    folder = old.student_run(tmp_path / "run")
    old.checkpoint(folder / "best.pt", teacher=False, epoch=0)
    assert failed(adopt(folder)) == {"metrics_of_checkpoint", "checkpoint_is_best_epoch"}


def test_what_is_missing_is_said(tmp_path: Path, adopt: Adopt) -> None:
    folder = old.teacher_run(tmp_path / "run")
    for name in ("best.pt", "best.safetensors", "calibration.json", "alignmentreport.json"):
        (folder / name).unlink()
    artifact = adopt(folder)
    missing = artifact.read_json("adoption.json")["missing"]
    assert missing == ["best.pt", "calibration.json", "alignmentreport.json"]
    assert "best.pt" not in artifact.record.files


def test_an_evaluation_and_one_on_half_of_its_set(tmp_path: Path, adopt: Adopt) -> None:
    whole = adopt(old.evaluation(tmp_path / "whole"))
    assert failed(whole) == set()
    assert whole.record.summary["n"] == old.VAL_ROWS
    assert "fitted on the evaluated rows" in unverified(whole)
    half = adopt(old.evaluation(tmp_path / "half", drop=10))
    assert failed(half) == {"every_row_scored", "data_root_given"}


def test_predictions_that_do_not_give_the_metrics(tmp_path: Path, adopt: Adopt) -> None:
    folder = old.evaluation(tmp_path / "e")
    edit(folder / "reliabilitymetrics.json", lambda m: m["raw"].update(accuracy=177 / 210))
    assert "accuracy_of_predictions" in failed(adopt(folder))
    preds = folder / "preds.csv"
    preds.write_text(preds.read_text().replace("x,0,", "x,9,", 1))
    with refused("unknown-class"):
        adopt(folder)
    preds.write_bytes(b"y_true\n\xff\xfe")
    with refused("invalid-csv"):
        adopt(folder)


def test_a_pickle_is_not_opened_and_the_message_says_what_to_do(
    tmp_path: Path, adopt: Adopt
) -> None:
    folder = old.teacher_run(tmp_path / "my run")
    (folder / "best.pt").write_bytes(b"\x80\x04cposix\nsystem\n(X\x01\x00\x00\x00xtR.")
    with refused("pickled-checkpoint") as caught:
        adopt(folder)
    assert caught.value.fix == (
        f"fer convert '{folder}/best.pt' 'my run.pt' --architecture resnet18 --teacher --size 224\n"
        f"  then: fer adopt '{folder}' --checkpoint 'my run.pt'"
    )
    converted = tmp_path / "converted.pt"
    old.checkpoint(converted)
    artifact = adopt(folder, checkpoint=converted)
    told = artifact.read_json("adoption.json")
    assert told["converted_from"]["bytes"] == (folder / "best.pt").stat().st_size
    assert "best.pt" in told["left_out"]
    assert "not opened here" in unverified(artifact)
    assert artifact.file("best.pt").read_bytes() == converted.read_bytes()


def test_safetensors_give_the_same_network(tmp_path: Path, adopt: Adopt) -> None:
    folder = old.student_run(tmp_path / "run")
    wanted = (folder / "best.pt").read_bytes()
    (folder / "best.pt").unlink()
    artifact = adopt(folder)
    assert artifact.file("best.pt").read_bytes() == wanted
    assert load_checkpoint(artifact.file("best.pt")).epoch == old.BEST
    (folder / "best.safetensors").write_bytes(b"\xff" * 40)
    with refused("damaged-checkpoint"):
        adopt(folder)


def test_facts_that_are_nested_too_deep_are_refused(tmp_path: Path, adopt: Adopt) -> None:
    folder = old.student_run(tmp_path / "run")
    (folder / "best.pt").unlink()
    save_file({"a": torch.zeros(1)}, folder / "best.safetensors", {"fer": "[" * 200_000})
    with pytest.raises(FerError) as caught:
        adopt(folder)
    assert caught.value.where == str(folder / "best.safetensors")


def test_predictions_that_are_compressed_are_refused_and_not_unpacked(
    tmp_path: Path, adopt: Adopt
) -> None:
    folder = old.evaluation(tmp_path / "run")
    (folder / "preds.csv").write_bytes(gzip.compress(b"y_true,y_pred\n" + b"0,0\n" * 10_000_000))
    with pytest.raises(FerError) as caught:
        adopt(folder)
    assert "compressed" in caught.value.what and "preds.csv" in str(caught.value.where)


def test_a_checkpoint_goes_with_a_run_alone(tmp_path: Path, adopt: Adopt) -> None:
    with refused("options-conflict"):
        adopt(old.softlabels(tmp_path / "s"), checkpoint=tmp_path / "x.pt")
    with refused("options-conflict"):
        adopt(old.softlabels(tmp_path / "s"), roots=[tmp_path])
