"""The drawn version of ExpW: photos of several people, each face with its box."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fer_ml.base.labels import CLASS_INDEX, CLASSES
from fer_ml.sample.drawn_source import TAIL, DrawnSource, Row, cut_short, encode_jpeg
from fer_ml.sample.faces import OCCLUSIONS
from fer_ml.sample.pictures import draw_background, draw_person, expose
from fer_ml.sample.styles import Style, between, random_camera, random_face, random_weights

_PHOTO_WIDTH, _PHOTO_HEIGHT = 320, 240


@dataclass(frozen=True)
class _PhotoFace:
    """One face in a photo: its class, whether the detector was sure, and its box in px."""

    label: str
    sure: bool
    box: tuple[int, int, int, int]
    confidence: float


def _unsure(style: Style) -> Style:
    """Return a style of faces with a low detector confidence: turned, occluded, inexpressive."""
    low, high = style.strength
    strength = (0.8 * low, 0.8 * high)
    return replace(style, strength=strength, yaw=1.5 * style.yaw, occlusion=0.4)


def _take_photo(
    source: DrawnSource, people: Sequence[tuple[str, bool]]
) -> tuple[np.ndarray, list[_PhotoFace]]:
    """Draw a photo ``[240, 320, 3] uint8 RGB`` of ``people``, each (class, detector is sure)."""
    rng, style = source.rng, source.style
    camera = replace(random_camera(rng, style), occlusion=OCCLUSIONS[0])
    photo = draw_background(_PHOTO_HEIGHT, _PHOTO_WIDTH, camera)
    slot = _PHOTO_WIDTH / len(people)
    faces = []
    for index, (label, sure) in enumerate(people):
        face_style = style if sure else _unsure(style)
        radius = min(slot * between(rng, (0.25, 0.35)), 62.0)
        slack = slot / 2 - 1.14 * radius - 1
        x = slot * (index + 0.5) + between(rng, (-slack, slack))
        y = between(rng, (1.05 * radius, min(_PHOTO_HEIGHT - 1.35 * radius, 1.9 * radius)))
        person = random_face(rng, random_weights(rng, label, face_style), face_style)
        lit = replace(camera, occlusion=random_camera(rng, face_style).occlusion)
        box = draw_person(photo, person, lit, x, y, radius)
        limits = (60.0, 100.0) if sure else (20.0, 59.5)
        faces.append(_PhotoFace(label, sure, box, between(rng, limits)))
    return expose(photo, camera), faces


def _expw_line(
    name: str,
    face_id: int,
    box: tuple[int, int, int, int],
    confidence: float,
    label: int,
    fields: int = 8,
) -> str:
    left, top, right, bottom = box
    values = [name, face_id, top, left, right, bottom, f"{confidence:.2f}", label]
    return " ".join(str(value) for value in values[:fields])


def draw_expw(source: DrawnSource) -> None:
    """Draw photos, ``label.lst``, and the faults among its rows."""
    rows: list[Row] = []
    labels = source.labels(330, TAIL)
    # Two in three of every class, not of all: the rare ones must not fall to the unsure.
    seen: Counter[str] = Counter()
    people = []
    for label in labels:
        seen[label] += 1
        people.append((label, seen[label] % 3 != 0))
    number = 0
    while people:
        count = min(int(source.rng.choice([1, 2, 3], p=[0.4, 0.35, 0.25])), len(people))
        group, people = people[:count], people[count:]
        number += 1
        name = f"photo_{number:05d}.jpg"
        photo, faces = _take_photo(source, group)
        source.write(f"origin/{name}", encode_jpeg(photo, 88))
        for face_id, face in enumerate(faces):
            label_id = CLASS_INDEX[face.label]
            text = _expw_line(name, face_id, face.box, face.confidence, label_id)
            rows.append(Row(f"origin/{name}", "unassigned", face.label, text))
    source.scatter(rows, _expw_faults(source, number))
    source.write_index("label.lst", rows)


def _expw_faults(source: DrawnSource, number: int) -> Iterable[Row]:
    """Yield rows with one fault each, each on a new photo with a number after ``number``."""
    plans: tuple[tuple[str, str], ...] = (
        ("bad box", "right lies beyond the photo"),
        ("bad box", "left is negative"),
        ("bad box", "top and bottom are swapped"),
        ("bad label", "class ids are 0 to 6, this is 12"),
        ("malformed line", "5 of 8 fields"),
        ("malformed line", "7 of 8 fields"),
        ("undecodable", "the JPEG ends after its headers"),
        ("missing path", "no such file"),
    )
    for offset, (rule, detail) in enumerate(plans, start=1):
        name = f"photo_{number + offset:05d}.jpg"
        label = CLASSES[offset % len(CLASSES)]
        photo, (face,) = _take_photo(source, [(label, True)])
        left, top, right, bottom = face.box
        box = {
            "right lies beyond the photo": (left, top, _PHOTO_WIDTH + 9, bottom),
            "left is negative": (-7, top, right, bottom),
            "top and bottom are swapped": (left, bottom, right, top),
        }.get(detail, face.box)
        label_id = 12 if rule == "bad label" else CLASS_INDEX[label]
        fields = int(detail[0]) if rule == "malformed line" else 8
        text = _expw_line(name, 0, box, face.confidence, label_id, fields)
        data = encode_jpeg(photo, 88)
        if rule != "missing path":
            data = cut_short(data) if rule == "undecodable" else data
            source.write(f"origin/{name}", data)
        yield Row(f"origin/{name}", "unassigned", text=text, rule=rule, detail=detail)
