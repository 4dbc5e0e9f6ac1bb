"""Decide whether two faces are one photo: align one to the other, and compare fine detail.

1. ``Views``: 225 coarse views of the first face (shifted, turned, scaled) are compared with the
   second. The search starts at the best one; most pairs of different photos are rejected here.
2. ``align``: Gauss-Newton steps to the similarity (shift, turn, scale) that makes the greys most
   alike, up to brightness and contrast.
3. ``detail``: the correlation of what a blur removes, where both faces are visible.

Each sum is of whole numbers that its type holds exactly, and everything else is done element by
element. So the result is the same on every processor.
"""

from functools import cache

import numpy as np

from fer_ml.images.inspection import THUMB_SIDE, THUMB_SIZE

#: Coarse views: px of 24, degrees, scale.
SHIFTS = (-2, -1, 0, 1, 2)
TURNS = (-6, 0, 6)
SCALES = (1 / 1.14, 1.0, 1.14)
#: Side of a coarse face, and of its inner part that is compared.
_COARSE, _INNER = 12, 8
#: Length of a coarse view; greys of an aligned face are in sixteenths.
_LENGTH, _FINE = 512, 16
#: Width (px of 12) of the blur that coarse views lack, and parts of which their weights are.
_BLURRED, _PARTS = 2.0, 4096
#: Width of a blur and number of steps: what tells most other photos apart, and the rest.
FIRST, LATER = ((1.5, 1),), ((1.5, 2), (0.7, 3))
#: What keeps a step short where a face has little to go by.
_DAMP = np.array([1.0, 1.0, 0.015, 0.015])
#: The least part of a face that both must show.
_SHARED = 0.4
_CENTRE = (THUMB_SIDE - 1) / 2
_Y, _X = np.mgrid[:THUMB_SIDE, :THUMB_SIDE] - _CENTRE


def coarse(thumbs: np.ndarray) -> np.ndarray:
    """Return ``[N, 144] float32``, whole numbers: sums of 2x2 greys around 0."""
    sums = thumbs.reshape(-1, _COARSE, 2, _COARSE, 2).sum((2, 4), dtype=np.int32)
    return (sums.reshape(-1, _COARSE**2) - 510).astype(np.float32)


def inner(faces: np.ndarray) -> np.ndarray:
    """Return ``[N, 64] float32``, whole, of length 512: the compared part of coarse faces."""
    return _scaled(faces @ _weights(np.array([[1.0, 0, 0, 0]])))


def views(faces: np.ndarray) -> np.ndarray:
    """Return ``[N, views, 64] float32``: the compared part of each view of coarse faces."""
    moved = faces @ _weights(view_moves())
    return _scaled(moved.reshape(-1, _INNER**2)).reshape(len(faces), -1, _INNER**2)


def _scaled(rows: np.ndarray) -> np.ndarray:
    """Return rows scaled to length 512 and rounded."""
    wide = rows.astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return np.rint(rows * (_LENGTH / np.maximum(length, 1)).astype(np.float32)[:, None])


@cache
def view_moves() -> np.ndarray:
    """Return ``[views, 4]``: cosine and sine times scale, and shift in px of 24, of each view."""
    moves = np.array(
        [
            (s * np.cos(np.deg2rad(t)), s * np.sin(np.deg2rad(t)), x, y)
            for s in SCALES
            for t in TURNS
            for y in SHIFTS
            for x in SHIFTS
        ]
    )
    return np.rint(4096 * moves) / 4096  # A cosine may differ in its last bit elsewhere.


_HELD: dict[bytes, np.ndarray] = {}


