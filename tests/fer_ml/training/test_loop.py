"""The loop trains, is deterministic, keeps rows together, and refuses what cannot train."""

import math

import numpy as np
import pytest
import torch

from fer_ml.errors import FerError
from fer_ml.preprocess import Preprocess
from fer_ml.profiles import CE, Training
from fer_ml.training.checkpoint import weights_hash
from fer_ml.training.faces import FaceSet
from fer_ml.training.loop import learning_rate, predict, train
from fer_ml.training.models import build_model
from fer_ml.training.tasks import Batch, make_task

SPEC = Preprocess(size=16, clahe_clip=0)
RECIPE = Training(
    architecture="test_resnet",
    task=CE(),
    init="none",
    epochs=2,
    batch_size=8,
    lr=3e-3,
    warmup_epochs=0.5,
    augment=0.2,
)


def faces(n: int, seed: int = 0) -> FaceSet:
    """Seven classes that differ in colour, with noise: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 7
    colour = np.array([[(c >> k & 1) * 200 + 20 for k in range(3)] for c in range(1, 8)])
    images = colour[y][:, None, None, :] + rng.integers(0, 20, (n, 16, 16, 3))
    return FaceSet(images.astype(np.uint8), y, tuple(f"s{i}" for i in range(n)), SPEC)


def by_hand(epoch: float) -> float:
    recipe = RATE
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    progress = (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2


RATE = RECIPE.model_copy(update={"epochs": 5, "lr": 0.1, "min_lr": 0.01, "warmup_epochs": 2.0})


def test_learning_rate_by_hand() -> None:
    rates = [learning_rate(RATE, step, 10) for step in range(50)]
    assert rates[0] == pytest.approx(0.005), "the first step already learns"
    assert rates[:20] == pytest.approx([by_hand((step + 1) / 10) for step in range(19)] + [0.1])
    assert rates[20:] == pytest.approx([by_hand(step / 10) for step in range(20, 50)])
    assert max(rates) == pytest.approx(0.1)
    assert rates[35] == pytest.approx(0.055), "half way down, half the way"
    assert learning_rate(RATE, 50, 10) == pytest.approx(0.01)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    recipe = RATE.model_copy(update={"warmup_epochs": 0.0})
    assert learning_rate(recipe, 0, 10) == 0.1


def run(recipe: Training = RECIPE, seed: int = 1, n: int = 59):
    torch.manual_seed(seed)
    model = build_model(recipe)
    return train(
        model, make_task(recipe.task, None), recipe, faces(n), faces(28, seed=9), seed=seed
    )


def test_a_tiny_network_learns_and_two_runs_give_the_same_weights() -> None:
    one, again, other = run(), run(), run(seed=2)
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


def test_the_best_weights_are_those_of_the_best_epoch() -> None:
    """Not the last ones, and not a view that later epochs overwrite."""
    trained = run()
    model = build_model(RECIPE)
    model.load_state_dict(trained.state)
    logits = predict(model, faces(28, seed=9))
    accuracy = (logits.argmax(1) == faces(28).y).mean()
    assert accuracy == trained.history[trained.best_epoch]["val"]["accuracy"]


@pytest.mark.parametrize(("n", "drop_last"), [(7, True), (1, False)])
def test_too_few_rows_are_refused(n: int, drop_last: bool) -> None:
    with pytest.raises(FerError, match=rf"{n} training rows give no batch of 8"):
        run(RECIPE.model_copy(update={"drop_last": drop_last}), n=n)


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 7)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.mean(dim=(2, 3)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training(bad: float) -> None:
    def task(model: torch.nn.Module, batch: Batch):
        scale = bad if batch.epoch >= 1 else 1.0
        return model(batch.images).sum() * scale, {}

    with pytest.raises(FerError, match=r"loss is -?(nan|inf) at step 3"):
        train(Linear(), task, RECIPE, faces(24), faces(14), seed=0)


def test_teacher_rows_stay_with_their_images() -> None:
    """Shuffled, sorted and augmented, each image still meets its own label and its own teacher."""
    n = 50
    rng = np.random.default_rng(4)
    values = rng.permutation(n) * 4
    images = np.broadcast_to(values[:, None, None, None], (n, 16, 16, 3)).astype(np.uint8)
    y = rng.integers(0, 7, n)
    spec = SPEC.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    data = FaceSet(images, y, tuple(map(str, range(n))), spec)
    teacher = np.zeros((n, 7), np.float32)
    teacher[:, 0], teacher[:, 1] = values, y
    recipe = RECIPE.model_copy(update={"augment": 0.0, "epochs": 2, "drop_last": False})
    seen: list[list[int]] = [[], []]

    def task(model: torch.nn.Module, batch: Batch):
        assert batch.teacher is not None
        shown = (batch.images[:, 0, 8, 8] * 255).round()
        assert torch.equal(shown, batch.teacher[:, 0])
        assert torch.equal(batch.y.float(), batch.teacher[:, 1])
        seen[int(batch.epoch)] += shown.int().tolist()
        return model(batch.images).square().sum(), {}

    train(Linear(), task, recipe, data, faces(14), seed=0, teacher=teacher)
    assert sorted(seen[0]) == sorted(seen[1]) == sorted(values.tolist())
    assert seen[0] != seen[1]


def test_prediction_is_in_the_rows_order_whatever_the_batch() -> None:
    torch.manual_seed(0)
    model, data = build_model(RECIPE), faces(13)
    whole = predict(model, data)
    assert whole.shape == (13, 7)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(predict(model, data, batch_size=4), whole, atol=1e-5)
    assert not model.training
