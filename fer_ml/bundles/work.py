"""Compute a network's cost for one face from its file, before it is run. Needs no torch.

The sizes of all tensors must follow from the size of the input; otherwise the network is refused. A
few bytes can ask for terabytes (a constant, a resize) or for years (functions that call each other
twice, twice, ...).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from fer_ml.base.errors import FerError

#: Operators, each as often as it is run, with those of functions in the place of their calls.
MAX_NODES = 20_000
#: Bytes that functions may add to the file when each call becomes a copy of its constants.
MAX_COPIES = 64 << 20
#: Elements of one tensor, and of all that are computed: three large teachers need a tenth.
MAX_TENSOR, MAX_ELEMENTS = 100_000_000, 1_000_000_000
#: Multiplications for one face, some seconds of one processor: three large teachers need a third.
MAX_PRODUCTS = 100_000_000_000
#: Tensors that can be the sizes of others have few elements, and follow from each other soon.
SMALL, ROUNDS = 1024, 100
#: Operators that are looked at in all rounds together.
MAX_LOOKS = 100_000
#: What computes sizes from sizes.
_NAMES = """
    Add Cast Ceil Concat ConstantOfShape Div Equal Expand Floor Gather Greater Identity Less Max Min
    Mod Mul Neg Range ReduceProd Reshape Slice Squeeze Sub Transpose Unsqueeze Where
"""
ON_SIZES = frozenset(_NAMES.split())

Shape = tuple[int, ...]


def require_bounded(model: onnx.ModelProto, where: Path, size: int) -> None:
    """Raise ``FerError`` unless ``model`` has a small, bounded cost for one face of ``size`` px."""
    _require_few(model, where)
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        shapes, nodes = _shapes(model.graph, list(model.opset_import), model.ir_version, size)
        elements, products = 0, 0
        for node in nodes:
            for name in filter(None, node.output):
                if name not in shapes:
                    raise _unbounded(f"the size of {name!r} ({node.op_type}) is not in it", where)
                if prod(shapes[name]) > MAX_TENSOR:
                    raise _unbounded(f"{name!r} ({node.op_type}) has {prod(shapes[name]):,}", where)
                elements += prod(shapes[name])
            products += _products(node, shapes)
    except FerError:
        raise
    except Exception as error:  # Foreign bytes: shape inference raises whatever they lead it to.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise FerError(
            f"the sizes inside the network cannot be computed: {reason}",
            code="unknown-network-cost",
            where=where,
            fix="export a plain image classifier with a fixed input size",
        ) from error
    if elements > MAX_ELEMENTS or products > MAX_PRODUCTS:
        raise _unbounded(f"{elements:,} computed elements, {products:,} products", where)


def _unbounded(what: str, where: Path) -> FerError:
    return FerError(
        f"one face could cost too much: {what}",
        code="network-too-costly",
        where=where,
        allowed=f"sizes that follow from the input's, at most {MAX_TENSOR:,} elements in a tensor, "
        f"{MAX_ELEMENTS:,} in all, and {MAX_PRODUCTS:,} products",
        fix="export a plain image classifier with a fixed input size",
    )


def _require_few(model: onnx.ModelProto, where: Path) -> None:
    """Count operators and their bytes without expanding calls of functions."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    counts: dict[tuple[str, str], tuple[int, int]] = {}

    def count(key: tuple[str, str], above: tuple[tuple[str, str], ...]) -> tuple[int, int]:
        if key in above or len(above) > 50:
            raise _unbounded(f"function {key[1]!r} calls itself, or 50 deep", where)
        if key not in counts:
            counts[key] = total(bodies[key], (*above, key))
        return counts[key]

    def total(
        nodes: Iterable[onnx.NodeProto], above: tuple[tuple[str, str], ...]
    ) -> tuple[int, int]:
        operators, size = 0, 0
        for node in nodes:
            key = (node.domain, node.op_type)
            more, copied = count(key, above) if key in bodies else (1, node.ByteSize())
            operators, size = operators + more, size + copied
        return operators, size

    operator_count, size = total(model.graph.node, ())
    if operator_count > MAX_NODES or len(bodies) < len(model.functions):
        raise FerError(
            f"the network runs {operator_count:,} operators, or names a function twice",
            code="network-too-costly",
            where=where,
            allowed=f"at most {MAX_NODES:,}",
        )
    if size > model.ByteSize() + MAX_COPIES:
        raise _unbounded(f"its functions' constants become {size:,} bytes", where)


