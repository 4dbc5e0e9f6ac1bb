"""The loop trains, is deterministic, keeps rows together, and refuses what cannot train."""

import io
import logging
import math
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tqdm import tqdm

from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import DIST, KD, ArcFace, Imbalance, Locality, Prototype, Training
from fer_ml.training import loop
from fer_ml.training.loop import Place, Trained, train
from fer_ml.training.models import build_model, weights_hash
from fer_ml.training.networks import Outputs, Plain
from fer_ml.training.prediction import predict
from fer_ml.training.ranks import Ranks
from fer_ml.training.tasks import Batch, Objective
from fer_ml.training.views import FaceSet, SoftTargets
from tests.refusals import refused

Make = Callable[..., FaceSet]


def run(
    recipe: Training, faces: Make, seed: int = 1, n: int = 59, size: int = 16, **more: Any
) -> Trained:
    torch.manual_seed(seed)
    spec = Preprocess(size=size, clahe_clip=0.0)
    rows = {"train": faces(n, spec=spec), "val": faces(28, seed=9, spec=spec)}
    return train(build_model(recipe), recipe, rows["train"], rows["val"], seed=seed, **more)


def test_a_tiny_network_learns_and_two_runs_give_the_same_weights(
    recipe: Training, faces: Make
) -> None:
    one, again, other = (run(recipe, faces, seed) for seed in (1, 1, 2))
    assert weights_hash(one.state) == weights_hash(again.state)
    assert weights_hash(one.state) != weights_hash(other.state)
    assert one.steps == 2 * 7, "59 rows are seven whole batches of eight"
    assert [entry["epoch"] for entry in one.history] == [0, 1]
    scores = [entry["val"]["macro_f1"] for entry in one.history]
    assert one.best_epoch == scores.index(max(scores))
    assert max(scores) > 0.5
    assert one.history[-1]["train"]["loss"] < one.history[0]["train"]["loss"]
    assert one.history[-1]["coverage"] > 0.98
    assert one.history[0]["coverage"] == pytest.approx(56 / 59)


