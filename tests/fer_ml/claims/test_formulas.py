"""Each formula by name against the tensors that a training minimises, and what a text may write."""

import math
import random
import statistics
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fer_ml.base.labels import CLASSES
from fer_ml.claims.formulas import FORMULAS, HIGHEST, _drawn, differs, parse
from fer_ml.recipes.training import CE, DIST, DKD, KD, Negative, StandardizedKD, Task, Training
from fer_ml.training.losses import arcface_logits
from fer_ml.training.networks import Outputs
from fer_ml.training.tasks import Batch, Objective

N, C, T = 6, len(CLASSES), 2.5
DRAW = torch.Generator().manual_seed(3)
STUDENT = torch.randn(N, C, generator=DRAW, dtype=torch.float64)
TEACHER = torch.randn(N, C, generator=DRAW, dtype=torch.float64)
Y = torch.arange(N) % C


class Given(nn.Module):
    """A network that gives the logits it is told."""

    def outputs(self, images: torch.Tensor) -> Outputs:
        return Outputs(STUDENT, torch.zeros(N, 4), None)

    def answer(self, outputs: Outputs) -> torch.Tensor:
        return outputs.logits


def loss(recipe: Training, given: torch.Tensor | None = None) -> float:
    objective = Objective(Given(), recipe, torch.ones(C), T)  # type: ignore[arg-type]
    batch = Batch(
        images=torch.zeros(N, 3, 2, 2),
        y=Y,
        target=nn.functional.one_hot(Y, C).float(),
        shown=nn.functional.one_hot(Y, C).bool(),
        epoch=100.0,
        count=N,
        teacher=TEACHER,
        negative=given,
    )
    return float(objective(batch)[0])


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def terms() -> dict[str, float]:
    """The terms by hand, as means over the rows."""
    found = dict.fromkeys(("CE", "KL", "TCKD", "NCKD"), 0.0)
    for student, teacher, y in zip(STUDENT.tolist(), TEACHER.tolist(), Y.tolist(), strict=True):
        found["CE"] -= math.log(softmax(student, 1)[y]) / N
        p, q = softmax(teacher, T), softmax(student, T)
        found["KL"] += kl(p, q) / N
        found["TCKD"] += kl([p[y], 1 - p[y]], [q[y], 1 - q[y]]) / N
        others = [c for c in range(C) if c != y]
        found["NCKD"] += (
            kl([p[c] / (1 - p[y]) for c in others], [q[c] / (1 - q[y]) for c in others]) / N
        )
    tempered = [softmax(row, T) for row in STUDENT.tolist()]
    taught = [softmax(row, T) for row in TEACHER.tolist()]
    found["INTER"] = 1 - mean(map(statistics.correlation, tempered, taught))
    columns = zip(zip(*tempered, strict=True), zip(*taught, strict=True), strict=True)
    found["INTRA"] = 1 - mean(statistics.correlation(a, b) for a, b in columns)
    pairs = zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)
    found["ZKL"] = mean(kl(softmax(z(t), T), softmax(z(s), T)) for s, t in pairs)
    return found


def mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


def z(row: list[float]) -> list[float]:
    return [(value - mean(row)) / statistics.stdev(row) for value in row]


@pytest.mark.parametrize(
    ("name", "task", "values"),
    [
        ("ce", CE(), {}),
        ("kd", KD(ce_weight=0.3, kd_weight=0.7), {"ce_weight": 0.3, "kd_weight": 0.7}),
        (
            "dkd",
            DKD(ce_weight=0.5, tckd_weight=0.5, nckd_weight=4.0),
            {"ce_weight": 0.5, "tckd_weight": 0.5, "nckd_weight": 4.0},
        ),
        (
            "dist",
            DIST(ce_weight=0.5, inter_weight=2.0, intra_weight=3.0),
            {"ce_weight": 0.5, "inter_weight": 2.0, "intra_weight": 3.0},
        ),
        (
            "standardized_kd",
            StandardizedKD(ce_weight=0.5, kd_weight=2.0, temperature=T),
            {"ce_weight": 0.5, "kd_weight": 2.0},
        ),
    ],
)
def test_the_formula_is_what_the_training_minimises(
    name: str, task: Task, values: dict[str, float]
) -> None:
    formula = FORMULAS[name]
    wanted = parse(formula.expression, formula.names()).at({**values, "T": T, **terms()})
    assert loss(
        Training(architecture="resnet18", init="none", epochs=1, task=task)
    ) == pytest.approx(wanted, rel=1e-5)
    assert set(values) == set(formula.settings)


def test_negative_learning_is_minus_log_of_one_minus_p() -> None:
    wrong = (Y + 1) % C
    settings = Negative(weight=0.2, ratio=1.0, source="manifest")
    recipe = Training(architecture="resnet18", init="none", epochs=1, task=CE(), negative=settings)
    formula = FORMULAS["negative"]
    expression = parse(formula.expression, formula.names())
    added = [
        expression.at({"weight": 0.2, "p": softmax(row, 1)[c]})
        for row, c in zip(STUDENT.tolist(), wrong.tolist(), strict=True)
    ]
    assert loss(recipe, wrong) - terms()["CE"] == pytest.approx(sum(added) / N, rel=1e-4)


