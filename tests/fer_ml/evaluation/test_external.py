"""Models from elsewhere: measured as they answer, and refused where they are unsafe or wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import sha256_file
from fer_ml.bundles.bundle import Card, write_card
from fer_ml.claims.model import read_claims
from fer_ml.claims.resolve import Resolver
from fer_ml.claims.trace import Tracer, walk
from fer_ml.evaluation.benchmark import measure_models
from fer_ml.evaluation.external import external_predictor, keep_external_model, open_model
from fer_ml.evaluation.models import benchmark_models
from fer_ml.evidence.rows import Origins
from fer_ml.metrics.calibration import fit_temperature
from fer_ml.metrics.predictions import read_predictions
from fer_ml.recipes.preprocess import Frame, Preprocess
from fer_ml.sources.raw import model_files
from fer_ml.storage.artifact import Artifact
from fer_ml.training.views import FaceSet, to_input
from tests.fer_ml.evaluation.conftest import SPEC
from tests.refusals import refused

WEIGHTS = np.random.default_rng(0).normal(size=(3 * 16 * 16, 7)).astype(np.float32) / 10


def network(
    *,
    side: int | str = 16,
    batch: int | str = "N",
    classes: int = 7,
    outputs: int = 1,
    external: bool = False,
) -> onnx.ModelProto:
    """One matrix product of the pixels."""
    held = WEIGHTS if side != 32 else np.zeros((3 * 32 * 32, 7), np.float32)
    weights = numpy_helper.from_array(np.ascontiguousarray(held[:, :classes]), "w")
    if external:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value="../../secret.bin")
    names = [f"out{index}" for index in range(outputs)]
    nodes = [helper.make_node("Flatten", ["faces"], ["flat"], axis=1)]
    nodes += [helper.make_node("MatMul", ["flat", "w"], [name]) for name in names]
    shape = [batch, 3, side, side]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, classes]) for n in names],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(**changes: Any) -> Path:
        path = tmp_path / "any.onnx"
        path.write_bytes(network(**changes).SerializeToString())
        return path

    return write


def faces(n: int) -> FaceSet:
    images = np.random.default_rng(n).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return FaceSet(images, np.zeros(n, np.int64), ("x",) * n, SPEC)


@pytest.mark.parametrize("batch", ["N", 1])
def test_an_onnx_file_answers_for_prepared_faces(save: Save, batch: int | str) -> None:
    model = open_model(save(batch=batch), SPEC)
    held = faces(5)
    wanted = to_input(held.images, SPEC).numpy().reshape(5, -1) @ WEIGHTS
    np.testing.assert_allclose(model.predict(held), wanted, atol=1e-4)
    assert (model.kind, model.preprocess, model.assumed) == (
        "onnx",
        SPEC,
        ("preprocess", "classes"),
    )


@pytest.mark.parametrize(
    ("changes", "code", "allowed"),
    [
        ({"external": True}, "external-tensors", "one file that holds everything"),
        ({"classes": 6}, "network-mismatch", "['N', 7]"),
        ({"outputs": 2}, "network-mismatch", "1"),
        ({"side": 32}, "network-mismatch", "['N', 3, 16, 16]"),
        ({"batch": 4}, "network-mismatch", "['N', 3, 16, 16]"),
    ],
)
def test_unsafe_and_wrong_networks_are_refused(
    save: Save, changes: dict[str, Any], code: str, allowed: str
) -> None:
    with refused(code, allowed=allowed):
        open_model(save(**changes), SPEC)


def test_a_network_of_open_sizes_that_fails_on_a_face_is_refused(save: Save) -> None:
    with pytest.raises(FerError):
        open_model(save(side="S"), Preprocess(size=24, clahe_clip=0.0))


def test_tensors_cannot_hide_in_a_branch(tmp_path: Path) -> None:
    inner = network(external=True).graph.initializer[0]
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=inner)],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
    )
    model = network()
    flag = numpy_helper.from_array(np.array(True), "flag")
    model.graph.initializer.append(flag)
    model.graph.node.append(
        helper.make_node("If", ["flag"], ["unused"], then_branch=branch, else_branch=branch)
    )
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with refused("unsupported-operators"):
        open_model(tmp_path / "x.onnx", SPEC)


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a network")
    (tmp_path / "x.pt").write_bytes(b"not a checkpoint")
    torch.save({"model": Path}, tmp_path / "code.pt")
    with refused("invalid-onnx"):
        open_model(tmp_path / "x.onnx", SPEC)
    for name in ("x.pt", "code.pt"):
        with refused("invalid-checkpoint", where=tmp_path / name):
            open_model(tmp_path / name, SPEC)
    for name in ("nothing.onnx", "."):
        with refused("missing-model"):
            model_files(tmp_path / name)


def kept(lineage: Any, name: str, path: Path) -> Artifact:
    """``external_model[name]`` of the files at ``path``."""
    job = lineage.job("external_model", ["hq_train_manifest"], name)
    artifact = lineage.made(keep_external_model, replace(job, paths={"model": path}), SPEC)
    lineage.held[artifact.key] = artifact
    return artifact


def test_an_onnx_file_enters_the_benchmark_with_a_temperature_from_calib(
    lineage: Any, save: Save
) -> None:
    artifact = kept(lineage, "linear", save())
    table, y, logits = read_predictions(artifact.file("predictions_calib.csv"))
    calib = lineage.frame.filter(pl.col("split") == "calib")
    assert table["sample_id"].to_list() == calib["sample_id"].to_list()
    held = artifact.read_json("calibration.json")
    assert held["global_temperature"] == pytest.approx(fit_temperature(logits, y), rel=1e-6)
    assert held["manifest_sha256"] == lineage.held["hq_train_manifest"].sha256
    about = artifact.read_json("model.json")
    assert about["assumed"] == ["preprocess", "classes"]
    (model,) = [
        m for m in benchmark_models(lineage.job("benchmark")) if m.name == "external_linear"
    ]
    np.testing.assert_allclose(model.predict(calib), logits, atol=1e-5)
    assert model.chosen["checkpoint"].split == "unknown"
    assert model.chosen["temperature"].split == "calib"
    assert not model.selected_on("hq_train_manifest", "val")


def bundle_in(folder: Path, spec: Preprocess) -> Card:
    """A bundle of ``network`` for faces prepared by ``spec``, and its card."""
    folder.mkdir()
    model = network()
    model.graph.input[0].name = model.graph.node[0].input[0] = "input"
    model.graph.output[0].name = model.graph.node[1].output[0] = "logits"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    card = Card(
        name="x",
        profile="x",
        architecture="linear",
        classes=CLASSES,
        preprocess=spec,
        temperature=1.0,
        unsure_below=0.5,
        model_sha256=sha256_file(folder / "model.onnx"),
        checkpoint_sha256="0" * 64,
        data="",
        licence="",
        intended_use="",
    )
    write_card(folder, card)
    return card


def test_bundles_and_checkpoints_bring_their_own_preprocessing(
    lineage: Any, save: Save, tmp_path: Path
) -> None:
    folder, spec = tmp_path / "bundle", Preprocess(size=16, clahe_clip=0.0, frame=Frame(1.3))
    card = bundle_in(folder, spec)
    opened = open_model(folder, SPEC)
    assert (opened.preprocess, opened.assumed) == (spec, ())
    write_card(folder, card.model_copy(update={"model_sha256": "0" * 64}))
    with refused("bundle-changed"):
        open_model(folder, SPEC)
    best = lineage.held["student_ce"].file("best.pt")
    artifact = kept(lineage, "copy", best)
    assert artifact.read_json("model.json")["kind"] == "checkpoint"
    assert artifact.record.files["best.pt"].sha256 == sha256_file(best)
    job = lineage.job("benchmark")
    test = lineage.frame.filter(pl.col("split") == "test")
    (student,) = [m for m in benchmark_models(job) if m.name == "student_ce"]
    assert (external_predictor(job, "copy")(test) == student.predict(test)).all()


def test_an_external_model_is_compared_whatever_it_sees_and_a_claim_holds_the_difference(
    lineage: Any, tmp_path: Path
) -> None:
    bundle_in(tmp_path / "fer", replace(SPEC, frame=Frame(1.3)))
    kept(lineage, "fer", tmp_path / "fer")
    benchmark = lineage.made(measure_models, lineage.job("benchmark"), "temperature")
    pairs = pl.read_csv(benchmark.file("pairs.csv")).filter(pl.col("metric") == "accuracy")
    theirs = pairs.filter(pl.col("model_b") == "external_fer")
    assert not theirs["same_preprocess"].any()
    assert pairs.filter(pl.col("model_b") != "external_fer")["same_preprocess"].all()
    # On val the student was selected and the external model was not: no pair there.
    sets = theirs.filter(pl.col("model_a") == "student_dkd")["set"].unique()
    assert set(sets) == {
        f"{name}{part}"
        for name in ("eval_only", "test_all_sources")
        for part in ("", ".deduplicated")
    }
    right = {}
    for model in ("student_dkd", "external_fer"):
        path = benchmark.file(f"predictions/{model}__test_all_sources.csv")
        _, y, logits = read_predictions(path)
        right[model] = (logits.argmax(axis=1) == y).mean()
    (row,) = theirs.filter(
        pl.col("model_a") == "student_dkd", pl.col("set") == "test_all_sources"
    ).to_dicts()
    assert row["difference"] == pytest.approx(right["student_dkd"] - right["external_fer"])
    claims = read_claims(kept_claims(tmp_path / "claims.yaml"))
    found, low, _ = Resolver(Tracer(lineage.store)).all(claims)
    macro_f1 = pl.read_csv(benchmark.file("pairs.csv")).filter(
        model_a="student_dkd", model_b="external_fer", metric="macro_f1", set="test_all_sources"
    )
    assert found.value == pytest.approx(macro_f1["difference"].item())
    assert low.value == pytest.approx(macro_f1["low"].item())
    (number,) = found.numbers
    formula = Origins(lineage.store).formula(number)
    files = [term.rows.file for term in (*formula.plus, *formula.minus)]
    assert files == [f"predictions/{model}__test_all_sources.csv" for model in right]
    assert "external_model[fer]" in {node.item.key for node in walk(found.traces)}


def kept_claims(path: Path) -> Path:
    """The claims of ``claims/ferplus_peer.yaml``, on an evaluation set of this lineage."""
    text = (Path(__file__).parents[3] / "claims/ferplus_peer.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("set: agreed", "set: test_all_sources"), encoding="utf-8")
    return path
