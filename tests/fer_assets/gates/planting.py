"""A fault, planted in a copy of a real artifact that becomes the current one, and what turns red.

The copy has a record and a seal of its own. What was changed beside it is put back afterwards.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_ml.base.files import write_json
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import read_card, write_card
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Input
from fer_ml.storage.store import RunFolder, Store
from fer_ml.training.checkpoint import load_checkpoint, save_checkpoint
from tests.refusals import refused


@dataclass
class Copy:
    """A run folder that is being written, with ``inputs`` and a ``recipe`` that may be changed."""

    pipeline: Pipeline
    run: RunFolder
    inputs: list[Input]
    recipe: dict[str, Any]
    undo: ExitStack

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.run.folder

    @property
    def store(self) -> Store:
        """The artifact root."""
        return self.pipeline.store

    def input(self, asset: str, partition: str | None = None) -> Artifact:
        """The artifact that it was made from."""
        item = next(i for i in self.inputs if (i.asset, i.partition) == (asset, partition))
        found = self.store.find(asset, partition, item.sha256)
        assert found is not None
        return found

    def other_input(self, asset: str, *plants: "Plant") -> None:
        """Let it be made from a copy of its input in which a fault is planted too."""
        here = [item.asset for item in self.inputs].index(asset)
        before = self.input(asset, self.inputs[here].partition)
        self.inputs[here] = copied(self.pipeline, before, self.undo, *plants).as_input()

    def beside(self, path: Path, data: bytes) -> None:
        """Write a file that is not the artifact's, for as long as it is judged."""
        path.write_bytes(data)
        self.undo.callback(path.unlink)


Plant = Callable[[Copy], None]


def nothing(copy: Copy) -> None:
    """No fault."""


@dataclass(frozen=True)
class Fault:
    """What turns one gate red, and no other one.

    ``sound`` is planted first where so short a training does not pass the gate by itself.
    ``limits`` are fields of the profile that it is judged by. ``also`` are gates that cannot but
    fall with it, ``because`` of what is said there.
    """

    plant: Plant
    sound: Plant = nothing
    limits: Mapping[str, Any] = field(default_factory=dict)
    also: frozenset[str] = frozenset()
    because: str = ""

    def __post_init__(self) -> None:
        assert bool(self.also) == bool(self.because)


#: By gate, forms of its fault.
Faults = dict[str, tuple[Fault, ...]]


def one(*plants: Plant) -> tuple[Fault, ...]:
    """Forms of one fault, in an artifact that passes the gate."""
    return tuple(map(Fault, plants))


def copied(pipeline: Pipeline, before: Artifact, undo: ExitStack, *plants: Plant) -> Artifact:
    """A copy of an artifact with faults, which is the current one until ``undo``."""
    store, record, pointer = (
        pipeline.store,
        before.record,
        before.folder.parent / "current.json",
    )
    inputs, recipe = list(record.inputs), json.loads(json.dumps(record.recipe))
    undo.callback(pointer.write_bytes, pointer.read_bytes())
    with store.begin(record.asset, record.partition, inputs=inputs, recipe=recipe) as run:
        for name in record.files:
            shutil.copyfile(before.file(name), run.path(name))
        run.splits.update(record.splits)
        for plant in plants:
            plant(Copy(pipeline, run, inputs, recipe, undo))
    made = store.current(record.asset, record.partition)
    assert made is not None
    undo.callback(shutil.rmtree, made.folder)
    return made


def red_with(pipeline: Pipeline, target: Target, *plants: Plant) -> set[str]:
    """The gates that are red for a copy of an artifact in which faults are planted.

    A consumer is refused the copy exactly when a gate that blocks is among them.
    """
    before = pipeline.store.current(target.asset, target.partition)
    assert before is not None
    with ExitStack() as undo:
        copied(pipeline, before, undo, *plants)
        found = {o.rule for o in pipeline.judge(target) if o.passed is False}
        if any(gate.blocking and gate.rule in found for gate in pipeline.gates(target.asset)):
            with refused("gate-failed"):
                pipeline.store.require(target.asset, target.partition)
        else:
            pipeline.store.require(target.asset, target.partition)
    return found


@dataclass
class Bed:
    """A pipeline in which everything is made, and what it does not pass without any fault."""

    pipeline: Pipeline
    weak: dict[object, set[str]] = field(default_factory=dict)

    def turned(self, target: Target, fault: Fault) -> set[str]:
        """The gates that turn red by a fault."""
        profile = self.pipeline.profile.model_copy(update=fault.limits)
        judging = replace(self.pipeline, profile=profile) if fault.limits else self.pipeline
        key = target, fault.sound, repr(fault.limits)
        if key not in self.weak:
            self.weak[key] = red_with(judging, target, fault.sound)
        return red_with(judging, target, fault.sound, fault.plant) - self.weak[key]


def sets(file: str, *path: Any, to: Any) -> Plant:
    """Another value in a JSON file: ``to``, or what it makes of the old one."""

    def plant(copy: Copy) -> None:
        held = {"": json.loads((copy.folder / file).read_text(encoding="utf-8"))}
        inside: Any = held
        *above, last = ("", *path)
        for key in above:
            inside = inside[key]
        inside[last] = to(inside[last]) if callable(to) else to
        write_json(copy.folder / file, held[""])

    return plant


def array(file: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """Other numbers in an archive of arrays."""

    def plant(copy: Copy) -> None:
        with np.load(copy.folder / file, allow_pickle=False) as held:
            arrays = {key: held[key] for key in held.files}
        np.savez(copy.folder / file, **{**arrays, name: change(arrays[name])})

    return plant


def table(file: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Plant:
    """Other rows in a csv."""

    def plant(copy: Copy) -> None:
        path = copy.folder / file
        change(pl.read_csv(path, infer_schema=False)).write_csv(path)

    return plant


def text(file: str, change: Callable[[str], str]) -> Plant:
    """Another text."""

    def plant(copy: Copy) -> None:
        path = copy.folder / file
        before = path.read_text(encoding="utf-8")
        path.write_text(change(before), encoding="utf-8", newline="")
        assert change(before) != before

    return plant


def gone(file: str) -> Plant:
    """A file that is not there."""
    return lambda copy: (copy.folder / file).unlink()


def card(folder: str = ".", **changes: Any) -> Plant:
    """A card that says something else."""

    def plant(copy: Copy) -> None:
        here = copy.folder / folder
        write_card(here, read_card(here).model_copy(update=changes))

    return plant


def checkpoint(**changes: Any) -> Plant:
    """Another checkpoint."""

    def plant(copy: Copy) -> None:
        path = copy.folder / "best.pt"
        save_checkpoint(path, replace(load_checkpoint(path), **changes))

    return plant


def every(*plants: Plant) -> Plant:
    """Several changes that are one fault."""

    def plant(copy: Copy) -> None:
        for each in plants:
            each(copy)

    return plant


def splits(**changes: str) -> Plant:
    """Another split in the record."""
    return lambda copy: copy.run.splits.update(changes)


def last_first(values: Any) -> Any:
    """In reverse order."""
    return values[::-1]


OTHER_HASH = "0" * 64
OTHER_ORDER = CLASSES[::-1]
