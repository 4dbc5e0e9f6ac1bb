"""A canvas in head units: filled shapes with soft edges, strokes, light and shade."""

import cv2
import numpy as np

#: 28 angles around a circle.
RING = np.linspace(0, 2 * np.pi, 28, endpoint=False)
#: ``[9, 3]``: the parabola through a start, a middle and an end, at nine places.
_S = np.linspace(0, 1, 9)[:, None]
_THROUGH = np.hstack([(1 - _S) * (1 - 2 * _S), 4 * _S * (1 - _S), _S * (2 * _S - 1)])


class Canvas:
    """An image to paint on: ``planes [3, N, N]`` (0..255) and ``alpha [N, N]`` (0..1), float32.

    Coordinates are in head units. The planes come first because numpy then broadcasts a mask over
    them several times faster.
    """

    def __init__(self, side_px: int, half_span: float, centre_y: float) -> None:
        self.unit_px = side_px / (2 * half_span)
        self.origin = np.array([side_px / 2, side_px / 2 - centre_y * self.unit_px])
        self.planes = np.zeros((3, side_px, side_px), np.float32)
        self.alpha = np.zeros((side_px, side_px), np.float32)

    def to_px(self, points: np.ndarray) -> np.ndarray:
        """Convert ``points [N, 2]`` from head units to px."""
        return points * self.unit_px + self.origin

    def fill(
        self,
        points: np.ndarray,
        colour: np.ndarray,
        *,
        soft: float = 0.015,
        alpha: float = 1.0,
        within: np.ndarray | None = None,
        solid: bool = False,
    ) -> None:
        """Paint the polygon ``points [N, 2]``, its edge blurred by ``soft`` head units."""
        self._blend([(points, 0.0)], colour, soft, alpha, within, solid)

    def strokes(
        self, lines: list[np.ndarray], width: float, colour: np.ndarray, soft: float, alpha: float
    ) -> None:
        """Paint open lines, each ``[N, 2]``, ``width`` head units thick."""
        self._blend([(line, width) for line in lines], colour, soft, alpha, None, False)

    def _blend(
        self,
        shapes: list[tuple[np.ndarray, float]],
        colour: np.ndarray,
        soft: float,
        alpha: float,
        within: np.ndarray | None,
        solid: bool,
    ) -> None:
        if alpha <= 0.01:
            return
        sigma = soft * self.unit_px
        placed = [(self.to_px(points), width * self.unit_px) for points, width in shapes]
        pad = 3 * sigma + 2 + max(width for _, width in placed)
        corners = np.concatenate([points for points, _ in placed])
        side = self.alpha.shape[0]
        x0, y0 = np.clip(np.floor(corners.min(0) - pad), 0, side).astype(int)
        x1, y1 = np.clip(np.ceil(corners.max(0) + pad), 0, side).astype(int)
        if x1 <= x0 or y1 <= y0:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        for points, width in placed:
            _rasterise(mask, points - (x0, y0), width)
        if within is not None:
            window = np.zeros_like(mask)
            _rasterise(window, self.to_px(within) - (x0, y0), 0.0)
            mask = np.minimum(mask, window)
        if sigma > 0.5:
            mask = cv2.GaussianBlur(mask, (0, 0), sigma)
        weight = mask.astype(np.float32) * np.float32(alpha / 255.0)
        patch = self.planes[:, y0:y1, x0:x1]
        patch += (colour.astype(np.float32)[:, None, None] - patch) * weight
        if solid:
            np.maximum(self.alpha[y0:y1, x0:x1], weight, out=self.alpha[y0:y1, x0:x1])

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the head-unit coordinates of the columns and of the rows, each ``[N]``."""
        steps = np.arange(self.alpha.shape[0]) + 0.5
        return (steps - self.origin[0]) / self.unit_px, (steps - self.origin[1]) / self.unit_px

    def shade(self, spots: np.ndarray) -> None:
        """Brighten or darken by Gaussian spots ``[K, 5]``: x, y, sigma x, sigma y, log gain."""
        columns, rows = self.axes()
        across = np.exp(-0.5 * ((columns - spots[:, :1]) / spots[:, 2:3]) ** 2)
        down = np.exp(-0.5 * ((rows - spots[:, 1:2]) / spots[:, 3:4]) ** 2)
        # Not by BLAS: its threads wait busily, and other processes draw meanwhile.
        log_gain = np.einsum("kh,kw->hw", down * spots[:, 4:], across)
        self.planes *= np.exp(log_gain.astype(np.float32))


def _rasterise(mask: np.ndarray, points: np.ndarray, width_px: float) -> None:
    fixed = np.round(points * 16).astype(np.int32)
    if width_px > 0:
        cv2.polylines(mask, [fixed], False, 255, max(1, round(width_px)), cv2.LINE_AA, 4)
    else:
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, 4)


def ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """Return the outline ``[28, 2]`` of an ellipse around (x, y) with radii rx and ry."""
    return np.stack([x + rx * np.cos(RING), y + ry * np.sin(RING)], 1)


def loop(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Return the closed outline between two curves over the same ``x [N]``."""
    return np.stack([np.r_[x, x[::-1]], np.r_[upper, lower[::-1]]], 1)


def curve(*knots: tuple[float, float]) -> np.ndarray:
    """Return a smooth line ``[9, 2]`` through three knots."""
    return _THROUGH @ np.array(knots)