def _weights(moves: np.ndarray) -> np.ndarray:
    """Return ``[144, views * 64]``, whole: the greys that make each px of each view, less blur."""
    if moves.tobytes() not in _HELD:
        edge = (_COARSE - _INNER) // 2
        side = np.arange(edge, _COARSE - edge) - (_COARSE - 1) / 2
        y, x = (each.reshape(-1) for each in np.meshgrid(side, side, indexing="ij"))
        blur = np.exp(-((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2) / (2 * _BLURRED**2))
        fine = np.eye(len(x)) - blur / blur.sum(1, keepdims=True)
        fine -= fine.mean(0)
        row, column = np.mgrid[:_COARSE, :_COARSE].reshape(2, -1, 1)
        parts = []
        for a, b, right, down in moves:
            at_x = np.clip(a * x - b * y + right / 2 + (_COARSE - 1) / 2, 0, _COARSE - 1)
            at_y = np.clip(b * x + a * y + down / 2 + (_COARSE - 1) / 2, 0, _COARSE - 1)
            near = np.maximum(1 - abs(at_x - column), 0) * np.maximum(1 - abs(at_y - row), 0)
            parts.append(np.rint(_PARTS * (near @ fine.T)))
        _HELD[moves.tobytes()] = np.concatenate(parts, 1).astype(np.float32)
    return _HELD[moves.tobytes()]


def best_view(seen: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best likeness and its view's index, for each of ``others``.

    ``seen [views, 64]`` are one face's views, ``others [M, 64]`` the other faces.
    """
    likeness = others @ seen.T
    best = likeness.argmax(1)
    return likeness[np.arange(len(best)), best] / _LENGTH**2, best


def align(
    first: np.ndarray,
    second: np.ndarray,
    moves: np.ndarray,
    plan: tuple[tuple[float, int], ...],
) -> np.ndarray:
    """Return the moves ``[P, 4] float64`` of ``first [P, 576]`` onto ``second``, from ``moves`` on.

    A move ``(a, b, x, y)`` takes the px ``(u, v)``, from the centre, to ``(a u - b v + x, b u + a v
    + y)``.
    """
    moves = moves.astype(np.float64)
    for width, steps in plan:
        one, other = _blurred(first, width), _blurred(second, width)
        for _ in range(steps):
            moves = _composed(moves, _step(one, other, moves))
    return moves


def _step(one: np.ndarray, other: np.ndarray, moves: np.ndarray) -> np.ndarray:
    moved, inside = _moved(one, moves)
    moved, other = _levelled(moved, inside), _levelled(other, inside)
    both = moved + other
    across, down = np.zeros_like(both), np.zeros_like(both)
    across[:, :, 1:-1] = both[:, :, 2:] - both[:, :, :-2]
    down[:, 1:-1] = both[:, 2:] - both[:, :-2]
    across *= inside
    down *= inside
    u, v = 2 * _X, 2 * _Y
    slope = np.stack((across * u + down * v, down * u - across * v, across, down), 1)
    slope = slope.reshape(len(one), 4, THUMB_SIZE)
    table = np.matmul(slope, slope.transpose(0, 2, 1))
    goal = np.matmul(slope, (other - moved).reshape(len(one), THUMB_SIZE, 1))[:, :, 0]
    # Slopes are four times too large (two pictures, two px), and the first two eight times.
    unit = np.array([8.0, 8.0, 4.0, 4.0])
    table = table / (unit[:, None] * unit) + np.diag(_DAMP) * _LEVEL**2
    changes = _solved(table, goal / unit)
    limit = np.array([0.1, 0.1, 1.5, 1.5])
    return np.clip(changes, -limit, limit)


def _solved(table: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Solve ``table [P, 4, 4] x = goal [P, 4]``, positive definite, element by element."""
    size = goal.shape[1]
    table, goal = table.copy(), goal.copy()
    for i in range(size):
        for j in range(i + 1, size):
            part = table[:, j, i] / table[:, i, i]
            table[:, j] -= part[:, None] * table[:, i]
            goal[:, j] -= part * goal[:, i]
    solution = np.zeros_like(goal)
    for i in reversed(range(size)):
        rest = goal[:, i].copy()
        for j in range(i + 1, size):
            rest -= table[:, i, j] * solution[:, j]
        solution[:, i] = rest / table[:, i, i]
    return solution


def _composed(moves: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the move that applies ``step`` first and ``moves`` second."""
    a, b, x, y = moves.T
    da, db, dx, dy = 1 + step[:, 0], step[:, 1], step[:, 2], step[:, 3]
    return np.stack((a * da - b * db, b * da + a * db, a * dx - b * dy + x, b * dx + a * dy + y), 1)


def _moved(faces: np.ndarray, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return moved faces ``[P, 24, 24] float64``, whole, and 1 where px are inside the face."""
    a, b, x, y = (part[:, None, None] for part in moves.T)
    last = THUMB_SIDE - 1
    at_x, at_y = a * _X - b * _Y + x + _CENTRE, b * _X + a * _Y + y + _CENTRE
    inside = (at_x >= 0) & (at_x <= last) & (at_y >= 0) & (at_y <= last)
    at_x, at_y = np.clip(at_x, 0, last), np.clip(at_y, 0, last)
    left, top = (
        np.minimum(at_x.astype(np.int64), last - 1),
        np.minimum(at_y.astype(np.int64), last - 1),
    )
    right, low = at_x - left, at_y - top
    place = top * THUMB_SIDE + left + THUMB_SIZE * np.arange(len(faces))[:, None, None]
    upper_left, upper_right, lower_left, lower_right = (
        # Faster than an index; all places are inside.
        faces.reshape(-1)[start:].take(place, mode="clip")
        for start in (0, 1, THUMB_SIDE, THUMB_SIDE + 1)
    )
    upper = upper_left * (1 - right) + upper_right * right
    lower = lower_left * (1 - right) + lower_right * right
    return np.rint(upper * (1 - low) + lower * low), inside.astype(np.float64)


#: The deviation of a levelled face.
_LEVEL = 256


def _levelled(faces: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Scale faces to mean 0 and deviation 256 over the px inside, rounded; 0 elsewhere."""
    count = np.maximum(inside.sum((1, 2)), 1)[:, None, None]
    masked_faces = faces * inside
    wide = (masked_faces * count - masked_faces.sum((1, 2))[:, None, None]) * inside
    square = (wide * wide).sum((1, 2))[:, None, None]
    return np.rint(wide * (_LEVEL / np.sqrt(np.maximum(square / count, 1))))


def _blurred(faces: np.ndarray, width: float) -> np.ndarray:
    """Return ``[P, 24, 24] float64``, whole, in sixteenths of a grey, of ``[P, 576]`` greys."""
    weights = _blur_weights(width)
    rows = np.matmul(weights, faces.reshape(-1, THUMB_SIDE, THUMB_SIDE).astype(np.float64))
    return np.rint(np.matmul(rows, weights.T) * (_FINE / _BLUR**2))


_BLUR = 256


@cache
def _blur_weights(width: float) -> np.ndarray:
    """Return ``[24, 24]``, whole, each row summing to about 256: a Gaussian cut at the border."""
    distance = np.arange(THUMB_SIDE)[:, None] - np.arange(THUMB_SIDE)
    weights = np.exp(-(distance**2) / (2 * width**2))
    return np.rint(_BLUR * weights / weights.sum(1, keepdims=True))


def detail(first: np.ndarray, second: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Return the correlation ``[P]`` of the fine detail of moved first faces and second ones.

    It is 0 where too small a part of the first face is inside the second.
    """
    one = _FINE * first.reshape(-1, THUMB_SIDE, THUMB_SIDE).astype(np.float64)
    other = _FINE * second.reshape(-1, THUMB_SIDE, THUMB_SIDE).astype(np.float64)
    moved, inside = _moved(one, moves)
    weights = _blur_weights(2.0)
    level = np.maximum(np.matmul(np.matmul(weights, inside), weights.T), 1)
    fine = [
        np.rint(face - np.matmul(np.matmul(weights, face * inside), weights.T) / level)
        for face in (moved, other)
    ]
    seen = inside.copy()
    seen[:, [0, -1]] = seen[:, :, [0, -1]] = 0
    enough = seen.sum((1, 2)) >= _SHARED * THUMB_SIZE
    return np.where(enough, _correlation(fine[0], fine[1], seen), 0)


def grey(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation ``[P]`` of all greys without alignment."""
    one, other = (
        each.reshape(-1, THUMB_SIDE, THUMB_SIDE).astype(np.float64) for each in (first, second)
    )
    return _correlation(one, other, np.ones_like(one))


def _correlation(one: np.ndarray, other: np.ndarray, seen: np.ndarray) -> np.ndarray:
    one, other = one * seen, other * seen
    count = np.maximum(seen.sum((1, 2)), 1)
    sums, others = one.sum((1, 2)), other.sum((1, 2))
    shared = count * (one * other).sum((1, 2)) - sums * others
    spread = (count * (one * one).sum((1, 2)) - sums**2) * (
        count * (other * other).sum((1, 2)) - others**2
    )
    return shared / np.sqrt(np.maximum(spread, 1))