def test_the_time_left_is_that_of_the_whole_training(
    recipe: Training, faces: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = []

    class Bar(tqdm):
        def __init__(self, **given: Any) -> None:
            super().__init__(**{**given, "file": io.StringIO(), "disable": False})
            bars.append(self)

    monkeypatch.setattr(loop, "tqdm", Bar)
    run(recipe, faces)
    assert [(bar.initial, bar.n, bar.total) for bar in bars] == [(0, 7, 14), (7, 14, 14)]


def test_the_best_weights_are_those_of_the_best_epoch(recipe: Training, faces: Make) -> None:
    """Not the last ones, and not a view that later epochs overwrite."""
    trained = run(recipe, faces)
    model = build_model(recipe)
    model.load_state_dict(trained.state)
    logits = predict(model, faces(28, seed=9))
    accuracy = (logits.argmax(1) == faces(28).y).mean()
    assert accuracy == trained.history[trained.best_epoch]["val"]["accuracy"]


@pytest.mark.parametrize(("n", "drop_last"), [(7, True), (1, False)])
def test_a_training_without_a_step_is_refused(
    recipe: Training, faces: Make, n: int, drop_last: bool
) -> None:
    with refused("too-few-rows") as caught:
        run(replace(recipe, drop_last=drop_last), faces, n=n)
    assert str(n) in caught.value.what


OPTIONS = {
    "accumulation": {"accumulate": 2, "drop_last": False},
    "ema": {"ema": 0.9},
    "precise_bn": {"precise_bn": 32},
    "precise_bn of an average": {"precise_bn": 32, "ema": 0.9},
    "mixup": {"mixup": 0.4},
    "smoothing": {"label_smoothing": 0.1},
    "fp16": {"precision": "fp16"},
    "crop": {"augment": "crop", "erase": 0.25},
    "camera": {"augment": "camera", "strength": 0.7},
    "sgd": {"optimiser": "sgd", "lr": 0.05},
    "nested": {"optimiser": "nested"},
    "balanced": {"imbalance": Imbalance(sampler="balanced")},
    "prototype": {"prototype": Prototype(weight=0.01)},
    "votes": {"targets": "votes"},
    "arcface": {"task": ArcFace(embedding=16, plain_epochs=1, ramp_end=2, scale=8, margin=0.1)},
}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_option_learns(recipe: Training, faces: Make, name: str) -> None:
    trained = run(replace(recipe, epochs=4, **OPTIONS[name]), faces)
    losses = [entry["train"]["loss"] for entry in trained.history]
    assert all(math.isfinite(loss) for loss in losses)
    assert max(entry["val"]["macro_f1"] for entry in trained.history) > 0.5


def test_bf16_learns(recipe: Training, faces: Make) -> None:
    trained = run(replace(recipe, precision="bf16"), faces, size=64)
    assert max(entry["val"]["macro_f1"] for entry in trained.history) > 0.5
    assert trained.precision == "bf16"


def test_accumulation_takes_the_step_of_the_whole_batch(recipe: Training, faces: Make) -> None:
    """Also for the last, short one. LayerNorm, since BatchNorm sees parts by design."""
    base = replace(
        recipe, architecture="test_convnext", optimiser="sgd", lr=0.05, drop_last=False, epochs=1
    )
    one, parts = (run(r, faces, size=32) for r in (base, replace(base, accumulate=4)))
    assert one.steps == parts.steps == 8, "59 rows: seven whole batches and one of three"
    for name, weight in one.state.items():
        torch.testing.assert_close(parts.state[name], weight, atol=1e-5, rtol=1e-4)


def test_the_moving_average_is_what_is_measured_and_kept(recipe: Training, faces: Make) -> None:
    plain, averaged = run(recipe, faces), run(replace(recipe, ema=0.99), faces)
    assert weights_hash(plain.state) != weights_hash(averaged.state)
    model = build_model(recipe)
    model.load_state_dict(averaged.state)
    accuracy = (predict(model, faces(28, seed=9)).argmax(1) == faces(28).y).mean()
    assert accuracy == averaged.history[averaged.best_epoch]["val"]["accuracy"]


def test_a_loss_that_compares_rows_needs_the_whole_step(recipe: Training, faces: Make) -> None:
    """A correlation within the classes, or neighbours, of half a step are others."""
    two = Ranks(0, 2, torch.device("cpu"))
    with refused("needs-one-process") as caught:
        run(replace(recipe, locality=Locality()), faces, ranks=two)
    assert "locality" in str(caught.value) and caught.value.fix
    inter = replace(recipe, task=DIST(intra_weight=0), accumulate=2)
    assert inter.compares_rows == ()


@pytest.mark.parametrize("tune", ["head", "last_block", "norm"])
def test_what_is_not_tuned_stays_to_the_bit(recipe: Training, faces: Make, tune: str) -> None:
    torch.manual_seed(1)
    before = {k: v.clone() for k, v in build_model(recipe).state_dict().items()}
    trained = run(replace(recipe, tune=tune), faces)
    changed = {k for k, v in trained.state.items() if not torch.equal(v, before[k])}
    wanted = {
        "head": r"backbone\.fc\.",
        "last_block": r"backbone\.(fc|layer4)\.",
        "norm": r"(bn\d|downsample\.2|conv1\.[14])\.(weight|bias)$",
    }[tune]
    assert changed
    assert all(re.search(wanted, name) for name in changed), sorted(changed)
    assert not any("running" in name for name in changed), "BatchNorm's statistics stand still"


class Linear(Plain):
    def __init__(self) -> None:
        super().__init__(torch.nn.Identity())
        self.head = torch.nn.Linear(3, 7)

    def outputs(self, images: torch.Tensor) -> Outputs:
        features = images.mean(dim=(2, 3))
        return Outputs(self.head(features), features)


def with_loss(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]) -> None:
    """Train ``Linear`` with a loss of the test's own."""

    class Own(Objective):
        def __init__(self, network: Any, recipe: Training, counts: Any, temperature: Any) -> None:
            torch.nn.Module.__init__(self)
            self.network, self.memory = network, None

        def forward(self, batch: Batch) -> Any:
            return function(self.network, batch), {}

    monkeypatch.setattr(loop, "Objective", Own)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training(
    recipe: Training, faces: Make, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_loss(
        monkeypatch, lambda net, b: net(b.images).sum() * (bad if b.epoch >= 1 else 1.0) / b.count
    )
    with refused("loss-not-finite"):
        train(Linear(), recipe, faces(24), faces(14), seed=0)


def test_teacher_rows_stay_with_their_images(
    recipe: Training, faces: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shuffled, sorted and augmented, each image still meets its own label and its own teacher."""
    n = 50
    rng = np.random.default_rng(4)
    shades = rng.permutation(n) * 4
    images = np.broadcast_to(shades[:, None, None, None], (n, 16, 16, 3)).astype(np.uint8)
    y = rng.integers(0, 7, n)
    spec = replace(faces(1).preprocess, mean=(0.0,) * 3, std=(1.0,) * 3)
    data = FaceSet(images, y, tuple(map(str, range(n))), spec)
    teacher = np.zeros((n, 3, 7), np.float32)
    teacher[..., 0], teacher[..., 1] = shades[:, None], y[:, None]
    teacher[..., 2] = np.arange(3)
    seen: list[list[int]] = [[] for _ in range(4)]
    numbers: list[set[int]] = [set() for _ in range(4)]

    def loss(net: Any, batch: Batch) -> torch.Tensor:
        assert batch.teacher is not None
        shown = (batch.images[:, 0, 8, 8] * 255).round()
        assert torch.equal(shown, batch.teacher[:, 0])
        assert torch.equal(batch.y.float(), batch.teacher[:, 1])
        seen[int(batch.epoch)] += shown.int().tolist()
        numbers[int(batch.epoch)] |= set(batch.teacher[:, 2].int().tolist())
        return net(batch.images).square().sum()

    with_loss(monkeypatch, loss)
    own = replace(recipe, strength=0.0, epochs=4, drop_last=False, batch_size=10)
    soft = SoftTargets(teacher, 1.0, view_seed=5)
    train(Linear(), own, data, faces(14), seed=0, soft=soft)
    assert all(sorted(epoch) == sorted(shades.tolist()) for epoch in seen)
    assert seen[0] != seen[1]
    assert numbers == [{0}, {1}, {2}, {0}], "views take turns with the epochs"


def test_a_face_shows_each_class_that_is_mixed_into_it(
    recipe: Training, faces: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no wrong class is drawn among them. What smoothing adds is no class that is there."""
    held: list[Batch] = []

    def loss(net: Any, batch: Batch) -> torch.Tensor:
        held.append(batch)
        return net(batch.images).square().sum()

    with_loss(monkeypatch, loss)
    train(Linear(), replace(recipe, mixup=1.0, label_smoothing=0.1), faces(28), faces(14), seed=0)
    for batch in held:
        assert torch.equal(batch.shown, batch.target > 0.1 / 7 + 1e-6)
    assert {int(number) for batch in held for number in batch.shown.sum(dim=1)} == {1, 2}


def test_a_student_sees_the_very_views_that_its_teacher_labelled(
    recipe: Training, faces: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fer_ml.training.views import face_keys, uniforms, views

    data, shown = faces(20), []

    def loss(net: Any, batch: Batch) -> torch.Tensor:
        shown.append((batch.y, batch.teacher, batch.images))
        return net(batch.images).square().sum()

    with_loss(monkeypatch, loss)
    keys = face_keys(data.sample_ids)
    labelled = [
        views(data.images, uniforms(keys, 77, v), recipe, data.preprocess) for v in range(2)
    ]
    # The mean of each view stands for a teacher's answer to it.
    soft = torch.stack([v.mean(dim=(1, 2, 3)) for v in labelled], 1)
    teacher = np.repeat(soft.numpy()[:, :, None], 7, axis=2)
    train(Linear(), recipe, data, faces(14), seed=0, soft=SoftTargets(teacher, 1.0, 77))
    for _, answer, pixels in shown:
        torch.testing.assert_close(pixels.mean(dim=(1, 2, 3)), answer[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_saves_and_is_handed_on(
    recipe: Training,
    faces: Make,
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with Ctrl-C, SIGTERM, and a run that Dagster cancels, which raises from a handler."""

    class Cancelled(BaseException):
        pass

    def handler(*_: object) -> None:
        raise Cancelled

    whole = run(recipe, faces)
    before = signal.signal(number, handler)
    steps = []
    original = loop._Run._step

    def step(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        steps.append(self.progress.step)
        if len(steps) == 5:
            signal.raise_signal(number)

    monkeypatch.setattr(loop._Run, "_step", step)
    caplog.set_level(logging.INFO)
    try:
        with pytest.raises(Cancelled):
            run(recipe, faces, place=Place(tmp_path, "key"))
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert steps == [1, 2, 3, 4, 5]
    assert "stopped at step 5" in caplog.text
    again = run(recipe, faces, place=Place(tmp_path, "key"))
    assert steps[5:] == list(range(6, 15))
    assert weights_hash(again.state) == weights_hash(whole.state)


def test_another_training_s_state_is_refused(recipe: Training, faces: Make, tmp_path: Path) -> None:
    run(recipe, faces, place=Place(tmp_path, "one"))
    with refused("snapshot-mismatch") as caught:
        run(recipe, faces, place=Place(tmp_path, "other"))
    assert "remove" in str(caught.value.fix)


def test_running_out_of_memory_names_what_to_try(
    recipe: Training, faces: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(net: Any, batch: Batch) -> torch.Tensor:
        return torch.empty(1 << 60)

    with_loss(monkeypatch, loss)
    with refused("out-of-memory") as caught:
        train(Linear(), recipe, faces(24), faces(14), seed=0)
    assert "16 px" in caught.value.what
    assert "accumulate = 2" in str(caught.value.fix)
    assert "4 rows a pass" in str(caught.value.fix)


def test_distillation_takes_the_temperature_of_the_recipe_or_of_the_soft_labels(
    recipe: Training, faces: Make
) -> None:
    soft = SoftTargets(np.zeros((59, 1, 7), np.float32), 3.0)
    derived = run(replace(recipe, task=KD(), epochs=1), faces, soft=soft)
    given = run(replace(recipe, task=KD(temperature=3.0), epochs=1), faces, soft=soft)
    other = run(replace(recipe, task=KD(temperature=1.0), epochs=1), faces, soft=soft)
    assert weights_hash(derived.state) == weights_hash(given.state)
    assert weights_hash(derived.state) != weights_hash(other.state)
