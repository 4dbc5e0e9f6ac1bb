"""A drawn head: skin, features and hair, moved by action units."""

import cv2
import numpy as np

from fer_ml.sample.canvas import RING, Canvas, curve, ellipse, loop
from fer_ml.sample.faces import Camera, Face

#: Skin from light to dark, RGB 0..255.
_SKINS = np.array(
    [[246, 214, 190], [231, 186, 152], [205, 155, 118], [164, 113, 80], [112, 74, 52]], float
)
_T = np.linspace(-1, 1, 13)
_BOW = 1 - _T**2
_BLACK = np.array([14.0, 11.0, 10.0])


class _Head:
    """One head on one canvas; each method paints one part."""

    def __init__(self, face: Face, camera: Camera, canvas: Canvas) -> None:
        self.face, self.camera, self.canvas = face, camera, canvas
        self.au = face.action_units()
        place = np.clip(face.skin, 0, 1) * (len(_SKINS) - 1)
        low = min(int(place), len(_SKINS) - 2)
        self.skin = _SKINS[low] + (place - low) * (_SKINS[low + 1] - _SKINS[low])
        self.shadow = self.skin * (0.42, 0.36, 0.34)
        self.hair = np.asarray(face.hair_rgb, float)
        self.sin_yaw, self.cos_yaw = np.sin(np.radians(face.yaw)), np.cos(np.radians(face.yaw))
        self.sin_pitch = np.sin(np.radians(face.pitch))
        self.chin = 1.22 * face.face_height + 0.17 * self.au[26]

    def turn(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Rotate face points ``[N, 2]`` by yaw and pitch; ``lift`` is the height above the skin."""
        x, y = points[:, 0], points[:, 1]
        depth = 0.8 * np.sqrt(np.clip(1 - (x / 1.05) ** 2 - ((y - 0.1) / 1.6) ** 2, 0, 1)) + lift
        return np.stack([x * self.cos_yaw + depth * self.sin_yaw, y + depth * self.sin_pitch], 1)

    def fill(self, points: np.ndarray, colour: np.ndarray, lift: float = 0.0, **how: float) -> None:
        self.canvas.fill(self.turn(points, lift), colour, **how)  # type: ignore[arg-type]

    def crease(self, *lines: np.ndarray, width: float = 0.02, alpha: float) -> None:
        """Paint skin folds as soft dark lines."""
        turned = [self.turn(line) for line in lines]
        self.canvas.strokes(turned, width, self.shadow, 0.02, min(alpha, 0.85))

    def outline(self, grow: float = 0.0) -> np.ndarray:
        """Return the outline of the face, ``[28, 2]``."""
        cosine, sine = np.cos(RING), np.sin(RING)
        square = np.where(sine > 0, 1.02 - 0.3 * (self.face.jaw_width - 0.5), 0.9)
        x = np.sign(cosine) * np.abs(cosine) ** square * (1.0 + grow)
        y = np.where(sine > 0, self.chin, 1.28) * sine + np.where(sine > 0, grow, -grow) * abs(sine)
        return np.stack([x + 0.12 * self.sin_yaw * np.clip(y, 0, None), y], 1)

    def behind(self) -> None:
        """Paint the neck, the ears, and the hair behind the head."""
        canvas, style = self.canvas, self.face.hair_style
        if style == "long":
            x = np.array([-1.1, -1.22, -1.25, -1.2, 1.2, 1.25, 1.22, 1.1])
            y = np.array([-0.9, 0.0, 0.9, 1.75, 1.75, 0.9, 0.0, -0.9])
            canvas.fill(np.stack([x, y], 1), self.hair * 0.75, soft=0.05, solid=True)
        neck = np.array([[-0.62, 0.6], [0.62, 0.6], [0.66, 1.7], [0.95, 2.1], [-0.95, 2.1]])
        neck = np.r_[neck, [[-0.66, 1.7]]]
        canvas.fill(neck, self.skin * 0.66, soft=0.04, solid=True)
        canvas.fill(ellipse(0, self.chin + 0.12, 0.7, 0.25), self.shadow, soft=0.1, alpha=0.6)
        for side in (-1, 1):
            ear = ellipse(side * 1.0 - 0.12 * self.sin_yaw, 0.05, 0.13, 0.28)
            canvas.fill(ear, self.skin * 0.8, soft=0.02, solid=True)
        if style != "bald":
            canvas.fill(ellipse(0, -0.45, 1.1, 1.1), self.hair, soft=0.03, solid=True)

    def skin_and_shading(self) -> None:
        self.canvas.fill(self.outline(), self.skin, soft=0.012, solid=True)
        self.canvas.shade(self._spots())

    def _spots(self) -> np.ndarray:
        """Return the light and dark spots of a face's relief, ``[K, 5]`` for ``Canvas.shade``."""
        face, au = self.face, self.au
        mouth, tip, eye = face.mouth_height, 0.34 * face.nose_length, face.eye_distance
        paired = [
            (eye, -0.2, 0.24, 0.13, -0.42),  # eye sockets
            (0.2, -0.16, 0.09, 0.14, -0.32),  # inner corners
            (0.17 * face.nose_width, 0.14, 0.06, 0.2, -0.26),  # sides of the nose
            (0.56, 0.24 - 0.06 * au[6], 0.24, 0.18 - 0.04 * au[6], 0.16 + 0.12 * au[6]),  # cheeks
            (0.78, 0.75, 0.16, 0.3, -0.22),  # hollow of the cheeks
            (mouth * 0.62, mouth + 0.04, 0.07, 0.08, -0.16),  # corners of the mouth
        ]
        single = [
            (0, -0.72, 0.5, 0.2, 0.14),  # forehead
            (0, -0.08, 0.065, 0.24, 0.3),  # bridge of the nose
            (0, tip - 0.02, 0.09, 0.07, 0.2),
            (0, tip + 0.16, 0.17, 0.045, -0.3),  # under the nose
            (0, mouth + 0.2 + 0.2 * au[26], 0.2, 0.05, -0.26),  # under the lip
            (0, self.chin - 0.14, 0.18, 0.07, 0.14 - 0.2 * au[17]),
            (0, self.chin + 0.02, 0.6, 0.08, -0.35),
        ]
        spots = np.array([*paired, *[(-s[0], *s[1:]) for s in paired], *single])
        spots[:, :2] = self.turn(spots[:, :2])
        edges = np.array([(s * 1.02, 0.2, 0.2, 0.9, -0.5) for s in (-1, 1)])
        return np.r_[spots, edges]

    def brows_and_eyes(self) -> None:
        for side in (-1, 1):
            self._eye(side)
            self._brow(side)
        au = self.au
        furrow = au[4] + 0.5 * au[9]
        self.crease(
            *[curve((s * 0.1, -0.5), (s * 0.075, -0.38), (s * 0.09, -0.27)) for s in (-1, 1)],
            width=0.028,
            alpha=0.75 * furrow,
        )
        raised = 0.5 * (au[1] + au[2])
        lines = [curve((-0.5, y + 0.02), (0, y - 0.03), (0.5, y + 0.02)) for y in (-0.74, -0.86)]
        self.crease(*lines, alpha=(0.12 + 0.45 * raised) * (0.5 + 0.6 * self.face.age))

    def _brow(self, side: int) -> None:
        face, au = self.face, self.au
        base = -face.brow_height
        x = np.array([0.17 - 0.05 * au[4], 0.32, 0.48, 0.63, 0.78]) + face.eye_distance - 0.43
        inner = -0.17 * au[1] + 0.14 * au[4] + 0.06 * au[9]
        outer = -0.17 * au[2] + 0.04 * au[4] + 0.05 * au[1] * (1 - min(au[2], 1.0))
        bend = np.array([1.0, 0.72, 0.42, 0.15, 0.0])
        arch = np.array([0.03, -0.01, -0.035, -0.02, 0.045])
        y = base + arch + inner * bend + outer * (1 - bend)
        half = face.brow_thickness * np.array([0.5, 0.62, 0.58, 0.42, 0.15])
        colour = self.hair * 0.5 + self.shadow * 0.25
        self.fill(loop(side * x, y - half, y + half), colour, soft=0.018, alpha=0.92)

    def _eye(self, side: int) -> None:
        face, au = self.face, self.au
        cx, cy = side * face.eye_distance, -0.12
        width = 0.185 * face.eye_size
        lid = 1 + 0.75 * au[5] - 0.3 * au[7] - 0.28 * au[6] - 0.3 * au[9]
        droop = 0.35 * au[15] * (1 - min(au[9], 1.0))
        upper = 0.1 * face.eye_size * max(lid - droop, 0.25) * (1 - face.blink)
        lower = 0.055 * face.eye_size * max(1 + 0.25 * au[5] - 0.6 * au[6] - 0.55 * au[7], 0.1)
        lower *= 1 - 0.6 * face.blink
        tilt = -0.02 * _T * side
        x = cx + width * _T
        top, bottom = cy - upper * _BOW**0.8 + tilt, cy + lower * _BOW + tilt
        shape = self.turn(loop(x, top, bottom))
        self.fill(loop(x, top - 0.05, bottom + 0.03), self.shadow, soft=0.035, alpha=0.45)
        self.canvas.fill(shape, np.array([232.0, 228.0, 224.0]) * 0.93, soft=0.008)
        look = self.turn(np.array([[cx + 0.07 * face.gaze[0], cy - 0.02 + 0.03 * face.gaze[1]]]))[0]
        iris = np.asarray(face.iris_rgb, float)
        for radius, colour in ((0.088, iris), (0.045, _BLACK)):
            ring = ellipse(look[0], look[1], radius, radius)
            self.canvas.fill(ring, colour, soft=0.008, within=shape)
        glint = ellipse(look[0] + 0.03, look[1] - 0.03, 0.018, 0.018)
        self.canvas.fill(glint, np.array([250.0, 250.0, 250.0]), soft=0.004, within=shape)
        line = np.stack([x, top], 1)
        self.canvas.strokes([self.turn(line)], 0.032, _BLACK * 2, 0.008, 0.9)
        self._lid_folds(cx, cy, width, upper, lower, side)

    def _lid_folds(
        self, cx: float, cy: float, width: float, upper: float, lower: float, side: int
    ) -> None:
        au, age = self.au, self.face.age
        x = cx + 0.95 * width * _T
        crease = np.stack([x, cy - (upper + 0.045) * _BOW**0.7 - 0.01], 1)
        self.crease(crease, width=0.015, alpha=0.5)
        bag = np.stack([x, cy + (lower + 0.07) * _BOW**0.7 + 0.01], 1)
        self.crease(bag, alpha=0.15 + 0.2 * age + 0.35 * au[6] + 0.2 * au[7])
        corner = cx + side * width * 1.1
        feet = [
            curve((corner, cy), (corner + side * 0.07, cy + d / 2), (corner + side * 0.14, cy + d))
            for d in (-0.06, 0.01, 0.08)
        ]
        self.crease(*feet, width=0.015, alpha=(0.3 + 0.5 * age) * au[6])

    def nose(self) -> None:
        face, au = self.face, self.au
        wing = 0.17 * face.nose_width * (1 + 0.1 * au[9] + 0.06 * au[12])
        base = 0.42 * face.nose_length - 0.05 * au[9]
        for side in (-1, 1):
            ala = curve(
                (side * wing * 0.85, base - 0.12),
                (side * wing * 1.12, base - 0.03),
                (side * wing * 0.7, base + 0.03),
            )
            self.crease(ala, width=0.03, alpha=0.55)
            nostril = ellipse(side * wing * 0.52, base, 0.055 * face.nose_width, 0.026)
            self.fill(nostril, self.shadow * 0.6, 0.1, soft=0.015, alpha=0.85)
        wrinkles = [curve((-0.13, y + 0.03), (0, y), (0.13, y + 0.03)) for y in (-0.22, -0.12)]
        flanks = [curve((s * 0.1, -0.05), (s * 0.15, 0.06), (s * 0.22, 0.12)) for s in (-1, 1)]
        self.crease(*wrinkles, *flanks, width=0.026, alpha=0.7 * au[9])

    def mouth(self) -> None:
        face, au = self.face, self.au
        y0 = face.mouth_height - 0.05 * au[17] - 0.03 * au[10] + 0.03 * au[26]
        reach = 1 + 0.24 * au[12] + 0.28 * au[20] - 0.14 * au[23] - 0.24 * au[26] - 0.05 * au[15]
        half = 0.37 * face.mouth_width * reach
        pull = -0.15 * au[12] + 0.14 * au[15] + 0.05 * au[20] + 0.02 * au[16]
        uneven = pull * (1 + face.asymmetry * np.sign(_T)) * np.abs(_T) ** 1.8
        x = half * _T
        line = y0 + uneven - 0.25 * pull
        gap = 0.09 * au[25] + 0.34 * au[26] + 0.07 * au[16] + 0.03 * au[10]
        gap *= 1 - 0.8 * min(au[23], 1.0)
        inner_top = line - (0.3 * gap + 0.05 * au[10]) * _BOW**0.7
        inner_bottom = line + 0.7 * gap * _BOW**0.7
        full = face.lip_fullness * (1 - 0.55 * min(au[23], 1.0)) * (1 - 0.15 * au[12])
        bow = np.array([0, 0.3, 0.55, 0.75, 0.95, 1.05, 0.88, 1.05, 0.95, 0.75, 0.55, 0.3, 0])
        outer_top = inner_top - 0.075 * full * bow
        outer_bottom = inner_bottom + 0.105 * full * _BOW**0.75
        lip = self.skin * (0.82, 0.58, 0.56) + face.lip_redness * np.array([18.0, -14.0, -8.0])
        self.fill(loop(x, outer_top, inner_top + 0.012), lip * 0.86, soft=0.014, alpha=0.92)
        self.fill(loop(x, inner_bottom - 0.012, outer_bottom), lip, soft=0.016, alpha=0.92)
        self._inside(x, inner_top, inner_bottom, gap)
        corners = [
            np.array([[s * half * 0.97, line[i]], [s * (half + 0.04), line[i] + 0.3 * pull]])
            for s, i in ((-1, 0), (1, -1))
        ]
        self.crease(*corners, width=0.03, alpha=0.7)
        self._folds(half, float(line[0]), float(line[-1]))

    def _inside(self, x: np.ndarray, top: np.ndarray, bottom: np.ndarray, gap: float) -> None:
        """Paint the line between closed lips, or the teeth and the dark behind them."""
        dark = np.array([58.0, 20.0, 20.0])
        if gap < 0.025:
            self.canvas.strokes([self.turn(np.stack([x, top], 1))], 0.024, dark, 0.01, 0.85)
            return
        hole = loop(x, top, bottom)
        self.fill(hole, dark, soft=0.01)
        au, opening = self.au, self.turn(hole)
        teeth = np.array([226.0, 220.0, 206.0])
        shown = min(1.0, 0.9 * au[12] + 0.7 * au[20] + 0.8 * au[10] + 0.35 * au[26])
        reach = min(0.1, 0.75 * gap)
        band = self.turn(loop(0.85 * x, top - 0.01, top + reach * _BOW**0.5))
        self.canvas.fill(band, teeth, soft=0.01, alpha=0.95 * shown, within=opening)
        low = self.turn(loop(0.8 * x, bottom - 0.4 * reach * _BOW**0.5, bottom + 0.01))
        self.canvas.fill(low, teeth * 0.8, soft=0.01, alpha=0.8 * min(au[16], 1.0), within=opening)

    def _folds(self, half: float, left: float, right: float) -> None:
        """Paint the folds from nose to mouth corners, and those of the chin."""
        au, base = self.au, 0.36 * self.face.nose_length - 0.05 * self.au[9]
        out = 0.08 + 0.06 * au[12] + 0.04 * au[20]
        for side, corner in ((-1, left), (1, right)):
            fold = curve(
                (side * 0.2 * self.face.nose_width, base),
                (side * (0.6 * half + 0.18), base + 0.14 - 0.03 * au[9]),
                (side * (half + out), corner - 0.02),
            )
            depth = 0.14 + 0.25 * self.face.age + 0.45 * au[12] + 0.4 * au[9] + 0.3 * au[10]
            self.crease(fold, width=0.03, alpha=depth * 0.75)
            drop = curve(
                (side * (half + 0.03), corner),
                (side * (half + 0.07), corner + 0.1),
                (side * (half + 0.06), corner + 0.2),
            )
            self.crease(drop, width=0.025, alpha=0.55 * au[15])
        chin = curve((-0.16, self.chin - 0.2), (0, self.chin - 0.25), (0.16, self.chin - 0.2))
        self.crease(chin, width=0.03, alpha=0.5 * au[17])

    def beard(self) -> None:
        if self.face.beard <= 0.05:
            return
        y = np.array([0.15, 0.5, 0.62, 0.55, 0.5, 0.55, 0.62, 0.5, 0.15])
        x = np.array([-1.0, -0.85, -0.5, -0.25, 0, 0.25, 0.5, 0.85, 1.0])
        y[1:-1] += self.face.mouth_height - 0.72
        around = self.outline()
        jaw = around[(around[:, 1] > 0.1)]
        jaw = jaw[np.argsort(jaw[:, 0])]
        shape = np.r_[self.turn(np.stack([x, y], 1)), jaw[::-1]]
        self.canvas.fill(shape, self.hair * 0.9, soft=0.07, alpha=0.75 * self.face.beard)

    def hair_front(self) -> None:
        style = self.face.hair_style
        if style == "bald":
            return
        line = {"short": -0.98, "fringe": -0.72, "long": -0.95}[style]
        x = np.array([-1.04, -0.93, -0.8, -0.45, 0.0, 0.45, 0.8, 0.93, 1.04])
        y = np.array([-0.1, -0.5, line + 0.16, line, line - 0.04, line, line + 0.16, -0.5, -0.1])
        y[3:6] += np.array([0.05, -0.03, -0.02]) * (1 if self.face.skin < 0.5 else -1)
        front = np.stack([x + 0.25 * self.sin_yaw * (y < -0.4), y + 0.4 * self.sin_pitch], 1)
        top = ellipse(0, -0.45, 1.12, 1.12)
        top = top[top[:, 1] < -0.2]
        top = top[np.argsort(-top[:, 0])]
        self.canvas.fill(np.r_[front, top], self.hair, soft=0.03, solid=True)
        shine = curve((-0.6, -1.2), (-0.1, -1.38), (0.4, -1.28))
        glow = self.hair * 1.3 + 22
        self.canvas.strokes([shine], 0.12, glow, 0.07, 0.45)

    def glasses(self) -> None:
        if not self.face.glasses:
            return
        rims = []
        for side in (-1, 1):
            rim = ellipse(side * self.face.eye_distance, -0.1, 0.3, 0.23)
            rims.append(np.r_[rim, rim[:1]])
        bridge = curve((-0.14, -0.13), (0, -0.17), (0.14, -0.13))
        turned = [self.turn(line, 0.06) for line in (*rims, bridge)]
        self.canvas.strokes(turned, 0.035, np.array([45.0, 38.0, 36.0]), 0.006, 0.85)

    def occlude(self) -> None:
        kind, side = self.camera.occlusion, self.camera.occlusion_side
        if kind == "hand":
            for finger in range(4):
                tip = (side * (0.5 - 0.02 * finger), 0.3 + 0.2 * finger)
                root = (side * 1.5, 0.75 + 0.2 * finger)
                bent = (side * 0.95, 0.45 + 0.2 * finger)
                line = [curve(root, bent, tip)]
                self.canvas.strokes(line, 0.23, self.skin * 0.5, 0.03, 0.7)
                self.canvas.strokes(line, 0.17, self.skin * 0.9, 0.02, 1.0)
        elif kind == "scarf":
            x = np.linspace(-1.3, 1.3, 13)
            top = 0.86 + 0.06 * np.cos(2.5 * x) + 0.08 * side * x
            colour = 255 - np.asarray(self.camera.background, float) * 0.8
            self.canvas.fill(loop(x, top, top + 1.4), colour, soft=0.02, solid=True)
        elif kind == "edge":
            strip = np.array([[0.62, -2.0], [2.0, -2.0], [2.0, 2.2], [0.75, 2.2]]) * (side, 1)
            colour = np.asarray(self.camera.background, float) * 0.45
            self.canvas.fill(strip, colour, soft=0.03, solid=True)
        elif kind == "sunglasses":
            for s in (-1, 1):
                lens = ellipse(s * self.face.eye_distance, -0.1, 0.31, 0.22)
                self.fill(lens, _BLACK * 2.5, 0.06, soft=0.012, alpha=0.96)
            bar = curve((-0.2, -0.18), (0, -0.21), (0.2, -0.18))
            self.canvas.strokes([self.turn(bar, 0.06)], 0.06, _BLACK * 2.5, 0.01, 0.95)

    def light(self) -> None:
        """Apply the light: a gain over the whole head that grows towards the lamp."""
        columns, rows = self.canvas.axes()
        angle = np.radians(self.camera.light_angle)
        slope = np.cos(angle) * columns[None, :] - 0.75 * np.sin(angle) * rows[:, None]
        log_gain = self.camera.light_strength * np.clip(slope, -1.3, 1.3)
        self.canvas.planes *= np.exp(log_gain.astype(np.float32))


def draw_head(
    face: Face, camera: Camera, side_px: int, half_span: float, centre_y: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a head without background: ``image [N, N, 3]`` (float32 RGB) and ``alpha [N, N]``.

    Values are in 0..255 and 0..1. The square shows ``half_span`` head units on each side of
    (0, ``centre_y``). The image has light and occlusion; ``expose`` adds blur, noise and the rest.
    """
    canvas = Canvas(side_px, half_span, centre_y)
    head = _Head(face, camera, canvas)
    head.behind()
    head.skin_and_shading()
    head.beard()
    head.brows_and_eyes()
    head.nose()
    head.mouth()
    head.hair_front()
    head.glasses()
    head.light()
    head.occlude()
    image = cv2.merge(list(canvas.planes))
    if face.roll == 0:
        return image, canvas.alpha
    pivot = canvas.to_px(np.array([[0.0, 0.1]]))[0]
    turn = cv2.getRotationMatrix2D((float(pivot[0]), float(pivot[1])), -face.roll, 1.0)
    size = (side_px, side_px)
    image = cv2.warpAffine(image, turn, size, borderMode=cv2.BORDER_REPLICATE)
    return image, cv2.warpAffine(canvas.alpha, turn, size, borderMode=cv2.BORDER_REPLICATE)
