"""Two small sources on disk, and the stages of manifests run over them one by one."""

from pathlib import Path

from fer_assets.stage import Given, Stage
from fer_assets.stages import (
    classification_manifest,
    curated_manifest,
    label_review,
    manifest,
    manifest_validation,
)
from fer_ml.base.labels import CLASSES
from fer_ml.images.pixels import encode_png
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import Curation, Profile, Source
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome
from fer_ml.storage.job import Job
from fer_ml.storage.store import Store
from tests.conftest import noise

#: Faces of each source; the last two of ``b`` are also in ``a``, one of them with another label.
ROWS = 42
MODULES = (manifest, classification_manifest, curated_manifest, manifest_validation, label_review)


def two_sources(folder: Path) -> dict[str, Path]:
    """Raw folders of ``a`` and ``b``; ``a`` has a row of a file that is not there."""
    for source, first in (("a", 0), ("b", ROWS - 2)):
        lines = ["file,label,split"]
        (folder / source).mkdir(parents=True)
        for number in range(first, first + ROWS):
            # Of the faces in both, the second is called otherwise in ``b``.
            shift = source == "b" and number == ROWS - 1
            label, split = CLASSES[(number + shift) % 7], ("train", "val", "test")[number // 7 % 3]
            (folder / source / f"{number}.png").write_bytes(encode_png(noise(number)))
            lines.append(f"{number}.png,{label},{split}")
        lines += ["gone.png,Happy,train"] * (source == "a")
        (folder / source / "manifest.csv").write_text("\n".join(lines) + "\n")
    return {f"raw/{source}": folder / source for source in "ab"}


def profile_of_two() -> Profile:
    """A profile of the two sources; publishers' val of ``b`` means calib."""
    both = Curation(sources=("a", "b"))
    return sample().model_copy(
        update={
            "sources": (
                Source(name="a", adapter="csv_manifest", title="The first"),
                Source(name="b", adapter="csv_manifest", splits={"val": "calib"}),
            ),
            "hq_train": both,
            "eval_only": Curation(sources=("b",), splits=("test",)),
            "test_all_sources": Curation(sources=("a", "b"), splits=("test",)),
            "curations": {"sad": Curation(sources=("a",), labels=("Sad",))},
        }
    )


def stages_of(profile: Profile) -> dict[str, Stage]:
    """The stages of manifests, in an order in which each follows what it needs."""
    found = [stage for module in MODULES for stage in module.stages(Given(profile))]
    return {stage.asset: stage for stage in found}


def all_made(folder: Path) -> Store:
    """A store in which every stage of manifests has run."""
    profile = profile_of_two()
    store, raw = Store(folder / "home", "test"), two_sources(folder / "raw")
    for stage in stages_of(profile).values():
        made(stage, profile, store, raw)
    return store


def made(stage: Stage, profile: Profile, store: Store, raw: dict[str, Path]) -> Artifact:
    """What a stage gives for ``profile``, with its recipe on record."""
    recipe = stage.recipe(profile, None)
    inputs = {need.asset: held(store, need.asset) for need in stage.needs}
    job = Job(stage.asset, None, store, recipe, inputs, raw)
    with store.begin(
        stage.asset,
        inputs=[artifact.as_input() for artifact in inputs.values()],
        recipe=recipe.recorded(),
    ) as run:
        stage.build(run, job)
    return held(store, stage.asset)


def held(store: Store, asset: str) -> Artifact:
    """The current artifact."""
    artifact = store.current(asset)
    assert artifact is not None
    return artifact


def verdicts(stage: Stage, profile: Profile, store: Store) -> dict[str, Outcome]:
    """What the gates of a stage say of its current artifact: exactly those that it declares."""
    found = stage.judge(held(store, stage.asset), store, stage.limits(profile))
    assert [outcome.rule for outcome in found] == [gate.rule for gate in stage.gates]
    return {outcome.rule: outcome for outcome in found}
