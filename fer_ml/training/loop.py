"""The training loop of all methods: batches, steps, epochs, snapshots and selection on val."""

import contextlib
import copy
import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.processor import free_threads
from fer_ml.metrics.classification import classification_metrics
from fer_ml.recipes.training import ArcFace, Training
from fer_ml.training.models import State, freeze_statistics, tuned
from fer_ml.training.networks import Network
from fer_ml.training.optimiser import learning_rate, make_optimiser
from fer_ml.training.precision import TYPES, emulation_factor, is_emulated, precision_of
from fer_ml.training.prediction import PREDICT_ROWS, predict
from fer_ml.training.ranks import Ranks
from fer_ml.training.snapshot import Progress, load_snapshot, save_snapshot
from fer_ml.training.statistics import COMPARED_ROWS, inference_fit, measure_statistics
from fer_ml.training.stopping import StopSignal
from fer_ml.training.tasks import Batch, Objective, require_whole_steps
from fer_ml.training.views import (
    FaceSet,
    SoftTargets,
    batches,
    epoch_order,
    face_keys,
    to_input,
    uniforms,
    views,
)

log = logging.getLogger(__name__)

ALONE = Ranks(0, 1, torch.device("cpu"))
#: Seconds between two snapshots. What a kill costs is at most this much work.
SNAPSHOT_SECONDS = 60.0
#: Steps between two looks at the loss: on a GPU each look waits for the device.
LOOK_EVERY = 20


_GO_ON, _SAVE, _STOP = range(3)


@dataclass(frozen=True)
class Trained:
    """The result of a training: the best weights by val macro-F1, their epoch, and the history.

    ``emulation`` is the duration of a step relative to fp32 if ``precision`` is emulated, and
    ``None`` if it is not.
    """

    state: State
    best_epoch: int
    history: list[dict[str, Any]]
    steps: int
    precision: str
    emulation: float | None = None


@dataclass(frozen=True)
class Place:
    """Where a training keeps its snapshots, under which key, and every how many seconds."""

    folder: Path
    key: str
    seconds: float = SNAPSHOT_SECONDS


def train(
    network: Network,
    recipe: Training,
    train_faces: FaceSet,
    val_faces: FaceSet,
    *,
    seed: int,
    soft: SoftTargets | None = None,
    ranks: Ranks = ALONE,
    place: Place | None = None,
    name: str = "train",
) -> Trained:
    """Train ``network`` and keep its best weights by macro-F1 on ``val_faces``.

    With a ``place``, the state is saved there regularly and when the process is asked to stop; a
    stopped training resumes with the same result as without the stop. ``FerError`` when no step
    would be taken, when the loss is not finite, and when memory runs out.
    """
    run = _Run(network, recipe, train_faces, val_faces, seed, soft, ranks, place, name)
    try:
        return run.finish()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        half = max(2, recipe.batch_size // (2 * recipe.accumulate))
        raise FerError(
            f"{name}: out of memory with {recipe.batch_size // recipe.accumulate} rows of "
            f"{recipe.network_size or train_faces.preprocess.size} px in one pass",
            code="out-of-memory",
            fix=f"accumulate = {recipe.accumulate * 2} in the recipe ({half} rows a pass, the same "
            "rows a step), or a smaller batch_size",
        ) from error


class _Threads(contextlib.AbstractContextManager["_Threads"]):
    """Limits torch's threads to those that have a processor of their own at the moment."""

    def __init__(self) -> None:
        self._asked = torch.get_num_threads()

    def choose(self) -> None:
        """Measure the machine's other load, and set the number of torch's threads by it."""
        torch.set_num_threads(free_threads(self._asked))

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._asked)


