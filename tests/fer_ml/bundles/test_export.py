"""The exported network is the trained one, and tells nothing about the machine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import sha256_file
from fer_ml.bundles.bundle import MODEL_FILE, Card, load_bundle, write_card
from fer_ml.bundles.export import Exporter, fuse_onnx, parity
from fer_ml.distillation.fusion import fuse
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, ArcFace, Training
from fer_ml.training.checkpoint import Checkpoint
from fer_ml.training.models import build_model
from fer_ml.training.views import FaceSet, to_input

# torch.onnx and torch.export warn about their own internals; the export is judged by its result.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SPEC = Preprocess(size=32)
RECIPE = Training(architecture="test_resnet", task=CE(), init="none", epochs=1)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(build_model(RECIPE).state_dict(), RECIPE, SPEC, CLASSES, 0)


@pytest.fixture(scope="module")
def folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    Exporter().write(checkpoint, folder / MODEL_FILE)
    write_card(
        folder,
        Card(
            name="student",
            profile="test",
            architecture="test_resnet",
            classes=CLASSES,
            preprocess=SPEC,
            temperature=1.7,
            unsure_below=0.4,
            model_sha256=sha256_file(folder / MODEL_FILE),
            checkpoint_sha256="0" * 64,
            data="none",
            licence="none",
            intended_use="tests",
        ),
    )
    return folder


@pytest.mark.parametrize("n", [1, 2, 5])
def test_onnx_equals_torch_for_any_batch(checkpoint: Checkpoint, folder: Path, n: int) -> None:
    images = np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        ours = checkpoint.network()(to_input(images, SPEC)).numpy()
    bundle = load_bundle(folder)
    np.testing.assert_allclose(bundle.logits(images), ours, atol=1e-5)
    wanted = torch.softmax(torch.from_numpy(ours) / 1.7, dim=1).numpy()
    np.testing.assert_allclose(bundle.probabilities(images), wanted, atol=1e-5)
    faces = FaceSet(images, np.zeros(n, np.int64), ("x",) * n, SPEC)
    assert parity(lambda x: checkpoint.network()(x).numpy(), folder, faces) < 1e-5


def test_what_a_network_does_without_weights_is_exported_and_traced_apart(tmp_path: Path) -> None:
    """Weights are alike in name and shape, so that nothing else tells the two graphs apart."""
    images = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    faces = FaceSet(images, np.zeros(2, np.int64), ("x",) * 2, SPEC)
    weights, exporter = build_model(RECIPE).state_dict(), Exporter()
    ways = ({}, {"network_size": 48}, {"average_flip": True})
    answers = []
    for number, how in enumerate(ways):
        held = Checkpoint(weights, replace(RECIPE, **how), SPEC, CLASSES, 0)
        folder, network = tmp_path / str(number), held.network()
        folder.mkdir()
        exporter.write(held, folder / MODEL_FILE)
        with torch.inference_mode():
            wanted = network(to_input(images, SPEC)).numpy()
        (name,) = (each.name for each in onnx.load(folder / MODEL_FILE).graph.input)
        session = onnxruntime.InferenceSession(folder / MODEL_FILE)
        (given,) = session.run(None, {name: to_input(faces.images, SPEC).numpy()})
        np.testing.assert_allclose(given, wanted, atol=1e-5)
        answers.append(given)
    assert all(np.abs(given - answers[0]).max() > 1e-3 for given in answers[1:])


def test_parity_sees_another_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    torch.manual_seed(1)
    other = Checkpoint(build_model(RECIPE).state_dict(), RECIPE, SPEC, CLASSES, 0)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    faces = FaceSet(images, np.zeros(2, np.int64), ("a", "b"), SPEC)
    assert parity(lambda x: other.network()(x).numpy(), folder, faces) > 1e-3


def test_the_file_says_nothing_about_this_machine(folder: Path) -> None:
    data = (folder / MODEL_FILE).read_bytes()
    for trace in (b"site-packages", b".py", b"/home/", b"/usr/"):
        assert trace not in data
    for folder_here in (Path.home(), Path.cwd(), Path(__file__).parents[3]):
        assert str(folder_here).encode() not in data


def test_inputs_outputs_and_a_single_file(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {MODEL_FILE, "card.json"}
    graph = onnx.load(folder / MODEL_FILE).graph
    assert [value.name for value in graph.input] == ["input"]
    assert [value.name for value in graph.output] == ["logits"]
    batch, *rest = (dim for dim in graph.input[0].type.tensor_type.shape.dim)
    assert batch.dim_param
    assert [dim.dim_value for dim in rest] == [3, 32, 32]


def test_exporting_twice_gives_the_same_bytes(
    checkpoint: Checkpoint, folder: Path, tmp_path: Path
) -> None:
    Exporter().write(checkpoint, tmp_path / MODEL_FILE)
    assert (tmp_path / MODEL_FILE).read_bytes() == (folder / MODEL_FILE).read_bytes()


def test_networks_of_one_structure_are_traced_once_and_keep_their_own_weights(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes as from an exporter of its own; a head that is not alike is traced anew."""
    traced = []
    original = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: traced.append(1) or original(*a, **k))
    others = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        network = build_model(RECIPE)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(layer.running_mean)
        others.append(replace(checkpoint, model=network.state_dict()))
    shared = Exporter()
    for index, held in enumerate((checkpoint, *others)):
        shared.write(held, tmp_path / f"{index}.onnx")
    assert len(traced) == 1
    for index, held in enumerate((checkpoint, *others)):
        Exporter().write(held, tmp_path / "alone.onnx")
        assert (tmp_path / "alone.onnx").read_bytes() == (tmp_path / f"{index}.onnx").read_bytes()
        images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
        with torch.inference_mode():
            wanted = held.network()(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(run(tmp_path / f"{index}.onnx", images), wanted, atol=1e-4)


def test_two_heads_of_one_network_are_two_graphs(tmp_path: Path) -> None:
    torch.manual_seed(2)
    shared, images = Exporter(), torch.randn(3, 3, 32, 32)
    for scale in (10.0, 20.0):
        for in_use in (False, True):
            task = ArcFace(embedding=16, scale=scale)
            recipe = Training(architecture="test_resnet", task=task, init="none", epochs=1)
            network = build_model(recipe)
            network.arc_in_use.fill_(in_use)
            held = Checkpoint(network.state_dict(), recipe, SPEC, CLASSES, 0)
            shared.write(held, tmp_path / "n.onnx")
            with torch.inference_mode():
                wanted = held.network()(images).numpy()
            np.testing.assert_allclose(run(tmp_path / "n.onnx", images.numpy()), wanted, atol=1e-4)


@pytest.mark.parametrize("in_use", [False, True])
def test_a_teacher_exports_with_the_head_that_it_answers_with(in_use: bool, tmp_path: Path) -> None:
    torch.manual_seed(2)
    task = ArcFace(embedding=16, scale=10)
    recipe = Training(architecture="test_resnet", task=task, init="none", epochs=1)
    network = build_model(recipe)
    network.arc_in_use.fill_(in_use)
    teacher = Checkpoint(network.state_dict(), recipe, SPEC, CLASSES, 0)
    Exporter().write(teacher, tmp_path / MODEL_FILE)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        outputs = teacher.network().outputs(images)
    wanted = 10 * outputs.cosine if in_use else outputs.logits
    np.testing.assert_allclose(run(tmp_path / MODEL_FILE, images.numpy()), wanted, atol=1e-4)


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": images})[0]


@pytest.mark.parametrize("fusion", ["logits", "probabilities", "calibrated"])
def test_the_fused_network_is_the_ensembles_formula(
    fusion: str, folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    other = Checkpoint(build_model(RECIPE).state_dict(), RECIPE, SPEC, CLASSES, 0)
    Exporter().write(other, tmp_path / "b.onnx")
    paths, weights, temperatures = (
        (folder / MODEL_FILE, tmp_path / "b.onnx"),
        (0.3, 0.7),
        (1.5, 0.4),
    )
    fused = fuse_onnx([onnx.load(path) for path in paths], weights, fusion, temperatures)
    (tmp_path / "fused.onnx").write_bytes(fused.SerializeToString())
    images = np.random.default_rng(4).normal(size=(5, 3, 32, 32)).astype(np.float32)
    wanted = fuse([run(path, images) for path in paths], weights, fusion, temperatures)
    np.testing.assert_allclose(run(tmp_path / "fused.onnx", images), wanted, atol=1e-4)