def _shapes(
    graph: onnx.GraphProto, opsets: list[onnx.OperatorSetIdProto], version: int, size: int
) -> tuple[dict[str, Shape], list[onnx.NodeProto]]:
    """Return the shape of each tensor that has one, and the operators.

    Large tensors are known by their shapes alone. Small tensors computed from sizes are evaluated
    here, since later sizes follow from them.
    """
    _require_one_maker(graph)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
        if node.op_type == "Constant" and value is not None:
            tensors[node.output[0]] = value
        else:
            nodes.append(node)
    kinds = {name: (tensor.data_type, list(tensor.dims)) for name, tensor in tensors.items()}
    _require_numbers(kinds)
    inputs = [_face(each, size) for each in graph.input if each.name not in tensors]
    inputs += [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    known = {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if 0 <= prod(tensor.dims) <= SMALL
    }
    # What the graph declares of its tensors is left out: it is not believed.
    graph = helper.make_graph([], "g", inputs, [])
    light = helper.make_model(graph, opset_imports=opsets, ir_version=version)
    shapes: dict[str, Shape] = {}
    for _ in range(min(ROUNDS, 1 + MAX_LOOKS // (1 + len(nodes)))):
        del light.graph.initializer[:], light.graph.node[:]
        light.graph.node.extend(node for node in nodes if not known.keys() & set(node.output))
        light.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in known.items())
        # Without its propagation of data, which counts a range of 10**12 one by one.
        inferred = shape_inference.infer_shapes(light, strict_mode=True).graph
        shapes = {name: tuple(dims) for name, (_, dims) in kinds.items()}
        shapes |= {name: value.shape for name, value in known.items()}
        value_infos = (*inferred.input, *inferred.value_info)
        _require_numbers({each.name: (each.type.tensor_type.elem_type, []) for each in value_infos})
        shapes |= dict(filter(None, map(_declared_shape, value_infos)))
        before = len(known)
        for node in light.graph.node:
            known |= _computed(node, known, shapes, opsets)
        if len(known) == before:
            break
    return shapes, nodes


def _require_one_maker(graph: onnx.GraphProto) -> None:
    """Refuse a tensor with two producers: it would have one's size and the other's work."""
    initializers = [tensor.name for tensor in graph.initializer]
    given = [value.name for value in graph.input if value.name not in initializers]
    made = Counter(
        [*initializers, *given, *(name for node in graph.node for name in node.output if name)]
    )
    if twice := [name for name, count in made.items() if count > 1]:
        raise ValueError(f"{twice[0]!r} is made twice")


def _require_numbers(kinds: Mapping[str, tuple[int, list[int]]]) -> None:
    """Refuse texts: they have any length, and are copied outside of the bounded arena."""
    texts = [name for name, (kind, _) in kinds.items() if kind == onnx.TensorProto.STRING]
    if texts:
        raise ValueError(f"{texts[0]!r} holds texts")


def _declared_shape(value: onnx.ValueInfoProto) -> tuple[str, Shape] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
        return None
    if any(d.dim_value < 0 for d in kind.shape.dim):
        raise ValueError(f"{value.name!r} has a negative size")
    return value.name, tuple(d.dim_value for d in kind.shape.dim)


def _computed(
    node: onnx.NodeProto,
    known: dict[str, np.ndarray],
    shapes: dict[str, Shape],
    opsets: list[onnx.OperatorSetIdProto],
) -> dict[str, np.ndarray]:
    """Evaluate an operator on sizes, when its inputs are known and its output is small."""
    names = [name for name in node.input if name]
    if node.op_type in ("Shape", "Size") and names[0] in shapes:
        values = {names[0]: np.broadcast_to(np.zeros((), bool), shapes[names[0]])}
    elif node.op_type in ON_SIZES and all(name in known for name in names):
        values = {name: known[name] for name in names}
    else:
        return {}
    if node.op_type == "Range":
        start, limit, delta = (float(values[name]) for name in names)
        small = delta != 0 and abs((limit - start) / delta) <= SMALL
    else:
        small = prod(shapes.get(node.output[0], (SMALL + 1,))) <= SMALL
    if not small:
        return {}
    versions = {each.domain: each.version for each in opsets}
    with np.errstate(all="ignore"):
        (array,) = ReferenceEvaluator(node, opsets=versions).run(None, values)
    return {node.output[0]: np.asarray(array)}


def _face(given: onnx.ValueInfoProto, size: int) -> onnx.ValueInfoProto:
    """Return an input with all sizes fixed: one face, three colours, ``size`` px."""
    kind = given.type.tensor_type
    dims = kind.shape.dim if kind.HasField("shape") else [onnx.TensorShapeProto.Dimension()] * 4
    usual = [1, 3, size, size]
    sizes = [
        d.dim_value if d.HasField("dim_value") else usual[min(place, 3)]
        for place, d in enumerate(dims)
    ]
    return helper.make_tensor_value_info(given.name, kind.elem_type, sizes)


def _products(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Return the multiplications of one operator, or an equivalent cost."""
    inputs = [shapes.get(name, ()) for name in node.input]
    out = max((prod(shapes[name]) for name in filter(None, node.output)), default=0)
    read = sum(map(prod, filter(None, inputs)))
    if node.op_type == "Conv" and len(inputs) > 1 and inputs[1]:
        return out * prod(inputs[1][1:]) + read
    if node.op_type in ("MatMul", "Gemm") and inputs[0]:
        inner = max(inputs[0][-1], inputs[0][0] if node.op_type == "Gemm" else 0)
        return out * inner + read
    window = [prod(a.ints) for a in node.attribute if a.name == "kernel_shape"]
    return out * max(16, *window) + read if window else out * 16 + read
