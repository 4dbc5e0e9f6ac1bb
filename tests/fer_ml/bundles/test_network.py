"""What an ONNX file may ask for before it is run, and what it gets when it runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_ml.base.errors import FerError
from fer_ml.bundles.network import check_network, open_network, read_network
from tests.machine import pipe
from tests.refusals import refused

HERE = Path("any.onnx")
FACE = np.zeros((1, 3, 8, 8), np.float32)


def network(
    nodes: Sequence[onnx.NodeProto],
    tensors: Sequence[onnx.TensorProto] = (),
    domains: Sequence[str] = (),
) -> bytes:
    graph = helper.make_graph(
        [*nodes, helper.make_node("Flatten", [nodes[-1].output[0]], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        list(tensors),
    )
    opsets = [helper.make_opsetid(name, 18 if not name else 1) for name in ("", *domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def body() -> onnx.GraphProto:
    """One turn of an endless loop."""
    outputs = [helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("go",)]
    return helper.make_graph(
        [helper.make_node("Identity", ["on"], ["go"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        ],
        outputs,
    )


def test_a_plain_network_runs() -> None:
    data = network([helper.make_node("Relu", ["input"], ["a"])])
    check_network(data, HERE)
    (found,) = open_network(data, HERE).run(None, {"input": FACE + 2})
    assert found.tolist() == [[2.0] * 192]


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (helper.make_node("Loop", ["", ""], ["a"], body=body()), "Loop"),
        (helper.make_node("RandomNormalLike", ["input"], ["a"]), "RandomNormalLike"),
        (helper.make_node("Gelu", ["input"], ["a"], domain="com.microsoft"), "com.microsoft.Gelu"),
        (helper.make_node("Relu", ["input"], ["a"], domain="mine"), "mine.Relu"),
        (helper.make_node("Relu", ["input"], ["a"], hidden=body()), "Relu"),
        (helper.make_node("StringNormalizer", ["input"], ["a"]), "StringNormalizer"),
    ],
)
@pytest.mark.threat(
    "a network runs unwanted operations",
    "`bundles/network.py` reads ONNX only, with a list of allowed operators, without loops, "
    "branches, unknown fields or tensors in other files.",
)
def test_operators_outside_the_list_are_refused(node: onnx.NodeProto, told: str) -> None:
    with refused("unsupported-operators", where=HERE) as caught:
        check_network(network([node]), HERE)
    assert caught.value.what.endswith(f": {told}")


def test_a_name_that_is_no_text_is_refused() -> None:
    data = network([helper.make_node("Relu", ["input"], ["a"])])
    with refused("unsupported-operators"):
        check_network(data.replace(b"Relu", b"Rel\xff"), HERE)


def test_functions_of_the_network_are_read_through() -> None:
    def model(inner: str) -> bytes:
        function = helper.make_function(
            "mine",
            "twice",
            ["x"],
            ["y"],
            [helper.make_node(inner, ["x"], ["y"])],
            [helper.make_opsetid("", 18)],
        )
        held = onnx.load_model_from_string(
            network([helper.make_node("twice", ["input"], ["a"], domain="mine")], (), ["mine"])
        )
        held.functions.append(function)
        return held.SerializeToString()

    check_network(model("Relu"), HERE)
    with refused("unsupported-operators"):
        check_network(model("NonZero"), HERE)


@pytest.mark.parametrize("place", ["initializer", "attribute", "sparse"])
@pytest.mark.threat("a network runs unwanted operations")
def test_tensors_in_other_files_are_refused(place: str) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")
    if place == "initializer":
        data = network([helper.make_node("Relu", ["input"], ["a"])], [tensor])
    elif place == "attribute":
        data = network([helper.make_node("Constant", [], ["a"], value=tensor)])
    else:
        sparse = onnx.SparseTensorProto(values=tensor, dims=[4])
        data = network([helper.make_node("Constant", [], ["a"], sparse_value=sparse)])
    with refused("unsupported-network" if place == "sparse" else "external-tensors"):
        check_network(data, HERE)


@pytest.mark.threat("a network fills the memory or computes without end")
def test_memory_is_bounded_while_it_runs() -> None:
    """Two hundred bytes that ask for seven terabytes, past the door."""
    size = numpy_helper.from_array(np.array([10**10, 3, 8, 8]), "size")
    data = network([helper.make_node("Expand", ["input", "size"], ["a"])], [size])
    assert len(data) < 300
    session = open_network(data, HERE)
    with pytest.raises(Exception, match="Available memory of"):
        session.run(None, {"input": FACE})


def number(*values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), f"n{len(values)}")


def kernel(*dims: int) -> onnx.TensorProto:
    """Weights of these dimensions without any bytes."""
    return TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT)


NODE = helper.make_node
GIANTS: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]] = {
    "constant": ([NODE("ConstantOfShape", ["n1"], ["a"])], [number(10**9)]),
    "expanded": ([NODE("Expand", ["input", "n4"], ["a"])], [number(10**10, 3, 8, 8)]),
    "tiled": ([NODE("Tile", ["input", "n4"], ["a"])], [number(1, 1, 10**5, 10**4)]),
    "resized": (
        [NODE("Resize", ["input", "", "", "n4"], ["a"])],
        [number(1, 3, 10**5, 10**5)],
    ),
    "padded": ([NODE("Pad", ["input", "n8"], ["a"])], [number(0, 0, 0, 0, 0, 0, 10**5, 10**5)]),
    "counted": (
        [NODE("Range", ["z", "n", "o"], ["r"]), NODE("Cast", ["r"], ["a"], to=TensorProto.FLOAT)],
        [numpy_helper.from_array(np.array(v), k) for k, v in (("z", 0), ("n", 10**12), ("o", 1))],
    ),
    "doubled": (
        [
            NODE(
                "Concat", [f"c{k - 1}" if k else "input"] * 2, [f"c{k}" if k < 40 else "a"], axis=0
            )
            for k in range(41)
        ],
        [],
    ),
    "weights without bytes": ([NODE("Conv", ["input", "w"], ["a"])], [kernel(10**9, 3, 3, 3)]),
    "many products": (
        [NODE("Tile", ["input", "n4"], ["b"]), NODE("Conv", ["b", "w"], ["a"])],
        [number(1, 1, 625, 625), kernel(3, 3, 999, 999)],
    ),
    "a wide window": (
        [
            NODE("Tile", ["input", "n4"], ["b"]),
            NODE("MaxPool", ["b"], ["a"], kernel_shape=[999, 999]),
        ],
        [number(1, 1, 625, 625)],
    ),
    "often": (
        [NODE("Tile", ["input", "n4"], ["r0"])]
        + [NODE("Erf", [f"r{k}"], [f"r{k + 1}" if k < 40 else "a"]) for k in range(41)],
        [number(1, 1, 375, 375)],
    ),
}


@pytest.mark.parametrize("kind", GIANTS)
@pytest.mark.threat(
    "a network fills the memory or computes without end",
    "Sizes, copies of constants and multiplications for one face are computed before it is "
    "opened; all sessions of a process share 4 GiB.",
)
def test_what_costs_too_much_is_refused_before_it_is_opened(kind: str) -> None:
    nodes, tensors = GIANTS[kind]
    data = network(nodes, tensors)
    assert len(data) < 4000
    with pytest.raises(FerError) as caught:
        check_network(data, HERE, 8)
    # Where onnx itself counts past what its numbers hold, the sizes cannot be computed.
    assert caught.value.code in ("network-too-costly", "unknown-network-cost")


@pytest.mark.parametrize(
    "again",
    [
        [NODE("Expand", ["n1", "n4"], ["e"])],
        [NODE("Identity", ["input"], ["n1"])],
        [NODE("Identity", ["n1"], ["input"])],
    ],
)
def test_a_tensor_is_made_once(again: list[onnx.NodeProto]) -> None:
    """Else it has the size of one maker, and the other's gigabytes are computed."""
    nodes = [NODE("Shape", ["input"], ["e"]), *again, NODE("Relu", ["input"], ["a"])]
    with refused("unknown-network-cost"):
        check_network(network(nodes, [number(1), number(1, 1, 10**4, 10**4)]), HERE, 8)


