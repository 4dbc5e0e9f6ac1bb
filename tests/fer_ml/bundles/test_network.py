"""What an ONNX file may ask for before it is run, and what it gets when it runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_ml.base.errors import FerError
from fer_ml.bundles.network import check_network, open_network, read_network
from tests.machine import pipe

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
def test_operators_outside_the_list_are_refused(node: onnx.NodeProto, told: str) -> None:
    with pytest.raises(FerError, match=f"operators that are not run: {told}\n"):
        check_network(network([node]), HERE)


def test_a_name_that_is_no_text_is_refused() -> None:
    data = network([helper.make_node("Relu", ["input"], ["a"])])
    with pytest.raises(FerError, match="not run"):
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
    with pytest.raises(FerError, match="operators that are not run: NonZero"):
        check_network(model("NonZero"), HERE)


@pytest.mark.parametrize("place", ["initializer", "attribute", "sparse"])
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
    with pytest.raises(FerError, match="1 tensors of the network are in other files, first 'w'"):
        check_network(data, HERE)


def test_memory_is_bounded_while_it_runs() -> None:
    """Two hundred bytes that ask for seven terabytes."""
    size = numpy_helper.from_array(np.array([10**10, 3, 8, 8]), "size")
    data = network([helper.make_node("Expand", ["input", "size"], ["a"])], [size])
    check_network(data, HERE)
    assert len(data) < 300
    session = open_network(data, HERE)
    with pytest.raises(Exception, match="Available memory of"):
        session.run(None, {"input": FACE})


def test_what_is_no_file_or_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"x" * 11)
    monkeypatch.setattr("fer_ml.bundles.network.MAX_BYTES", 10)
    with pytest.raises(FerError, match="11 bytes"):
        read_network(tmp_path / "x.onnx")
    pipe(tmp_path / "pipe.onnx")
    with pytest.raises(FerError, match="not a regular file"):
        read_network(tmp_path / "pipe.onnx")