def test_arcface_is_the_scaled_cosine_with_its_margin() -> None:
    formula = FORMULAS["arcface"]
    expression = parse(formula.expression, formula.names())
    angles = torch.tensor([0.1, 0.5, 0.9, 1.4], dtype=torch.float64)
    cosine = angles.cos()[:, None].repeat(1, C)
    logits = arcface_logits(cosine, torch.zeros(4, dtype=torch.long), 0.35, 30.0)
    for angle, found in zip(angles.tolist(), logits[:, 0].tolist(), strict=True):
        wanted = expression.at({"scale": 30.0, "margin": 0.35, "theta": angle})
        assert found == pytest.approx(wanted, rel=1e-6)


KNOWN = FORMULAS["dkd"].names() | {"a", "b"}


def test_two_ways_to_write_one_formula_are_one() -> None:
    says = parse("T**2 * a * (TCKD + b / a * NCKD) + (1 - a) * CE", KNOWN)
    run = {"ce_weight": 0.5, "tckd_weight": 0.5, "nckd_weight": 4.0, "T": 2.0}
    assert differs(says, FORMULAS["dkd"], run, {"a": 0.5, "b": 4}) is None
    assert differs(says, FORMULAS["dkd"], run, {"a": 0.5, "b": 2}) is not None


def test_a_number_that_the_text_states_is_held_against_the_runs() -> None:
    says = parse("ce_weight * CE + kd_weight * T^2 * KL", FORMULAS["kd"].names())
    run = {"ce_weight": 1.0, "kd_weight": 1.0, "T": 2.0}
    assert differs(says, FORMULAS["kd"], run, {}) is None
    assert differs(says, FORMULAS["kd"], run, {"T": 2.0}) is None
    assert differs(says, FORMULAS["kd"], run, {"T": 5.0}) is not None


def test_the_first_pipelines_dkd_was_another_one_than_its_report_says() -> None:
    # Its code computed (1 - a) CE + a T^2 (TCKD + b NCKD): half the weight on NCKD.
    says = parse("(1 - a) * CE + a * T^2 * TCKD + b * T^2 * NCKD", KNOWN)
    code = {"ce_weight": 0.5, "tckd_weight": 0.5, "nckd_weight": 2.0, "T": 2.0}
    found = differs(says, FORMULAS["dkd"], code, {"a": 0.5, "b": 4})
    assert "the text's formula gives" in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CE +",
        "x",
        "CE.real",
        "CE[0]",
        "__import__('os')",
        "exp(CE, CE)",
        "exp(x=CE)",
        "'a'",
        "True",
        "CE if CE else CE",
        "lambda: 1",
        "1j",
        "a := 1",
        "(" * 300 + "CE" + ")" * 300,
        "CE // 2",
    ],
)
def test_what_is_no_formula(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text, KNOWN)


@pytest.mark.parametrize("text", ["1/0", "log(0 - 1)", "9^9^9^9", "(0-1)^0.5", "exp(10000)"])
def test_a_formula_without_a_value_is_another_one(text: str) -> None:
    assert math.isnan(parse(text, KNOWN).at({}))
    assert differs(parse(text, KNOWN), FORMULAS["ce"], {}, {}) is not None


@settings(max_examples=300)
@given(st.text(max_size=40))
def test_any_text_is_a_formula_or_a_value_error(text: str) -> None:
    try:
        parse(text, KNOWN).at(dict.fromkeys(KNOWN, 0.5))
    except ValueError:
        return


def test_a_formula_that_agrees_at_points_that_are_known_is_another_one() -> None:
    draw = random.Random(0)
    known = [draw.uniform(0.1, 0.9) for _ in range(8)]
    fitted = "CE + 1000 * " + " * ".join(f"(CE - {point!r})" for point in known)
    says = parse(fitted, FORMULAS["ce"].names())
    assert all(math.isclose(says.at({"CE": p}), p, rel_tol=1e-9) for p in known)
    assert differs(says, FORMULAS["ce"], {}, {}) is not None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ce", "CE + exp(0 - 10 * (CE - 3)^2)"),
        ("ce", "sqrt((CE - 1)^2) + 1"),
        ("negative", "weight * (p + p^2 / 2 + p^3 / 3 + p^4 / 4 + p^5 / 5 + p^6 / 6)"),
        ("arcface", "scale * sin(theta + margin + 1.5707)"),
    ],
)
def test_a_formula_that_nearly_agrees_is_another_one(name: str, text: str) -> None:
    formula = FORMULAS[name]
    run = dict.fromkeys(formula.settings, 0.3)
    assert differs(parse(text, formula.names()), formula, run, {}) is not None


@given(st.sampled_from(sorted(FORMULAS)), st.floats(0.1, 4), st.floats(0.5, 5))
@settings(max_examples=60)
def test_each_formula_is_its_own_and_no_other(name: str, weight: float, warm: float) -> None:
    formula = FORMULAS[name]
    run = {**dict.fromkeys(formula.settings, weight), **({"T": warm} if formula.warm else {})}
    says = f"1 * ({formula.expression}) + 0"
    assert differs(parse(says, formula.names()), formula, run, {}) is None
    off = parse(f"({formula.expression}) * 1.000001", formula.names())
    assert differs(off, formula, run, {}) is not None


@pytest.mark.parametrize("name", ["p", "theta", "CE"])
def test_terms_are_drawn_inside_their_range_near_both_ends_of_it_and_round(name: str) -> None:
    high = HIGHEST.get(name, 20.0)
    values = [_drawn(random.Random(point), name, point) for point in range(400)]
    assert all(0 < value < high for value in values)
    assert min(values) < high * 1e-8 and max(values) > high * (1 - 1e-8)
    assert {value / high * 8 for value in values[3::4]} == {1, 2, 3, 4, 5, 6, 7}
    assert len({round(value / high, 1) for value in values[::4]}) > 8