class _Run:
    """The state of one running training: everything that changes from step to step."""

    def __init__(
        self,
        network: Network,
        recipe: Training,
        train_faces: FaceSet,
        val_faces: FaceSet,
        seed: int,
        soft: SoftTargets | None,
        ranks: Ranks,
        place: Place | None,
        name: str,
    ) -> None:
        self.recipe, self.seed, self.soft = recipe, seed, soft
        self.train_faces, self.val_faces = train_faces, val_faces
        self.ranks, self.place, self.name = ranks, place, name
        counts = np.bincount(train_faces.y, minlength=len(CLASSES))
        self.steps_per_epoch = len(self._batches(0))
        if self.steps_per_epoch == 0:
            raise FerError(
                f"{name}: {len(train_faces)} training rows give no batch of {recipe.batch_size}",
                code="too-few-rows",
                fix="lower batch_size in the recipe, or give more rows",
            )
        device = ranks.device
        if ranks.world > 1:
            require_whole_steps(recipe, ranks.world, name)
            _share_statistics(network, device, name)
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network
        self.optimiser = make_optimiser(tuned(network, recipe), recipe)
        self.objective = Objective(
            network, recipe, torch.from_numpy(counts), _temperature(recipe, soft)
        ).to(device)
        self.ema = ModelEmaV3(network, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        self.precision = precision_of(recipe, device, network)
        self.emulation = self._emulation()
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.sums: dict[str, torch.Tensor] = {}
        self.progress = Progress(seen=torch.zeros(len(train_faces), dtype=torch.bool))
        self._resume()
        if recipe.compile:
            # Bound to the instance, so that names of weights stay.
            network.outputs = torch.compile(network.outputs)  # type: ignore[method-assign]
        self.step_module: nn.Module = self.objective
        if ranks.world > 1:
            self.step_module = DistributedDataParallel(
                self.objective, find_unused_parameters=isinstance(recipe.task, ArcFace)
            )

    def finish(self) -> Trained:
        """Run the remaining steps; return the result."""
        total = self.recipe.epochs * self.steps_per_epoch
        saved = time.monotonic()
        with StopSignal() as stop, _Threads() as threads:
            while self.progress.step < total:
                threads.choose()
                epoch = self.progress.step // self.steps_per_epoch
                started = time.monotonic()
                self._training_mode()
                for rows, arrays in self._bar(epoch):
                    self._step(rows, arrays)
                    if self.progress.step % self.steps_per_epoch == 0:
                        # Before any save: a state between epochs has the last one's measures.
                        self._end_epoch(epoch, started)
                    elif self.progress.step % LOOK_EVERY == 0:
                        self._look()
                    due = self.place is not None and (time.monotonic() - saved > self.place.seconds)
                    # Clocks and signals differ between processes; what follows must not.
                    wanted = self.ranks.highest(_STOP if stop.asked else _SAVE if due else _GO_ON)
                    if wanted != _GO_ON:
                        self._save()
                        saved = time.monotonic()
                    if wanted == _STOP:
                        log.info("%s: stopped at step %d", self.name, self.progress.step)
                        stop.obey()
        self._save()
        progress = self.progress
        return Trained(
            progress.best,
            progress.best_epoch,
            progress.history,
            progress.step,
            self.precision,
            self.emulation,
        )

    def _emulation(self) -> float | None:
        """Measure the factor of an emulated precision, and log it; ``None`` if it is not emulated.

        Every process of a training measures; only the first one logs.
        """
        device = self.ranks.device
        if not is_emulated(self.precision, device):
            return None
        size = self.train_faces.preprocess.size
        factor = emulation_factor(self.network, self.precision, size, device)
        log.warning(
            "%s: %s is emulated here: a step takes %.1f times as long as in fp32 (measured). "
            "precision = 'auto' in the recipe takes what is fast here",
            self.name,
            self.precision,
            factor,
        )
        return round(factor, 2)

    def _batches(self, epoch: int) -> list[np.ndarray]:
        order = epoch_order(self.train_faces.y, self.seed, epoch, self.recipe.imbalance.sampler)
        all_batches = batches(order, self.recipe.batch_size, drop_last=self.recipe.drop_last)
        # Every part of a step needs two rows for BatchNorm, on every process.
        least = 2 * self.ranks.world
        return [rows for rows in all_batches if len(rows) >= least]

    def _bar(self, epoch: int) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Yield the remaining batches of ``epoch``, with pixels read two batches ahead."""
        left = self._batches(epoch)[self.progress.step % self.steps_per_epoch :]
        # Over all epochs, so that the time left is the training's.
        bar = tqdm(
            total=self.steps_per_epoch * self.recipe.epochs,
            initial=self.steps_per_epoch * (epoch + 1) - len(left),
            desc=f"{self.name} {epoch + 1}/{self.recipe.epochs}",
            disable=None if self.ranks.first else True,
            leave=False,
        )
        with ThreadPoolExecutor(1) as reader, bar:
            ahead = [reader.submit(self._read, rows) for rows in left[:2]]
            for index, rows in enumerate(left):
                arrays = ahead.pop(0).result()
                if index + 2 < len(left):
                    ahead.append(reader.submit(self._read, left[index + 2]))
                yield rows, arrays
                bar.update()

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return this process's rows of a step, in equal parts."""
        local_rows = rows[self.ranks.rank :: self.ranks.world]
        parts = min(self.recipe.accumulate, len(local_rows) // 2)
        # Sorted reads are sequential in the memory map; the rows of a batch have no order.
        return [np.sort(part) for part in np.array_split(local_rows, parts)]

    def _read(self, rows: np.ndarray) -> list[np.ndarray]:
        return [self.train_faces.images[part] for part in self._parts(rows)]

    def _step(self, rows: np.ndarray, arrays: list[np.ndarray]) -> None:
        step, device = self.progress.step, self.ranks.device
        rate = learning_rate(self.recipe, step, self.steps_per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(_mixed(self.seed, step, self.ranks.rank))
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        parts = self._parts(rows)
        for index, (part, images) in enumerate(zip(parts, arrays, strict=True)):
            batch = self._batch(part, images, len(rows))
            last = index == len(parts) - 1
            with self._gradients_travel(last):
                with torch.autocast(
                    device.type, TYPES[self.precision], enabled=self.precision != "fp32"
                ):
                    loss, terms = self.step_module(batch)
                # DDP averages over processes; the parts are shares of a sum.
                self.scaler.scale(loss * self.ranks.world).backward()
            for key, value in {"loss": loss.detach(), **terms}.items():
                sums[key] = sums[key] + value if key in sums else value
        if self.recipe.clip_norm:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.progress.seen[torch.from_numpy(rows)] = True
        self.progress.step += 1
        if self.ema is not None:
            self.ema.update(self.network, step=self.progress.step)
        for key, value in sums.items():
            before = self.sums.get(key)
            self.sums[key] = value.double() if before is None else before + value.double()

    def _batch(self, rows: np.ndarray, images: np.ndarray, count: int) -> Batch:
        recipe, step, device = self.recipe, self.progress.step, self.ranks.device
        epoch = step // self.steps_per_epoch
        seed, number, teacher = self.seed, epoch, None
        if self.soft is not None:
            number = epoch % self.soft.logits.shape[1]
            teacher = torch.from_numpy(self.soft.logits[rows, number]).to(device)
            if self.soft.view_seed is not None:
                seed = self.soft.view_seed
            else:
                number = epoch
        pixels = views(
            images,
            uniforms(face_keys(self.train_faces.sample_ids[row] for row in rows), seed, number),
            recipe,
            self.train_faces.preprocess,
            device,
        )
        drawn = np.random.default_rng((self.seed, step, self.ranks.rank, int(rows[0])))
        target = self._targets(rows)
        shown = target > 0
        if recipe.mixup:
            share = float(drawn.beta(recipe.mixup, recipe.mixup))
            other = torch.from_numpy(drawn.permutation(len(rows)))
            pixels = share * pixels + (1 - share) * pixels[other.to(device)]
            target = share * target + (1 - share) * target[other]
            shown = shown | shown[other]
        target = target * (1 - recipe.label_smoothing) + recipe.label_smoothing / len(CLASSES)
        faces = self.train_faces
        return Batch(
            images=pixels.contiguous(memory_format=torch.channels_last),
            y=torch.from_numpy(faces.y[rows]).to(device),
            target=target.to(device),
            shown=shown.to(device),
            epoch=step / self.steps_per_epoch,
            count=count,
            weight=_on(faces.weight if recipe.row_weights else None, rows, device),
            teacher=teacher,
            negative=_on(faces.negative, rows, device),
            generator=torch.Generator().manual_seed(int(drawn.integers(2**62))),
        )

    def _targets(self, rows: np.ndarray) -> torch.Tensor:
        """Return the target distribution of each row by labels or votes, ``[N, C]`` shares."""
        faces = self.train_faces
        if self.recipe.targets == "votes":
            assert faces.votes is not None
            return torch.from_numpy(faces.votes[rows])
        return nn.functional.one_hot(torch.from_numpy(faces.y[rows]), len(CLASSES)).float()

    def _gradients_travel(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context in which processes exchange gradients only with a step's last part."""
        if isinstance(self.step_module, DistributedDataParallel) and not last:
            return self.step_module.no_sync()
        return contextlib.nullcontext()

    def _training_mode(self) -> None:
        self.step_module.train()
        if self.recipe.tune != "all":
            freeze_statistics(self.network)

    def _look(self) -> None:
        value = float(self.sums["loss"])
        if not math.isfinite(value):
            raise FerError(
                f"{self.name}: the loss is {value} by step {self.progress.step}",
                code="loss-not-finite",
                fix="lower lr, or set precision = 'fp32', in the recipe",
            )

    def _end_epoch(self, epoch: int, started: float) -> None:
        self._look()
        means = {
            key: float(self.ranks.total(value)) / self.steps_per_epoch
            for key, value in self.sums.items()
        }
        self.sums = {}
        if self.ranks.first:
            self._measure(epoch, means, time.monotonic() - started)
        self.ranks.wait()

    def _measure(self, epoch: int, means: dict[str, float], seconds: float) -> None:
        progress = self.progress
        measured = self.network if self.ema is None else self.ema.module
        if self.recipe.precise_bn:
            rows = self._some_rows(self.recipe.precise_bn)
            parts = np.array_split(rows, max(1, len(rows) // PREDICT_ROWS))
            measure_statistics(measured, (self._centre_views(part) for part in parts))
        logits = predict(measured, self.val_faces, device=self.ranks.device)
        metrics = classification_metrics(self.val_faces.y, logits)
        rows = self._some_rows(COMPARED_ROWS)
        y = torch.from_numpy(self.train_faces.y[rows]).to(self.ranks.device)
        fit = inference_fit(measured, self._centre_views(rows), y)
        progress.history.append(
            {
                "epoch": epoch,
                "train": means,
                "val": metrics,
                "inference": asdict(fit),
                "lr": self.optimiser.param_groups[0]["lr"],
                "steps": progress.step,
                "coverage": float(progress.seen.float().mean()),
                "timing": {"epoch_sec": round(seconds, 2), "threads": torch.get_num_threads()},
            }
        )
        log.info(
            "%s epoch %d/%d: loss %.4f, val accuracy %.4f, macro-F1 %.4f, %.1f s",
            self.name,
            epoch + 1,
            self.recipe.epochs,
            means["loss"],
            metrics["accuracy"],
            metrics["macro_f1"],
            seconds,
        )
        if fit.fault is not None:
            log.warning("%s epoch %d: %s", self.name, epoch + 1, fit.fault)
        if metrics["macro_f1"] > progress.best_score:
            progress.best_score, progress.best_epoch = metrics["macro_f1"], epoch
            progress.best = copy.deepcopy(
                {name: tensor.cpu() for name, tensor in measured.state_dict().items()}
            )

    def _some_rows(self, count: int) -> np.ndarray:
        """Return ``count`` training rows in order, the same ones in every epoch."""
        order = np.random.default_rng(self.seed).permutation(len(self.train_faces))
        return np.sort(order[:count])

    def _centre_views(self, rows: np.ndarray) -> torch.Tensor:
        """Return training faces as inference sees them, ``[N, 3, S, S]``."""
        faces = self.train_faces
        return to_input(faces.images[rows], faces.preprocess, self.ranks.device)

    def _save(self) -> None:
        if self.place is not None and self.ranks.first:
            self.progress.totals = {key: float(value) for key, value in self.sums.items()}
            save_snapshot(self.place.folder, self.place.key, self.progress, self._state())
        self.ranks.wait()

    def _state(self) -> dict[str, Any]:
        memory = self.objective.memory
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "memory": memory.state_dict() if memory else None,
        }

    def _resume(self) -> None:
        snapshot = load_snapshot(self.place.folder, self.place.key) if self.place else None
        if snapshot is None:
            return
        self.progress, parts = snapshot
        self.network.load_state_dict(parts["network"])
        self.optimiser.load_state_dict(parts["optimiser"])
        self.scaler.load_state_dict(parts["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(parts["ema"])
        if self.objective.memory is not None:
            self.objective.memory.load_state_dict(parts["memory"])
        self.sums = {
            key: torch.tensor(value, dtype=torch.float64, device=self.ranks.device)
            for key, value in self.progress.totals.items()
        }
        log.info("%s: goes on after step %d", self.name, self.progress.step)


def _share_statistics(network: nn.Module, device: torch.device, name: str) -> None:
    """Let BatchNorm use the rows of all processes where torch can (CUDA); warn where not."""
    if device.type == "cuda":
        convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    elif any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
        log.warning("%s: on CPUs BatchNorm sees the rows of its own process only", name)


def _on(values: np.ndarray | None, rows: np.ndarray, device: torch.device) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(values[rows]).to(device)


def _temperature(recipe: Training, soft: SoftTargets | None) -> float | None:
    """Return the recipe's KD temperature, else the one derived from the soft labels."""
    given: float | None = getattr(recipe.task, "temperature", None)
    return given if given is not None or soft is None else soft.kd_temperature


def _mixed(seed: int, step: int, rank: int) -> int:
    """Combine several numbers to one seed, for dropout and similar draws."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)
