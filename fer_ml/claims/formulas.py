"""Named formulas that the code computes, and their comparison with a formula in a text.

Each formula is an expression over terms (``CE``, ``KL``) and over the recipe's own settings. A test
compares every expression with the tensors of ``fer_ml.training``. This module needs no torch: it
compares a text's expression with the formula at points drawn from both texts.
"""

import ast
import hashlib
import math
import operator
import random
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

POINTS = 64
#: A term lies between 0 and this, if it is no loss, which has no end.
HIGHEST: Mapping[str, float] = {"p": 1.0, "theta": math.pi, "INTER": 2.0, "INTRA": 2.0}

_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "log": math.log,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "cos": math.cos,
    "sin": math.sin,
}


@dataclass(frozen=True)
class Formula:
    """A formula: ``expression`` over ``terms``, settings at ``recipe`` (a JSON pointer), maybe T.

    ``terms`` maps each term's name to its meaning. A ``warm`` formula has a temperature T: the
    recipe's, or else the one derived for the soft labels, which the run's ``training.json`` states.
    """

    expression: str
    terms: Mapping[str, str]
    settings: tuple[str, ...] = ()
    recipe: str = "/training/task"
    warm: bool = False

    def names(self) -> frozenset[str]:
        """Every name that a text may use for this formula."""
        return frozenset((*self.terms, *self.settings, *(("T",) if self.warm else ())))


_CE = {"CE": "cross entropy with the label"}
_KL = "KL(softmax(teacher / T) || softmax(student / T))"

#: By the name of the recipe's task; ``negative`` is the additional term.
FORMULAS: dict[str, Formula] = {
    "ce": Formula("CE", _CE),
    "kd": Formula(
        "ce_weight * CE + kd_weight * T^2 * KL",
        {**_CE, "KL": _KL},
        ("ce_weight", "kd_weight"),
        warm=True,
    ),
    "dkd": Formula(
        "ce_weight * CE + tckd_weight * T^2 * TCKD + nckd_weight * T^2 * NCKD",
        {**_CE, "TCKD": "KL of (target, all others)", "NCKD": "KL over the others"},
        ("ce_weight", "tckd_weight", "nckd_weight"),
        warm=True,
    ),
    "dist": Formula(
        "ce_weight * CE + inter_weight * T^2 * INTER + intra_weight * T^2 * INTRA",
        {
            **_CE,
            "INTER": "1 - mean correlation of softmax(student / T) and softmax(teacher / T) by row",
            "INTRA": "the same by class",
        },
        ("ce_weight", "inter_weight", "intra_weight"),
        warm=True,
    ),
    "standardized_kd": Formula(
        "ce_weight * CE + kd_weight * T^2 * ZKL",
        {**_CE, "ZKL": "KL(softmax(z(teacher) / T) || softmax(z(student) / T)), z of each row"},
        ("ce_weight", "kd_weight"),
        warm=True,
    ),
    "arcface": Formula(
        "scale * cos(theta + margin)",
        {"theta": "angle between the face and its class, in radians"},
        ("scale", "margin"),
    ),
    "negative": Formula(
        "weight * -log(1 - p)",
        {"p": "probability of a class that the face does not show"},
        ("weight",),
        recipe="/training/negative",
    ),
}


@dataclass(frozen=True)
class Expression:
    """A parsed expression: arithmetic, ``log exp sqrt cos sin``, names and numbers."""

    tree: ast.expr

    def at(self, values: Mapping[str, float]) -> float:
        """Return the value of the expression for these names; NaN where it is undefined."""
        try:
            number = _evaluate(self.tree, values)
        except (ArithmeticError, ValueError):
            return math.nan
        return number if isinstance(number, float) else math.nan


def parse(text: str, names: Set[str]) -> Expression:
    """Parse an expression (``^`` is a power) over ``names``; ``ValueError`` states the fault."""
    try:
        tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
        _check(tree, names)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an expression: {text[:60]!r}") from error
    return Expression(tree)


def differs(
    says: Expression,
    formula: Formula,
    values: Mapping[str, float],
    symbols: Mapping[str, float],
) -> str | None:
    """Say where a text's expression and the code's differ; ``None`` when they are equal.

    ``values`` are the run's settings and T. ``symbols`` are the text's own values and apply to its
    expression only, so a T that the text states is compared with the run's. Terms are drawn anew
    for each comparison, seeded by the text's expression and its settings. An expression fitted to
    earlier points is another text and meets other points. Values are drawn near 0 and 1, near each
    other, and at the size of losses.
    """
    code = parse(formula.expression, formula.names())
    seed = repr((ast.dump(says.tree), formula.expression, sorted({**values, **symbols}.items())))
    draw = random.Random(hashlib.sha256(seed.encode()).digest())
    for point in range(POINTS):
        terms = {name: _drawn(draw, name, point) for name in formula.terms}
        left, right = says.at({**values, **symbols, **terms}), code.at({**values, **terms})
        if not math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12):
            at = ", ".join(f"{name} = {value:.3g}" for name, value in terms.items())
            return f"at {at} the text's formula gives {left:.6g}, the code's {right:.6g}"
    return None


def _drawn(draw: random.Random, name: str, point: int) -> float:
    """Draw a value of a term: inside its range, near an end of it, or a round number."""
    high, kind = HIGHEST.get(name, 20.0), point % 4
    if kind == 0:
        return draw.uniform(0, high)
    if kind == 1:
        return high * 10 ** draw.uniform(-9, -1)
    if kind == 2:
        return high - high * 10 ** draw.uniform(-9, -1)
    return high * draw.randint(1, 7) / 8


def _check(node: ast.expr, names: Set[str]) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        _check(node.left, names)
        _check(node.right, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        _check(node.operand, names)
    elif isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        if not known or len(node.args) != 1 or node.keywords:
            raise ValueError(f"functions of one value are {', '.join(_FUNCTIONS)}")
        _check(node.args[0], names)
    elif isinstance(node, ast.Name):
        if node.id not in names:
            raise ValueError(f"unknown name {node.id!r}; known are {', '.join(sorted(names))}")
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        raise ValueError("only + - * / ^, functions, names and numbers may stand in a formula")


def _evaluate(node: ast.expr, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](
            _evaluate(node.left, values), _evaluate(node.right, values)
        )
    if isinstance(node, ast.UnaryOp):
        value = _evaluate(node.operand, values)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _FUNCTIONS[node.func.id](_evaluate(node.args[0], values))
    if isinstance(node, ast.Name):
        return values[node.id]
    assert isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    return float(node.value)
