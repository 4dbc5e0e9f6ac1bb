"""Convert an image classifier in TensorFlow Lite's format to a bundle. Needs no TensorFlow.

The file is a FlatBuffer and is only read as data; the fields' numbers are those of the published
schema (``tensorflow/compiler/mlir/lite/schema/schema.fbs``). The network becomes ONNX, which is
checked and run like any other. OpenCV's reader of this format refuses convolutions with weights in
int8. Here such weights become numbers. TFLite's kernels also round the input of these layers to
int8, each kernel in its own way, so a face near a boundary may get another label there.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from flatbuffers.number_types import Float32Flags, Int8Flags, Int32Flags, UOffsetTFlags
from flatbuffers.table import Table
from onnx import helper, numpy_helper

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES, label_of_word
from fer_ml.base.reading import read_file
from fer_ml.bundles.bundle import MODEL_FILE, Card, load_bundle, write_card
from fer_ml.bundles.network import MAX_BYTES
from fer_ml.recipes.preprocess import Preprocess

#: A TFLite file names its format here.
IDENTIFIER = slice(4, 8), b"TFL3"
ADD, CONV, DEPTHWISE, MAX_POOL, SOFTMAX, MEAN = 0, 3, 4, 17, 25, 40
NAMES = {
    ADD: "ADD",
    CONV: "CONV_2D",
    DEPTHWISE: "DEPTHWISE_CONV_2D",
    MAX_POOL: "MAX_POOL_2D",
    MEAN: "MEAN",
    SOFTMAX: "SOFTMAX",
}
INT8 = 9
#: Number types of tensors.
TYPES = {0: np.float32, 2: np.int32, INT8: np.int8}
PADDING = {0: "SAME_UPPER", 1: "VALID"}
NONE, RELU, RELU6 = 0, 1, 3
OPSET, IR_VERSION = 18, 10


class _Node:
    """A table of a FlatBuffer; its fields are read by their numbers, absent ones by a default."""

    def __init__(self, data: bytes, place: int) -> None:
        self._table = Table(data, place)

    def number(self, field: int, kind: Any = Int32Flags, default: float = 0) -> Any:
        offset = self._table.Offset(4 + 2 * field)
        return self._table.Get(kind, self._table.Pos + offset) if offset else default

    def node(self, field: int) -> "_Node | None":
        offset = self._table.Offset(4 + 2 * field)
        if not offset:
            return None
        return _Node(self._table.Bytes, self._table.Indirect(self._table.Pos + offset))

    def nodes(self, field: int) -> list["_Node"]:
        start, length = self._vector(field, 4)
        places = (start + 4 * index for index in range(length))
        return [_Node(self._table.Bytes, self._table.Indirect(place)) for place in places]

    def array(self, field: int, dtype: Any) -> np.ndarray:
        kind = np.dtype(dtype).newbyteorder("<")
        start, length = self._vector(field, kind.itemsize)
        return np.frombuffer(self._table.Bytes, kind, length, start)

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        offset = self._table.Offset(4 + 2 * field)
        if not offset:
            return 0, 0
        start, length = self._table.Vector(offset), self._table.VectorLen(offset)
        if start + width * length > len(self._table.Bytes):
            raise ValueError("a list is longer than the file")
        return start, length


def convert_tflite(
    source: Path, folder: Path, classes: Sequence[str], mean: float, std: float
) -> Card:
    """Write the classifier ``source`` as a bundle into the new ``folder``, and return its card.

    ``classes`` are words for the seven classes in the order of its outputs. A pixel x in 0 to 1 is
    given to the network as (x - ``mean``) / ``std``, in grey if it takes one channel. A softmax at
    its end is left out, so that the bundle gives logits. ``FerError`` for a file that is no such
    classifier.
    """
    data = read_file(source, MAX_BYTES)
    model, preprocess = to_onnx(data, source, classes, mean, std)
    written = model.SerializeToString(deterministic=True)
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(written)
    card = Card(
        name=source.stem,
        profile="elsewhere",
        architecture="TensorFlow Lite",
        classes=CLASSES,
        preprocess=preprocess,
        temperature=1.0,
        unsure_below=0.0,
        model_sha256=hashlib.sha256(written).hexdigest(),
        checkpoint_sha256=hashlib.sha256(data).hexdigest(),
        data="not stated by the file",
        licence="its publisher's",
        intended_use="comparison",
    )
    write_card(folder, card)
    load_bundle(folder)
    return card


def to_onnx(
    data: bytes, where: Path, classes: Sequence[str], mean: float, std: float
) -> tuple[onnx.ModelProto, Preprocess]:
    """Return ``input [N, 3, S, S]`` to ``logits [N, 7]`` as ONNX, and the preprocessing of faces.

    The arguments and errors are those of ``convert_tflite``; ``where`` is named in errors.
    """
    order = _order(classes)
    if data[IDENTIFIER[0]] != IDENTIFIER[1]:
        raise _invalid("it does not begin like one", where)
    try:
        graph = _Graph(_Node(data, Table(data, 0).Get(UOffsetTFlags, 0)), where)
        preprocess = graph.preprocess(mean, std)
        return graph.converted(order), preprocess
    except FerError:
        raise
    except Exception as error:  # Foreign bytes: reading raises whatever they lead it to.
        raise _invalid(str(error)[:300] or type(error).__name__, where) from error


def _order(classes: Sequence[str]) -> list[int]:
    """Return for each of ``CLASSES`` its place among ``classes``."""
    meant = [label_of_word(word)[0] for word in classes]
    if sorted(filter(None, meant)) != sorted(CLASSES) or len(meant) != len(CLASSES):
        raise FerError(
            f"these are not the seven classes, each once: {', '.join(classes)}",
            code="wrong-classes",
            allowed=f"{', '.join(CLASSES)}, in the order of the network's outputs",
            fix="name one class for each output",
        )
    return [meant.index(name) for name in CLASSES]


def _invalid(what: str, where: Path) -> FerError:
    return FerError(
        f"the file is not a TFLite network: {what}",
        code="invalid-tflite",
        where=where,
        fix="take the file as its publisher ships it",
    )


def _unsupported(what: str, where: Path) -> FerError:
    return FerError(
        f"the TFLite network has {what}",
        code="unsupported-operators",
        where=where,
        allowed=f"{', '.join(NAMES.values())}, on one float32 face, with ReLU or ReLU6 behind",
        fix="export the network as ONNX",
    )


class _Graph:
    """The one graph of a TFLite file, and the ONNX nodes that it becomes, channels first."""

    def __init__(self, model: _Node, where: Path) -> None:
        self._where = where
        (graph,) = model.nodes(2)
        self._codes = [max(c.number(0, Int8Flags), c.number(3)) for c in model.nodes(1)]
        self._buffers = model.nodes(4)
        self._tensors = graph.nodes(0)
        (self._input,), (self._output,) = graph.array(1, np.int32), graph.array(2, np.int32)
        self._operators = graph.nodes(3)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}

    def preprocess(self, mean: float, std: float) -> Preprocess:
        """Return how faces are prepared for the network's input ``[1, S, S, 1 or 3]``."""
        one, height, width, channels = self._shape(self._input)
        if (one, height, channels in (1, 3)) != (1, width, True):
            raise self._odd(f"an input of {self._shape(self._input)}")
        return Preprocess(
            size=height,
            colour="grey" if channels == 1 else "rgb",
            clahe_clip=0.0,
            mean=(mean,) * 3,
            std=(std,) * 3,
        )

    def converted(self, order: list[int]) -> onnx.ModelProto:
        """Return the network; its outputs are put in ``order``."""
        if self._shape(self._output) != (1, len(order)):
            raise self._odd(
                f"an output of {self._shape(self._output)}, not of {len(order)} classes"
            )
        *_, side, channels = self._shape(self._input)
        first = self._constant("channels", np.arange(channels))
        self._add("Gather", ["input", first], self._input, axis=1)
        result = self._output
        for operator in self._operators:
            code = self._codes[operator.number(0)]
            ins, (out,) = operator.array(1, np.int32).tolist(), operator.array(2, np.int32).tolist()
            options = operator.node(4)
            if code not in NAMES or options is None:
                raise self._odd(f"operator {NAMES.get(code, code)}")
            if code == SOFTMAX and out == self._output and options.number(0, Float32Flags) == 1:
                result = ins[0]
            elif code in (CONV, DEPTHWISE):
                self._convolve(code == DEPTHWISE, options, ins, out)
            elif code == MAX_POOL:
                sides = {"kernel_shape": [options.number(4), options.number(3)]}
                self._add("MaxPool", [_of(ins[0])], out, 5, options, **sides, **_steps(options))
            elif code == ADD and self._shape(ins[0]) == self._shape(ins[1]):
                self._add("Add", [_of(place) for place in ins], out, 0, options)
            elif code == MEAN and not options.number(0, Int8Flags) and self._over_pixels(ins[1]):
                axes = self._constant("pixels", np.array([2, 3]))
                self._add("ReduceMean", [_of(ins[0]), axes], out, keepdims=0)
            else:
                raise self._odd(f"a kind of {NAMES[code]}")
        places = self._constant("order", np.array(order))
        self._nodes.append(helper.make_node("Gather", [_of(result), places], ["logits"], axis=1))
        model = helper.make_model(
            helper.make_graph(
                self._nodes,
                "tflite",
                [_value("input", 3, side, side)],
                [_value("logits", len(order))],
                [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model)
        return model

    def _convolve(self, depthwise: bool, options: _Node, ins: list[int], out: int) -> None:
        weights = self._values(ins[1]).transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        names = [_of(ins[0]), self._constant(f"w{out}", weights)]
        if ins[2:] and ins[2] >= 0:
            names.append(self._constant(f"b{out}", self._values(ins[2])))
        self._add(
            "Conv",
            names,
            out,
            3 + depthwise,
            options,
            group=self._shape(ins[0])[3] if depthwise else 1,
            dilations=[options.number(place + depthwise, default=1) for place in (5, 4)],
            **_steps(options),
        )

    def _add(
        self,
        kind: str,
        ins: list[str],
        out: int,
        activation: int | None = None,
        options: _Node | None = None,
        **attributes: Any,
    ) -> None:
        """Add a node, and one behind it for the activation in that field of ``options``."""
        fused = (
            NONE if activation is None or options is None else options.number(activation, Int8Flags)
        )
        name = _of(out) if fused == NONE else f"{_of(out)}_before"
        self._nodes.append(helper.make_node(kind, ins, [name], **attributes))
        if fused == NONE:
            return
        bounds = {RELU: [0.0], RELU6: [0.0, 6.0]}.get(fused)
        if bounds is None:
            raise self._odd(f"activation {fused}")
        named = [self._constant(f"at_{bound:.0f}", np.float32(bound)) for bound in bounds]
        self._nodes.append(helper.make_node("Clip", [name, *named], [_of(out)]))

    def _constant(self, name: str, value: Any) -> str:
        self._constants[name] = np.ascontiguousarray(value)
        return name

    def _shape(self, place: int) -> tuple[int, ...]:
        return tuple(self._tensors[place].array(0, np.int32).tolist())

    def _values(self, place: int) -> np.ndarray:
        """Return a constant tensor; int8 weights as (q - zero point) * scale, float32."""
        tensor = self._tensors[place]
        kind = tensor.number(1, Int8Flags)
        if kind not in TYPES:
            raise self._odd(f"a tensor of type {kind}")
        raw = self._buffers[tensor.number(2)].array(0, np.uint8).tobytes()
        values = np.frombuffer(raw, np.dtype(TYPES[kind]).newbyteorder("<"))
        values = values.reshape(self._shape(place))
        quantised = tensor.node(4)
        if kind != INT8:
            return values
        if quantised is None:
            raise self._odd("int8 weights without a scale")
        scale, zero = quantised.array(2, np.float32), quantised.array(3, np.int64)
        along = [1] * values.ndim
        along[quantised.number(6)] = len(scale)
        exact = (values.astype(np.float64) - zero.reshape(along)) * scale.reshape(along)
        return np.asarray(exact, np.float32)

    def _over_pixels(self, axes: int) -> bool:
        return sorted(self._values(axes).reshape(-1).tolist()) == [1, 2]

    def _odd(self, what: str) -> FerError:
        return _unsupported(what, self._where)


def _of(place: int) -> str:
    return f"t{place}"


def _steps(options: _Node) -> dict[str, Any]:
    return {
        "auto_pad": PADDING[options.number(0, Int8Flags)],
        "strides": [options.number(2), options.number(1)],
    }


def _value(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])
