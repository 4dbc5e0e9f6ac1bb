"""Pictures of drawn faces: a head before a background, through lens and sensor."""

import cv2
import numpy as np

from fer_ml.sample.faces import Camera, Face
from fer_ml.sample.head import draw_head


def draw_background(height: int, width: int, camera: Camera) -> np.ndarray:
    """Draw a blurred room as background: ``[height, width, 3] float32`` RGB, 0..255."""
    rng = np.random.default_rng([camera.seed, 1])
    coarse = rng.normal(0, 45 * camera.clutter, (7, 9, 3)) * (0.35, 0.3, 0.3)
    coarse += rng.normal(0, 35 * camera.clutter, (7, 9, 1))
    coarse += np.asarray(camera.background, float)
    image = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(round(4 * camera.clutter)):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(width // 12, width // 3), rng.integers(height // 12, height // 2)
        patch = image[y : y + h, x : x + w]
        np.multiply(patch, rng.uniform(0.65, 1.3), out=patch)
    blurred = cv2.GaussianBlur(image, (0, 0), max(width / 120, 0.8))
    return np.clip(blurred, 0, 255)


def expose(image: np.ndarray, camera: Camera) -> np.ndarray:
    """Apply lens and sensor effects: ``image [H, W, 3] float32`` RGB 0..255 to uint8."""
    balance = np.array([1 + 0.12 * camera.warmth, 1.0, 1 - 0.16 * camera.warmth])
    gain = (balance * camera.brightness * camera.contrast).astype(np.float32)
    picture: np.ndarray = image * gain + np.float32(118 * (1 - camera.contrast))
    sigma = camera.blur_percent * max(image.shape[:2]) / 100
    if sigma > 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    if camera.grey:
        picture = (picture @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    if camera.noise > 0:
        rng = np.random.default_rng([camera.seed, 2])
        grain = rng.standard_normal(picture.shape, np.float32)
        picture = picture + grain * np.float32(camera.noise)
    result = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    if camera.grey:
        result = np.repeat(result, 3, axis=2)
    if camera.jpeg:
        result = _through_jpeg(result, camera.jpeg)
    return result


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "OpenCV reads what it has just written"
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def draw_face(face: Face, camera: Camera, size: int) -> np.ndarray:
    """Draw one aligned face that fills the picture: ``[size, size, 3] uint8 RGB``."""
    side = max(3 * size // 2, 128)
    head, alpha = draw_head(face, camera, side, half_span=1.3, centre_y=0.12)
    head = cv2.resize(head, (size, size), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(alpha, (size, size), interpolation=cv2.INTER_AREA)
    back = draw_background(size, size, camera)
    return expose(back + (head - back) * alpha[..., None], camera)


#: The face's box around the person's centre, in head units: half its side, and its middle's y.
_BOX_HALF, _BOX_Y = 1.13, 0.14
_PERSON_SPAN = 2.1


def face_box(x: float, y: float, radius: float) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) in px of ``draw_person``'s face, not clipped."""
    half, middle = _BOX_HALF * radius, y + _BOX_Y * radius
    return (
        round(x - half),
        round(middle - half),
        round(x + half),
        round(middle + half),
    )


def draw_person(
    image: np.ndarray, face: Face, camera: Camera, x: float, y: float, radius: float
) -> tuple[int, int, int, int]:
    """Paint head and shoulders into ``image [H, W, 3] float32`` in place; return the face's box.

    ``(x, y)`` is the position of the head's (0, 0) and ``radius`` the half width of the face, all
    in px. The box is (left, top, right, bottom) in px and may reach beyond the image.
    """
    _draw_shoulders(image, face, x, y, radius)
    scale = 2 if radius < 60 else 1
    half = int(np.ceil(_PERSON_SPAN * radius))
    side = 2 * half
    head, alpha = draw_head(face, camera, side * scale, half / radius, centre_y=0.2)
    if scale > 1:
        head = cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA)
    left, top = round(x) - half, round(y + 0.2 * radius) - half
    height, width = image.shape[:2]
    y0, y1, x0, x1 = max(top, 0), min(top + side, height), max(left, 0), min(left + side, width)
    if y0 < y1 and x0 < x1:
        cut = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        patch = image[y0:y1, x0:x1]
        patch += (head[cut] - patch) * alpha[cut][..., None]
    return face_box(x, y, radius)


def _draw_shoulders(image: np.ndarray, face: Face, x: float, y: float, radius: float) -> None:
    outline = np.array(
        [[-0.8, 1.65], [0.8, 1.65], [1.8, 2.0], [2.2, 2.6], [2.4, 9.0], [-2.4, 9.0], [-2.2, 2.6]]
    )
    outline = np.r_[outline, [[-1.8, 2.0]]] * radius + (x, y)
    # The clothes follow from the person, so that they stay on from frame to frame.
    cloth = np.asarray(face.iris_rgb, float)[::-1] * 0.9 + 20
    fixed = np.round(outline * 16).astype(np.int32)
    cv2.fillPoly(image, [fixed], cloth.tolist(), cv2.LINE_AA, 4)