def functions(depth: int, calls: int, last: str = "Relu") -> bytes:
    """A function that calls one, which calls one, ..., each ``calls`` times."""
    held = onnx.load_model_from_string(
        network([NODE(f"f{depth}", ["input"], ["a"], domain="mine")], (), ["mine"])
    )
    for level in range(depth + 1):
        name, domain = (f"f{level - 1}", "mine") if level else (last, "")
        ways = [f"t{k}" for k in range(calls)]
        nodes = [
            NODE(name, ["x" if not k else ways[k - 1]], [ways[k]], domain=domain)
            for k in range(calls)
        ]
        held.functions.append(
            helper.make_function("mine", f"f{level}", ["x"], [ways[-1]], nodes, held.opset_import)
        )
    return held.SerializeToString()


def test_functions_that_call_each_other_are_counted_before_they_are_put_in() -> None:
    check_network(functions(3, 2), HERE, 8)
    for data in (functions(40, 2), functions(9, 10), functions(2, 2, last="f2")):
        with pytest.raises(FerError):
            check_network(data, HERE, 8)
    looped = functions(2, 2).replace(b"Relu", b"f2__")
    for data in (looped, functions(300, 1)):
        with pytest.raises(FerError):
            check_network(data, HERE, 8)


def test_the_constants_of_a_function_are_counted_once_a_call() -> None:
    """Each call becomes a copy of them: 1 MB called 100 times is 100 MB."""
    held = onnx.load_model_from_string(functions(1, 100))
    big = numpy_helper.from_array(np.zeros(1_000_000, np.uint8))
    held.functions[0].node.append(NODE("Constant", [], ["c"], value=big))
    with refused("network-too-costly"):
        check_network(held.SerializeToString(), HERE, 8)


