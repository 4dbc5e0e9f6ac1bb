"""Export checkpoints as ONNX files, and measure that torch and ONNX agree."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import torch
from onnx import helper, numpy_helper

from fer_ml.base.errors import FerError
from fer_ml.bundles.bundle import load_bundle
from fer_ml.distillation.fusion import Fusion, fuse
from fer_ml.training.checkpoint import Checkpoint
from fer_ml.training.networks import ArcFaceNet, Classifier, Outputs
from fer_ml.training.views import FaceSet, to_input

#: Normalised images ``[N, 3, S, S]`` to ``logits [N, C]``.
Network = Callable[[torch.Tensor], np.ndarray]
OPSET = 18


class ServedHead(Classifier):
    """An ArcFace network with only the head that answers, so that its graph has no choice."""

    def __init__(self, network: ArcFaceNet) -> None:
        super().__init__()
        self.average_flip = network.average_flip
        self.network = network
        self.arc = bool(network.arc_in_use)

    def outputs(self, images: torch.Tensor) -> Outputs:
        """Return the outputs of the network."""
        return self.network.outputs(images)

    def answer(self, outputs: Outputs) -> torch.Tensor:
        """Return the logits of the head in use."""
        if not self.arc:
            return outputs.logits
        assert outputs.cosine is not None
        return self.network.scale * outputs.cosine


class Exporter:
    """Writes checkpoints as ONNX files; networks of one structure are traced once.

    Tracing takes seconds and does not look at the weights.
    """

    def __init__(self) -> None:
        self._traced: dict[tuple[Any, ...], torch.onnx.ONNXProgram] = {}

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the network as one file with a dynamic batch size and no traces of this machine."""
        network: torch.nn.Module = checkpoint.network()
        if isinstance(network, ArcFaceNet):
            network = ServedHead(network).eval()
        size, weights = checkpoint.preprocess.size, network.state_dict()
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in weights.items())
        recipe = checkpoint.recipe
        # Which head answers is decided while tracing.
        head = (getattr(network, "arc", None), getattr(recipe.task, "scale", None))
        plain = (recipe.stem_stride, recipe.network_size, recipe.average_flip, size)
        structure = (recipe.architecture, *plain, shapes, head)
        if structure not in self._traced:
            self._traced[structure] = _trace(network, size)
        traced = self._traced[structure]
        program = torch.onnx.ONNXProgram(traced.model.clone(), traced.exported_program)
        program.apply_weights(
            {k: v for k, v in weights.items() if k in program.model.graph.initializers}
        )
        program.optimize()
        model = program.model_proto
        _forget_origin(model)
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))


def _trace(network: torch.nn.Module, size: int) -> torch.onnx.ONNXProgram:
    """Return the graph of a network; its initializers are named like its weights."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, size, size),),
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
        optimize=False,
    )
    if program is None:
        raise FerError(
            "torch.onnx.export returned no program",
            code="export-failed",
            fix="export a network that torch.onnx can trace",
        )
    unknown = set(program.model.graph.initializers) - set(network.state_dict())
    if unknown:
        # A constant that was computed from weights would be those of another network.
        raise FerError(
            f"torch.onnx.export added constants: {', '.join(sorted(unknown)[:5])}",
            code="export-failed",
            fix="keep computed constants out of the network's forward pass",
        )
    return program


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove the source paths and stack traces that the exporter stores at every node."""
    model.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]


def fused(
    checkpoints: Sequence[Checkpoint],
    weights: Sequence[float],
    fusion: Fusion,
    temperatures: Sequence[float],
) -> Network:
    """Return the networks of ``checkpoints`` fused into one torch network."""
    networks = [checkpoint.network() for checkpoint in checkpoints]

    def answer(images: torch.Tensor) -> np.ndarray:
        return fuse([n(images).numpy() for n in networks], weights, fusion, temperatures)

    return answer


def parity(network: Network, folder: Path, faces: FaceSet) -> float:
    """Return the largest absolute difference of a logit between torch and ONNX Runtime.

    Both are evaluated on ``faces``; ``folder`` is the bundle that should compute what ``network``
    does.
    """
    bundle = load_bundle(folder)
    images = np.asarray(faces.images)
    with torch.inference_mode():
        ours = network(to_input(images, faces.preprocess))
    return float(np.abs(ours - bundle.logits(images)).max())


def fuse_onnx(
    members: Sequence[onnx.ModelProto],
    weights: Sequence[float],
    fusion: Fusion,
    temperatures: Sequence[float],
) -> onnx.ModelProto:
    """Return one network, ``input`` to ``logits``, that computes ``fusion.fuse`` of its members."""
    models = [
        onnx.compose.add_prefix(model, f"m{i}_", rename_inputs=False)
        for i, model in enumerate(members)
    ]
    nodes = [node for model in models for node in model.graph.node]
    constants: dict[str, np.ndarray] = {"first_axis": np.array([0], np.int64)}
    terms = []
    for index, (weight, temperature) in enumerate(zip(weights, temperatures, strict=True)):
        value = f"m{index}_logits"
        if fusion != "logits":
            constants[f"t{index}"] = np.array(temperature, np.float32)
            nodes.append(helper.make_node("Div", [value, f"t{index}"], [f"s{index}"]))
            value = f"s{index}"
        if fusion != "logits":
            nodes.append(helper.make_node("LogSoftmax", [value], [f"p{index}"], axis=1))
            value = f"p{index}"
        # Probabilities are mixed in logs, so that small ones stay exact: w p is log w + log p.
        mixed = fusion == "probabilities"
        constants[f"w{index}"] = np.array(np.log(weight) if mixed else weight, np.float32)
        how = "Add" if mixed else "Mul"
        nodes.append(helper.make_node(how, [value, f"w{index}"], [f"term{index}"]))
        terms.append(f"term{index}")
    if fusion == "probabilities":
        stacked = [f"{term}_stacked" for term in terms]
        for term, name in zip(terms, stacked, strict=True):
            nodes.append(helper.make_node("Unsqueeze", [term, "first_axis"], [name]))
        nodes.append(helper.make_node("Concat", stacked, ["stack"], axis=0))
        over = ["stack", "first_axis"]
        nodes.append(helper.make_node("ReduceLogSumExp", over, ["logits"], keepdims=0))
    else:
        nodes.append(helper.make_node("Sum", terms, ["logits"]))
    used = {name for node in nodes for name in node.input}
    logits = models[0].graph.output[0].type.tensor_type.shape.dim
    classes = logits[1].dim_value
    graph = helper.make_graph(
        nodes,
        "ensemble",
        [models[0].graph.input[0]],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", classes])],
        [
            *(tensor for model in models for tensor in model.graph.initializer),
            *(numpy_helper.from_array(v, k) for k, v in constants.items() if k in used),
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=list(models[0].opset_import),
        functions=[function for model in models for function in model.functions],
        ir_version=models[0].ir_version,
    )
    onnx.checker.check_model(model)
    return model
