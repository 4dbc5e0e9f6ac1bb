"""A tiny face classifier in TensorFlow Lite's format, written with the FlatBuffers library."""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np

#: Another order than ours, in a publisher's words.
ORDER = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
RNG = np.random.default_rng(0)
FIRST = RNG.integers(-127, 128, (8, 3, 3, 1), dtype=np.int8)
SCALE = RNG.uniform(0.002, 0.01, 8).astype(np.float32)
DEPTH = RNG.normal(size=(1, 3, 3, 8)).astype(np.float32) / 3
LAST = RNG.normal(size=(7, 1, 1, 8)).astype(np.float32)
BIAS = RNG.normal(size=8).astype(np.float32)


class Writer:
    """Writes FlatBuffers from tables of ``{field: (kind, value)}``."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(1024)

    def vector(self, values: Any, dtype: str) -> int:
        return int(self.builder.CreateNumpyVector(np.asarray(values, dtype)))

    def places(self, places: Sequence[int]) -> int:
        self.builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self.builder.PrependUOffsetTRelative(place)
        return int(self.builder.EndVector())

    def table(self, **fields: tuple[str, Any]) -> int:
        """Fields are called ``f<number>``; ``at`` is the place of something already written."""
        self.builder.StartObject(12)
        for name, (kind, value) in fields.items():
            slot = int(name[1:])
            if kind == "at":
                self.builder.PrependUOffsetTRelativeSlot(slot, value, 0)
            else:
                getattr(self.builder, f"Prepend{kind}Slot")(slot, value, 0)
        return int(self.builder.EndObject())


def tflite(*, activation: int = 1, codes: Sequence[int] = (3, 4, 17, 0, 40, 25)) -> bytes:
    """Conv (int8, stride 2), depthwise conv, max pool, their sum, conv, mean, softmax."""
    w = Writer()
    scale = w.table(f2=("at", w.vector(SCALE, "<f4")), f3=("at", w.vector([0] * 8, "<i8")))
    shapes: list[tuple[Sequence[int], np.ndarray | None]] = [
        ((1, 16, 16, 1), None),
        (FIRST.shape, FIRST),
        (BIAS.shape, BIAS),
        (DEPTH.shape, DEPTH),
        (LAST.shape, LAST),
        ((2,), np.array([1, 2], np.int32)),
        *(((1, 8, 8, 8), None) for _ in range(4)),
        ((1, 8, 8, 7), None),
        ((1, 7), None),
        ((1, 7), None),
    ]
    buffers, tensors = [w.table()], []
    for shape, values in shapes:
        if values is not None:
            buffers.append(
                w.table(f0=("at", w.vector(np.frombuffer(values.tobytes(), "u1"), "u1")))
            )
        kind = {None: 0, "f": 0, "i": 2}[values.dtype.kind if values is not None else None]
        fields = {
            "f0": ("at", w.vector(shape, "<i4")),
            "f1": ("Int8", 9 if values is FIRST else kind),
            "f2": ("Uint32", len(buffers) - 1 if values is not None else 0),
        }
        if values is FIRST:
            fields["f4"] = ("at", scale)
        tensors.append(w.table(**fields))
    operators = []

    def operator(code: int, ins: Sequence[int], out: int, **options: tuple[str, Any]) -> None:
        fields = {"f1": ("at", w.vector(ins, "<i4")), "f2": ("at", w.vector([out], "<i4"))}
        held = w.table(**options)
        operators.append(w.table(f0=("Uint32", code), f4=("at", held), **fields))

    two = {"f1": ("Int32", 2), "f2": ("Int32", 2)}
    one = {"f1": ("Int32", 1), "f2": ("Int32", 1)}
    operator(0, [0, 1, 2], 6, **two, f3=("Int8", activation))
    operator(1, [6, 3], 7, **one, f3=("Int32", 1), f4=("Int8", 3))
    operator(2, [6], 8, **one, f3=("Int32", 3), f4=("Int32", 2))
    operator(3, [7, 8], 9)
    operator(0, [9, 4, -1], 10, **one, f0=("Int8", 1))
    operator(4, [10, 5], 11)
    operator(5, [11], 12, f0=("Float32", 1.0))
    graph = w.table(
        f0=("at", w.places(tensors)),
        f1=("at", w.vector([0], "<i4")),
        f2=("at", w.vector([12], "<i4")),
        f3=("at", w.places(operators)),
    )
    held = w.places([w.table(f0=("Int8", code), f3=("Int32", code)) for code in codes])
    model = w.table(
        f0=("Uint32", 3),
        f1=("at", held),
        f2=("at", w.places([graph])),
        f4=("at", w.places(buffers)),
    )
    w.builder.Finish(model, b"TFL3")
    return bytes(w.builder.Output())