def test_texts_are_refused_wherever_they_come_from() -> None:
    """A text of 10 kB put into every element of a tensor fills any memory."""
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"a" * 10_000])
    count = numpy_helper.from_array(np.array([10_000]), "count")
    ways = [
        ([NODE("Expand", ["text", "count"], ["a"])], [text, count]),
        ([NODE("Constant", [], ["text"], value=text)], [count]),
        ([NODE("Constant", [], ["text"], value_string="a" * 10_000)], [count]),
        ([NODE("Cast", ["input"], ["text"], to=TensorProto.STRING)], [count]),
    ]
    for nodes, tensors in ways:
        with refused("unknown-network-cost"):
            check_network(network([*nodes, NODE("Relu", ["input"], ["b"])], tensors), HERE, 8)


def test_a_function_that_calls_itself_is_refused() -> None:
    held = onnx.load_model_from_string(functions(1, 1))
    held.functions[0].node[0].op_type, held.functions[0].node[0].domain = "f1", "mine"
    with refused("network-too-costly"):
        check_network(held.SerializeToString(), HERE, 8)


def test_sizes_that_follow_from_the_input_are_found_out() -> None:
    """As exporters write them: a shape, a part of it, a new shape."""
    nodes = [
        NODE("Shape", ["input"], ["s"]),
        NODE("Gather", ["s", "n1"], ["g"]),
        NODE("Concat", ["g", "n2"], ["new"], axis=0),
        NODE("Reshape", ["input", "new"], ["a"]),
    ]
    tensors = [number(0), number(-1, 2)]
    data = network(nodes, tensors)
    check_network(data, HERE, 8)
    assert open_network(data, HERE).run(None, {"input": FACE})[0].shape == (1, 192)


@pytest.mark.parametrize("form", ["flatbuffer", "both", "unknown field", "empty", "no nodes"])
@pytest.mark.threat("a network runs unwanted operations")
def test_the_format_is_not_guessed(tmp_path: Path, form: str) -> None:
    """ONNX Runtime's own format is read by it, and seen by nobody before."""
    plain = network([NODE("Relu", ["input"], ["a"])])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "own.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
    own = (tmp_path / "own.ort").read_bytes()
    data = {
        "flatbuffer": own,
        # Producer's name, then a field of no meaning that holds the rest.
        "both": plain + b"\xfa\x3f" + bytes([len(own) & 127 | 128, len(own) >> 7]) + own,
        "unknown field": plain + b"\xfa\x3f\x03abc",
        "empty": b"",
        "no nodes": onnx.ModelProto(ir_version=9).SerializeToString(),
    }[form]
    with pytest.raises(FerError) as caught:
        check_network(data, HERE, 8)
    assert caught.value.code in ("invalid-onnx", "unsupported-network")
    if form == "flatbuffer":
        with refused("network-not-runnable"):
            open_network(data, HERE)


def test_a_version_of_the_operators_that_is_not_known_is_refused() -> None:
    held = onnx.load_model_from_string(network([NODE("Relu", ["input"], ["a"])]))
    held.opset_import[0].version = 999
    data = held.SerializeToString()
    with pytest.raises(FerError):
        check_network(data, HERE, 8)
        open_network(data, HERE)


def test_steps_of_a_training_are_refused() -> None:
    held = onnx.load_model_from_string(network([NODE("Relu", ["input"], ["a"])]))
    held.training_info.add().algorithm.node.append(NODE("Loop", ["", ""], ["b"], body=body()))
    with refused("unsupported-network"):
        check_network(held.SerializeToString(), HERE, 8)


def test_what_is_no_file_or_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"x" * 11)
    monkeypatch.setattr("fer_ml.bundles.network.MAX_BYTES", 10)
    with refused("file-too-large", where=tmp_path / "x.onnx"):
        read_network(tmp_path / "x.onnx")
    pipe(tmp_path / "pipe.onnx")
    with refused("not-regular-file", where=tmp_path / "pipe.onnx"):
        read_network(tmp_path / "pipe.onnx")
