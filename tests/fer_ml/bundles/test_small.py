"""Smaller networks compute nearly the same, and a slower one shows."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_ml.bundles.small import latency_ratios, to_fp16, to_int8

SIZE = 16


def network(repeats: int) -> bytes:
    """A convolution, ``repeats`` times over, averaged into seven logits."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(scale=0.2, size=(8, 8, 3, 3)).astype(np.float32)
    first = rng.normal(scale=0.3, size=(8, 3, 3, 3)).astype(np.float32)
    head = rng.normal(size=(8, 7)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["input", "first"], ["c0"], pads=[1, 1, 1, 1])]
    for index in range(repeats):
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        nodes.append(
            helper.make_node("Conv", [f"r{index}", "kernel"], [f"c{index + 1}"], pads=[1, 1, 1, 1])
        )
    nodes += [
        helper.make_node("GlobalAveragePool", [f"c{repeats}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 7])],
        [
            numpy_helper.from_array(value, name)
            for name, value in (("kernel", kernel), ("first", first), ("head", head))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def logits(path: Path, faces: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": faces})[0]


@pytest.fixture
def faces() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(24, 3, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_smaller_network_says_nearly_the_same(
    precision: str, faces: np.ndarray, tmp_path: Path
) -> None:
    full, small = tmp_path / "full.onnx", tmp_path / "small.onnx"
    full.write_bytes(network(2))
    if precision == "fp16":
        to_fp16(full, small)
    else:
        to_int8(full, small, faces)
    wanted, found = logits(full, faces), logits(small, faces)
    assert found.dtype == np.float32
    assert not np.array_equal(found, wanted)
    spread = wanted.max() - wanted.min()
    assert np.abs(found - wanted).max() < (0.01 if precision == "fp16" else 0.1) * spread
    weights = {tensor.data_type for tensor in onnx.load(small).graph.initializer}
    assert (TensorProto.FLOAT16 if precision == "fp16" else TensorProto.INT8) in weights


def test_a_network_with_more_to_do_is_slower(faces: np.ndarray, tmp_path: Path) -> None:
    short, long = tmp_path / "short.onnx", tmp_path / "long.onnx"
    short.write_bytes(network(1))
    long.write_bytes(network(60))
    found = latency_ratios({"short": short, "long": long}, faces[:1], 30)
    assert found["short"]["ratio"] == 1
    assert found["long"]["ratio"] > 3
