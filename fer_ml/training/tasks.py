"""Tasks: the losses of trainings. The loop asks for a loss and its named parts, nothing else."""

from dataclasses import dataclass

import torch
from torch import nn

from fer_ml.base.errors import FerError
from fer_ml.recipes.training import (
    DIST,
    DKD,
    KD,
    ArcFace,
    Distilling,
    Negative,
    StandardizedKD,
    Training,
)
from fer_ml.training.auxiliary import PrototypeMemory, negative_learning
from fer_ml.training.losses import (
    arcface_logits,
    cross_entropy_rows,
    dist_parts,
    dkd_rows,
    effective_number_weights,
    focal_rows,
    kd_rows,
    locality_rows,
    logit_adjusted,
    std_kd_rows,
)
from fer_ml.training.networks import ArcFaceNet, Network, Outputs

Parts = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """The rows of one forward pass.

    ``images [N, 3, S, S]`` are normalised; ``y [N]`` are class indices; ``target [N, C]`` is the
    target distribution of the label term, ``weight [N]`` that term's weights; ``shown [N, C] bool``
    marks the classes that a face may show; ``teacher [N, C]`` are logits; ``negative [N]`` is a
    class that is not shown, -1 for none; ``epoch`` is the progress in epochs, with its fraction;
    ``count`` is the number of rows of the whole optimiser step.
    """

    images: torch.Tensor
    y: torch.Tensor
    target: torch.Tensor
    shown: torch.Tensor
    epoch: float
    count: int
    weight: torch.Tensor | None = None
    teacher: torch.Tensor | None = None
    negative: torch.Tensor | None = None
    generator: torch.Generator | None = None


