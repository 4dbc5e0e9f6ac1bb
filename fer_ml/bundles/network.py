"""Check ONNX networks before use; only this module hands bytes to ONNX Runtime. Needs no torch.

A network is a program. Before it runs, its operators are compared with a list of those that image
classifiers need: none that loops, branches, draws random numbers, or is custom. A network that
keeps tensors in other files is refused, since it could name any file. The cost for one face is
computed from the file before a session is made; memory is also bounded at run time. The checked
bytes are the bytes that run, and they run as ONNX, because the runtime would also accept its own
format.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from fer_ml.base.errors import FerError
from fer_ml.base.reading import read_file
from fer_ml.bundles.work import require_bounded

#: No image classifier, nor an ensemble of some, needs more.
MAX_BYTES = 1 << 30
#: Side in px of the largest face, see ``Preprocess``.
LARGEST = 1024
#: What all networks of a process may hold at once.
MAX_MEMORY = 4 << 30
_NAMES = """
    Abs Add And AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
    Cos DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf Exp Expand Flatten Floor Gather
    Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid
    HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow
    QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Selu Shape Sigmoid Sign Sin Size
    Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze
    Where
"""
#: Of the standard set, what image classifiers are made of, quantised ones too.
OPERATORS = frozenset(_NAMES.split())
_STANDARD = ("", "ai.onnx")


def read_network(path: Path, size: int = LARGEST) -> bytes:
    """Return the bytes of a network that passed the check; ``FerError`` states the fault."""
    data = read_file(path, MAX_BYTES)
    check_network(data, path, size)
    return data


def check_network(data: bytes, where: Path, size: int = LARGEST) -> None:
    """Raise ``FerError`` unless ``data`` uses only ``OPERATORS`` and contains all of its tensors.

    Its input is a face of ``size`` px, unless the network states its own size.
    """
    try:
        model = onnx.load_model_from_string(data)
        known = model.ByteSize()
        model.DiscardUnknownFields()
        foreign = known - model.ByteSize()
        functions = {(function.domain, function.name) for function in model.functions}
        nodes = [*model.graph.node, *(node for body in model.functions for node in body.node)]
        odd = sorted({_fault(node, functions) for node in nodes} - {""})
        tensors = [*model.graph.initializer, *(t for node in nodes for t in _of_node(node))]
        sparse = len(model.graph.sparse_initializer) + sum(
            attribute.HasField("sparse_tensor") + len(attribute.sparse_tensors)
            for node in nodes
            for attribute in node.attribute
        )
    except Exception as error:  # Foreign bytes: protobuf raises whatever they lead it to.
        raise FerError(
            f"the file is not an ONNX network: {_first(error)}",
            code="invalid-onnx",
            where=where,
            fix="export the network again as ONNX",
        ) from error
    faults = {
        f"{foreign} bytes are of no known field": foreign,
        "it has no operators": not model.graph.node,
        "it has sparse tensors": sparse,
        "it has steps of a training": len(model.training_info),
    }
    if reasons := [fault for fault, count in faults.items() if count]:
        raise FerError(
            f"the network is not a plain one: {', '.join(reasons)}",
            code="unsupported-network",
            where=where,
            allowed="an ONNX protobuf of operators and dense tensors",
            fix="export a plain image classifier",
        )
    if odd:
        raise FerError(
            f"the network has unsupported operators: {', '.join(odd[:5])}",
            code="unsupported-operators",
            where=where,
            allowed=", ".join(sorted(OPERATORS)),
            fix="export a plain image classifier",
        )
    outside = [t.name for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise FerError(
            f"{len(outside)} tensors of the network are in other files, first {outside[0]!r}",
            code="external-tensors",
            where=where,
            allowed="one file that holds everything",
            fix="save the network again without external data",
        )
    require_bounded(model, where, size)


def _fault(node: onnx.NodeProto, functions: set[tuple[str, str]]) -> str:
    """Name the operator if it is neither in ``OPERATORS`` nor one of the network's functions."""
    # Protobuf gives bytes for what is no UTF-8.
    name = str(node.op_type) if node.domain in _STANDARD else f"{node.domain}.{node.op_type}"
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return name  # It runs graphs of its own, as often as it likes.
    return "" if name in OPERATORS or (node.domain, node.op_type) in functions else name


def _of_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)


def open_network(data: bytes, where: Path, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """Return a CPU session for ``data``, which ``check_network`` must have accepted.

    One thread is the default because it gives the steadier latency for one face a frame.
    """
    _bound_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # What is wrong is raised; it would be printed as well.
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no documented base class
        raise FerError(
            f"ONNX Runtime cannot run the network: {_first(error)}",
            code="network-not-runnable",
            where=where,
            fix="export the network again for the installed ONNX Runtime",
        ) from error


@cache
def _bound_memory() -> None:
    """Limit the memory of all sessions: a few bytes can ask for a tensor of terabytes."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(
        place, onnxruntime.OrtArenaCfg({"max_mem": MAX_MEMORY})
    )


def _first(error: Exception) -> Any:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