class Objective(nn.Module):
    """A network with the loss of a recipe.

    ``forward`` returns the batch's share of the step's mean loss and of its named parts: over all
    batches of a step, on all processes, they add up to the mean over its ``count`` rows. So the
    result does not depend on accumulation or on the number of processes. The terms of
    ``Training.compares_rows`` are not sums over rows: they need a whole step in one batch.
    """

    class_counts: torch.Tensor
    class_weights: torch.Tensor

    def __init__(
        self,
        network: Network,
        recipe: Training,
        class_counts: torch.Tensor,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.temperature = temperature
        task = recipe.task
        if isinstance(task, ArcFace) != isinstance(network, ArcFaceNet):
            raise FerError(
                f"task {task.kind} does not fit a {type(network).__name__}", code="task-mismatch"
            )
        if isinstance(task, KD | DKD | DIST) and temperature is None:
            raise FerError(
                f"task {task.kind} has no temperature",
                code="missing-temperature",
                fix="give task.temperature, or let the soft labels derive it",
            )
        self.register_buffer("class_counts", class_counts.float(), persistent=False)
        weights = torch.ones(len(class_counts))
        if recipe.imbalance.class_weights == "effective_number":
            weights = effective_number_weights(class_counts, recipe.imbalance.beta)
        self.register_buffer("class_weights", weights.float(), persistent=False)
        self.memory: PrototypeMemory | None = None
        if recipe.prototype is not None:
            self.memory = PrototypeMemory(_features(network), len(class_counts), recipe.prototype)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        """Return the loss of a batch, and its terms by name."""
        outputs = self.network.outputs(batch.images)
        loss, parts = self._task(outputs, batch)
        for name, weight, value in self._auxiliary(outputs, batch):
            loss = loss + weight * value
            parts[name] = value.detach()
        return loss, parts

    def _task(self, outputs: Outputs, batch: Batch) -> tuple[torch.Tensor, Parts]:
        task = self.recipe.task
        if isinstance(task, ArcFace):
            return self._arcface(task, outputs, batch)
        logits = outputs.logits.float()
        ce = self._label_term(logits, batch)
        if not isinstance(task, Distilling):
            return ce, {"ce": ce.detach()}
        terms = {
            name: (weight, _share(value, batch))
            for name, (weight, value) in self._teacher_terms(task, logits, batch).items()
        }
        rise = min(1.0, batch.epoch / task.distill_warmup) if task.distill_warmup else 1.0
        loss = task.ce_weight * ce
        for weight, value in terms.values():
            loss = loss + rise * weight * value
        return loss, {"ce": ce.detach(), **{name: v.detach() for name, (_, v) in terms.items()}}

    def _label_term(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        imbalance = self.recipe.imbalance
        if imbalance.logit_adjustment:
            logits = logit_adjusted(logits, self.class_counts, imbalance.logit_adjustment)
        if imbalance.focal_gamma:
            rows = focal_rows(logits, batch.target, imbalance.focal_gamma)
        else:
            rows = cross_entropy_rows(logits, batch.target)
        rows = rows * (batch.target @ self.class_weights)
        return _share(rows if batch.weight is None else rows * batch.weight, batch)

    def _arcface(self, task: ArcFace, outputs: Outputs, batch: Batch) -> tuple[torch.Tensor, Parts]:
        network, cosine = self.network, outputs.cosine
        assert isinstance(network, ArcFaceNet) and cosine is not None
        margin = margin_at(task, batch.epoch)
        if batch.epoch < task.plain_epochs:
            # Both heads take part in the graph, as several processes need; this one with no weight.
            ce = self._label_term(outputs.logits.float(), batch) + 0.0 * cosine.float().sum()
        else:
            network.arc_in_use.fill_(True)
            logits = arcface_logits(cosine.float(), batch.y, margin, task.scale)
            ce = self._label_term(logits, batch) + 0.0 * outputs.logits.float().sum()
        margin_part = ce.new_tensor(margin * len(batch.y) / batch.count)
        return ce, {"ce": ce.detach(), "arcface_margin": margin_part}

    def _teacher_terms(
        self, task: Distilling, logits: torch.Tensor, batch: Batch
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Return ``name: (weight, value)`` of each teacher term; a value is ``[N]`` or a scalar."""
        teacher = batch.teacher
        if teacher is None:
            raise FerError(
                "distillation needs soft labels, but this training has none",
                code="missing-soft-labels",
            )
        if isinstance(task, StandardizedKD):
            rows = std_kd_rows(logits, teacher, task.temperature)
            return {"kd": (task.kd_weight, rows)}
        temperature = self.temperature
        assert temperature is not None
        if isinstance(task, KD):
            return {"kd": (task.kd_weight, kd_rows(logits, teacher, temperature))}
        if isinstance(task, DKD):
            tckd, nckd = dkd_rows(logits, teacher, batch.y, temperature)
            return {"tckd": (task.tckd_weight, tckd), "nckd": (task.nckd_weight, nckd)}
        inter, intra = dist_parts(logits, teacher, temperature)
        return {"inter": (task.inter_weight, inter), "intra": (task.intra_weight, intra)}

    def _auxiliary(self, outputs: Outputs, batch: Batch) -> list[tuple[str, float, torch.Tensor]]:
        recipe, terms = self.recipe, []
        features = outputs.features.float()
        if recipe.negative is not None:
            # Of the head that inference uses: ArcFace's, once it trains.
            logits = self.network.answer(outputs).float()
            given = _given(batch, recipe.negative)
            rows, applied = negative_learning(
                logits, batch.shown, recipe.negative, given, batch.generator
            )
            terms.append(("negative", recipe.negative.weight, _share(rows, batch)))
            terms.append(("negative_applied", 0.0, _share(applied.float(), batch)))
        if self.memory is not None and recipe.prototype is not None:
            rows = self.memory(features, batch.y)
            terms.append(("prototype", recipe.prototype.weight, _share(rows, batch)))
            self.memory.update(features.detach(), batch.y)
        if recipe.locality is not None:
            rows = locality_rows(features, batch.y, recipe.locality.neighbours)
            terms.append(("locality", recipe.locality.weight, _share(rows, batch)))
        return terms


def require_whole_steps(recipe: Training, processes: int, name: str) -> None:
    """Raise ``FerError`` for several processes if the loss compares the rows of a whole step."""
    if processes > 1 and recipe.compares_rows:
        raise FerError(
            f"{name}: {' and '.join(recipe.compares_rows)} compares the rows of one step with each "
            f"other, and {processes} processes share a step",
            code="needs-one-process",
            fix="train with one process, or without this term",
        )


def _share(value: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the share of values ``[N]``, or of their mean, in the mean over the whole step."""
    return value.sum() / batch.count if value.ndim else value * (len(batch.y) / batch.count)


def _given(batch: Batch, recipe: Negative) -> torch.Tensor | None:
    """Return the manifest's negative labels if the recipe uses them, else ``None``."""
    if recipe.source == "manifest" and batch.negative is None:
        raise FerError(
            "negative.source is 'manifest', but no row of the manifest has a neg_label",
            code="missing-negative-labels",
            fix="give rows a neg_label, or set negative.source = 'random'",
        )
    return batch.negative if recipe.source == "manifest" else None


def margin_at(task: ArcFace, epoch: float) -> float:
    """Return the margin in radians: 0 until ``plain_epochs``, then linear up to ``ramp_end``."""
    if epoch >= task.ramp_end:
        return task.margin
    if epoch <= task.plain_epochs:
        return 0.0
    return task.margin * (epoch - task.plain_epochs) / (task.ramp_end - task.plain_epochs)


def _features(network: Network) -> int:
    """Return the length of ``Outputs.features``."""
    if isinstance(network, ArcFaceNet):
        return network.plain.in_features
    head: nn.Linear = network.backbone.get_classifier()  # type: ignore[operator]
    return head.in_features
