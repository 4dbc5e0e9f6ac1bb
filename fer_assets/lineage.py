"""The lineage as a table: every asset, what it needs, what makes it, and what judges it.

Dagster's definitions are generated from it, ``fer materialize`` plans with it, and a notebook can
use it without Dagster, which this module does not import. What makes and judges an asset is named
by ``module:function`` and imported only when it runs, so that loading this table loads no torch.
"""

import contextlib
import importlib
import json
import logging
import shlex
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from fer_assets.stages.job import Job
from fer_assets.tracing import span
from fer_ml.base.cost import COSTS
from fer_ml.base.errors import FerError
from fer_ml.base.files import owned_name, sha256_file
from fer_ml.base.logs import belongs_to
from fer_ml.base.settings import Settings, settings
from fer_ml.base.shards import in_threads, processors
from fer_ml.claims.model import Claim, read_claims
from fer_ml.privacy.log import read_log
from fer_ml.recipes.profiles import STUDENTS, Profile, load_profile
from fer_ml.recipes.training import Distilling, Training
from fer_ml.sources.raw import SAMPLE_FOLDER, ensure_raw, fingerprint, model_files, raw_root
from fer_ml.storage.gates import Outcome, blocking_rules, gates_of
from fer_ml.storage.limits import still_says, watched
from fer_ml.storage.mirror import open_store
from fer_ml.storage.store import (
    Artifact,
    Input,
    Receipt,
    RunFolder,
    Store,
    asset_label,
    parse_label,
)

if TYPE_CHECKING:
    from fer_assets.selection import Selection

log = logging.getLogger(__name__)

#: Pools of Dagster's, with one place each: a training has the GPU, and decoding all cores.
TRAINING, DECODING = "training", "decoding"

CURATED = {
    "hq_train_manifest": "The rows that teachers and students train, select and calibrate "
    "on (`classification_manifest_hq_train.csv`), with splits as data.",
    "eval_only_manifest": "Test rows of sources that are set apart for evaluation: "
    "`classification_manifest_eval_only.csv`.",
    "test_all_sources_manifest": "The mixed-source benchmark: test rows of every source, "
    "`test_all_sources.csv`. Only reported, never selected on.",
}


@dataclass(frozen=True)
class Need:
    """An input: an asset, and which of its partitions.

    ``one``: unpartitioned; ``same``: the consumer's own partition; ``each``: all of them;
    ``named``: those in ``keys``; ``folds``: those of the consumer's own teacher; ``distilled``:
    unpartitioned, and for partitions that learn from a teacher only.
    """

    asset: str
    partition: Literal["one", "same", "each", "named", "folds", "distilled"] = "one"
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One asset: presentation, inputs, the functions behind it, and the recipe it depends on.

    ``code_version`` changes when the same inputs and recipe would give another result. ``recipe``
    picks the part of the profile that decides the result; a change there makes the asset stale.
    ``partitions`` is the profile's table whose keys are the partitions, or ``adopted``: what was
    adopted so far; ``on_request`` stages are made when they are selected, and not with everything
    else.
    ``fresh_hours`` is the age at which the UI warns; twice that age is a failure.
    """

    asset: str
    group: str
    kinds: tuple[str, ...]
    describe: str
    build: str
    needs: tuple[Need, ...]
    gate: str | None = None
    raw: str | None = None
    partitions: Literal["teachers", "folds", "experiments", "models", "adopted"] | None = None
    code_version: str = "1"
    pool: str | None = None
    on_request: bool = False
    fresh_hours: int | None = None
    recipe: Callable[["Pipeline", str | None], dict[str, Any]] = lambda pipeline, partition: {}


def _needs(*assets: str) -> tuple[Need, ...]:
    return tuple(Need(asset) for asset in assets)


def _trainings(profile: Profile, names: list[str]) -> tuple[Need, ...]:
    """Experiments and students by name."""
    experiments = tuple(name for name in names if name in profile.experiments)
    students = [name for name in names if name not in profile.experiments]
    return (Need("student_experiment", "named", experiments), *_needs(*students))


def _dump(value: Any) -> Any:
    return value.model_dump(mode="json")


def _unified_recipe(pipeline: "Pipeline", partition: str | None) -> dict[str, Any]:
    profile = pipeline.profile
    return {
        "sources": {source.name: source.splits for source in profile.sources},
        "draw": _dump(profile.draw),
        "seed": profile.seed,
    }


def _training_recipe(
    table: str, key: str = ""
) -> Callable[["Pipeline", str | None], dict[str, Any]]:
    """The recipe of one training in ``table`` of the profile: ``key``'s, or the partition's."""

    def recipe(pipeline: "Pipeline", partition: str | None) -> dict[str, Any]:
        profile, name = pipeline.profile, key or str(partition)
        trainings: dict[str, Training] = getattr(profile, table)
        if name not in trainings:
            raise FerError(
                f"profile {profile.name} has no {table}.{name}",
                allowed=", ".join(trainings),
                fix=f"add {table}.{name} to the profile",
            )
        return {
            "training": trainings[name].recorded(),
            "preprocess": profile.preprocess.plain(),
            "seed": profile.seed,
        }

    return recipe


def _fold_recipe(pipeline: "Pipeline", partition: str | None) -> dict[str, Any]:
    folds = pipeline.profile.folds
    if str(partition) not in folds:
        raise FerError(
            f"profile {pipeline.profile.name} has no fold {partition}", allowed=", ".join(folds)
        )
    teacher, fold = folds[str(partition)]
    return {
        **_training_recipe("teachers", teacher)(pipeline, None),
        "without_fold": fold,
        "folds": pipeline.profile.softlabels.folds,
    }


def _demo_recipe(pipeline: "Pipeline", partition: str | None) -> dict[str, Any]:
    ensure_raw(pipeline.profile, pipeline.store)
    session = pipeline.demo_session()
    source = pipeline.demo_video() if session is None else session / "per_frame.csv"
    return {
        "video_sha256": sha256_file(source) if source.is_file() else None,
        "detector": pipeline.profile.demo.detector,
        "imported": session is not None,
    }


def _model_recipe(pipeline: "Pipeline", partition: str | None) -> dict[str, Any]:
    """A model from elsewhere, by the hashes of its files; null while they are not there."""
    held: dict[str, Any] = {"files": None, "preprocess": pipeline.profile.preprocess.plain()}
    path = pipeline.model_path(str(partition))
    with contextlib.suppress(FerError):
        held["files"] = {name: sha256_file(file) for name, file in model_files(path)[1].items()}
    return held


def _claims_recipe(pipeline: "Pipeline", partition: str | None) -> dict[str, Any]:
    path = pipeline.claims_file()
    return {"claims_sha256": sha256_file(path) if path.is_file() else None}


def _report_recipe(pipeline: "Pipeline", partition: str | None) -> dict[str, Any]:
    return {"template_sha256": sha256_file(pipeline.report_template())}


def build_stages(
    profile: Profile, claimed: frozenset[str], reported: frozenset[str]
) -> dict[str, Stage]:
    """The stages of ``profile`` in an order in which each follows what it needs.

    ``claimed`` are the assets or partitions that the claims file cites: ``report_claims`` rests on
    exactly those. ``reported`` are those that the report's template refers to besides the claims.
    """
    sources = [
        Stage(
            asset=f"manifest/{source.name}",
            group="manifests",
            kinds=("csv", "polars"),
            describe=f"{source.title or source.name}, cleaned: one row a face with its label, "
            "publisher's split, box and content identity; what was left out stands in "
            "`quarantine.csv` and `excluded.csv` with its reason.",
            build="fer_assets.stages.manifest:build_source",
            gate="fer_assets.stages.manifest_validation:gate_source",
            code_version="5",
            needs=(),
            raw=source.name,
            pool=DECODING,
            recipe=_source_recipe(source.name),
        )
        for source in profile.sources
    ]
    curated = [
        Stage(
            asset=asset,
            group="manifests",
            kinds=("csv", "polars"),
            describe=describe,
            build="fer_assets.stages.curated_manifest:build_curated",
            code_version="3",
            gate="fer_assets.stages.manifest_validation:gate_manifest",
            needs=_needs("classification_manifest"),
            recipe=_curation_recipe(asset.removesuffix("_manifest")),
        )
        for asset, describe in {
            **CURATED,
            **{
                f"{name}_manifest": f"Curated by the recipe `curations.{name}` of the profile."
                for name in profile.curations
            },
        }.items()
    ]
    # What is trained on, and every evaluation set.
    tested = _needs("hq_train_manifest", *(f"{name}_manifest" for name in profile.tested))
    students = []
    for index, stage in enumerate(STUDENTS):
        needs = ["hq_train_manifest"]
        if index:
            needs += ["softlabels", f"student_{STUDENTS[index - 1]}"]
        students.append(
            Stage(
                asset=f"student_{stage}",
                group="students",
                kinds=("pytorch",),
                describe=f"MobileNetV3-Large trained by {stage.upper()}: `best.pt` (weights by val "
                "macro-F1), metrics of exactly those bytes, and its temperature from calib.",
                build="fer_assets.stages.trainings:build_training",
                code_version="2",
                gate=f"fer_assets.stages.training_gates:gate_{'student' if index else 'run'}",
                needs=_needs(*needs),
                pool=TRAINING,
                recipe=_training_recipe("students", stage),
            )
        )
    fold_trainings = [
        Stage(
            asset="teacher_fold",
            group="folds",
            kinds=("pytorch", "timm"),
            describe="A teacher trained without one fold of the training rows, which it labels: "
            "`RN18_1` is RN18 without the first fold.",
            build="fer_assets.stages.trainings:build_training",
            gate="fer_assets.stages.training_gates:gate_run",
            needs=_needs("hq_train_manifest"),
            partitions="folds",
            pool=TRAINING,
            recipe=_fold_recipe,
        )
    ] * bool(profile.folds)
    comparisons = [
        Stage(
            asset=f"comparison/{name}",
            group="comparisons",
            kinds=("csv", "json"),
            describe=f"`comparisons.{name}` of the profile: {', '.join(comparison.arms)} over the "
            "same seeds at one budget, on one evaluation set, each against the baseline and "
            "against the arm before it: `comparison.json`.",
            build="fer_assets.stages.comparison:build_comparison",
            gate="fer_assets.stages.comparison:gate_comparison",
            needs=(
                *_trainings(profile, [n for arm in comparison.arms.values() for n in arm]),
                Need(
                    "hq_train_manifest"
                    if comparison.evaluation == "hq_train_val"
                    else f"{comparison.evaluation}_manifest"
                ),
            ),
            on_request=True,
            recipe=_comparison_recipe(name),
        )
        for name, comparison in profile.comparisons.items()
    ]
    rest = [
        Stage(
            asset="classification_manifest",
            group="manifests",
            kinds=("csv", "polars"),
            describe="All sources in one manifest with final splits, drawn and checked by group; "
            "rows with a twin in a split that takes precedence are quarantined. "
            "`leakage.json` says how many test rows had a twin in training.",
            build="fer_assets.stages.classification_manifest:build_unified",
            code_version="3",
            gate="fer_assets.stages.manifest_validation:gate_manifest",
            needs=_needs(*(stage.asset for stage in sources)),
            recipe=_unified_recipe,
        ),
        *curated,
        Stage(
            asset="manifest_validation",
            group="manifests",
            kinds=("json",),
            describe="One report for each manifest, from a look at every row and every image: "
            "`manifest_validation_*.json`, with the first pipeline's keys; every finding in "
            "`findings.csv`, with pictures.",
            build="fer_assets.stages.manifest_validation:build_validation",
            code_version="2",
            gate="fer_assets.stages.manifest_validation:gate_validation",
            fresh_hours=26,
            pool=DECODING,
            needs=_needs("classification_manifest", *(stage.asset for stage in curated)),
        ),
        Stage(
            asset="label_review",
            group="manifests",
            kinds=("csv", "html"),
            describe="Faces that two rows label differently, the most suspicious first: by "
            "annotators' votes where there are some. `review.csv`, and `review.html` with faces.",
            build="fer_assets.stages.label_review:build_label_review",
            needs=_needs("classification_manifest"),
        ),
        *fold_trainings,
        Stage(
            asset="teacher",
            group="teachers",
            kinds=("pytorch", "timm"),
            describe="One teacher a partition (RN18, B3, CNXT), trained with ArcFace: `best.pt` by "
            "val macro-F1, `history.json`, metrics and temperature of those bytes.",
            build="fer_assets.stages.trainings:build_training",
            code_version="2",
            gate="fer_assets.stages.training_gates:gate_run",
            needs=_needs("hq_train_manifest"),
            partitions="teachers",
            pool=TRAINING,
            recipe=_training_recipe("teachers"),
        ),
        Stage(
            asset="teacher_logits",
            group="teachers",
            kinds=("numpy",),
            describe="One teacher's logits on every distinct face of the manifests: `logits.npz`, "
            "float16, keyed by sample_id.",
            build="fer_assets.stages.teacher_logits:build_teacher_logits",
            code_version="2",
            gate="fer_assets.stages.teacher_logits:gate_logits",
            needs=(
                Need("teacher", "same"),
                *(Need(stage.asset, "folds") for stage in fold_trainings),
                *tested,
            ),
            partitions="teachers",
            pool=TRAINING,
            recipe=lambda pipeline, partition: {
                "views": asdict(pipeline.profile.views) if pipeline.profile.views else None
            },
        ),
        Stage(
            asset="teacher_bundle",
            group="teachers",
            kinds=("onnx",),
            describe="One teacher as `model.onnx` with its `card.json`, for the demo: torch and "
            "ONNX compared on faces.",
            build="fer_assets.stages.bundles:build_teacher_bundle",
            gate="fer_assets.stages.bundles:gate_network",
            needs=(Need("teacher", "same"), *_needs("hq_train_manifest")),
            partitions="teachers",
        ),
        Stage(
            asset="ensemble",
            group="distillation",
            kinds=("numpy",),
            describe="The teachers fused: weights searched on calib (`search.csv`), one "
            "temperature, and the fused logits of every face.",
            build="fer_assets.stages.ensemble:build_ensemble",
            code_version="2",
            gate="fer_assets.stages.ensemble:gate_ensemble",
            needs=(Need("teacher_logits", "each"), *_needs("hq_train_manifest")),
            recipe=lambda pipeline, partition: {
                **_dump(pipeline.profile.ensemble),
                "teachers": list(pipeline.profile.teachers),
            },
        ),
        Stage(
            asset="ensemble_bundle",
            group="distillation",
            kinds=("onnx",),
            describe="The ensemble as one `model.onnx` with its `card.json`: its members' networks "
            "and their fusion, compared with torch on faces.",
            build="fer_assets.stages.bundles:build_ensemble_bundle",
            gate="fer_assets.stages.bundles:gate_network",
            needs=(
                Need("teacher_bundle", "each"),
                Need("teacher", "each"),
                *_needs("ensemble", "hq_train_manifest"),
            ),
        ),
        Stage(
            asset="prediction_review",
            group="distillation",
            kinds=("csv", "html"),
            describe="Labels that the ensemble contradicts, on faces that its members never "
            "trained on, the least likely first. `review.csv`, and `review.html` with faces.",
            build="fer_assets.stages.prediction_review:build_prediction_review",
            needs=_needs("ensemble", "hq_train_manifest"),
        ),
        Stage(
            asset="softlabels",
            group="distillation",
            kinds=("numpy", "json"),
            describe="What the students are taught: `softlabels.npz` for the training rows, its "
            "index, hashes, sharpness by temperature, and the KD temperature derived from it.",
            build="fer_assets.stages.softlabels:build_softlabels",
            code_version="2",
            gate="fer_assets.stages.softlabels:gate_softlabels",
            needs=(
                Need("teacher_logits", "each"),
                *_needs("ensemble", "hq_train_manifest"),
            ),
            recipe=lambda pipeline, partition: _dump(pipeline.profile.softlabels),
        ),
        *students,
        Stage(
            asset="student_experiment",
            group="experiments",
            kinds=("pytorch",),
            describe="One further training a partition: any recipe of the profile's "
            "`experiments`, from its own first weights. An ablation is a backfill.",
            build="fer_assets.stages.trainings:build_training",
            gate="fer_assets.stages.training_gates:gate_run",
            needs=(Need("hq_train_manifest"), Need("softlabels", "distilled")),
            partitions="experiments",
            pool=TRAINING,
            on_request=True,
            recipe=_training_recipe("experiments"),
        ),
        Stage(
            asset="external_model",
            group="models",
            kinds=("onnx", "pytorch"),
            describe="A model from elsewhere (`models` of the profile): its own files, checked, "
            "and its temperature, fitted on calib. The benchmark measures it like any other.",
            build="fer_assets.stages.external_model:build_external_model",
            gate="fer_assets.stages.external_model:gate_external_model",
            needs=_needs("hq_train_manifest"),
            partitions="models",
            recipe=_model_recipe,
        ),
        Stage(
            asset="adopted",
            group="adopted",
            kinds=("json",),
            describe="Results that were made elsewhere, one a partition: a run folder, an "
            "evaluation, a soft-label export, a manifest or a validation report, taken in by "
            "`fer adopt`. `adoption.json` says what its files contradict, and what could not be "
            "verified. Made again, the copies in the store are examined anew.",
            build="fer_assets.stages.adopted:build_again",
            gate="fer_assets.stages.adopted:gate_adopted",
            needs=(),
            partitions="adopted",
            on_request=True,
        ),
        Stage(
            asset="adopted_model",
            group="adopted",
            kinds=("pytorch",),
            describe="The weights of an adopted run, measured on the rows of this profile: "
            "predictions on val and calib, metrics of val, and a temperature from calib. It is not "
            "known which of these rows it was trained or selected on.",
            build="fer_assets.stages.adopted_model:build_adopted_model",
            gate="fer_assets.stages.adopted_model:gate_adopted_model",
            needs=(Need("adopted", "same"), *_needs("hq_train_manifest")),
            partitions="adopted",
        ),
        Stage(
            asset="adopted_bundle",
            group="adopted",
            kinds=("onnx",),
            describe="An adopted run as `model.onnx` with its `card.json`, for the demo: torch and "
            "ONNX compared on faces.",
            build="fer_assets.stages.bundles:build_adopted_bundle",
            gate="fer_assets.stages.bundles:gate_network",
            needs=(Need("adopted_model", "same"), *_needs("hq_train_manifest")),
            partitions="adopted",
            on_request=True,
        ),
        Stage(
            asset="benchmark",
            group="evaluation",
            kinds=("csv", "json"),
            describe="Every model on every evaluation set from stored per-sample predictions, with "
            "intervals and paired tests: `benchmark.json`, each cell with what it is of and what "
            "chose the model; `ledger.json`, which split chose what.",
            build="fer_assets.stages.benchmark:build_benchmark",
            code_version="4",
            gate="fer_assets.stages.benchmark:gate_benchmark",
            needs=(
                Need("teacher_logits", "each"),
                Need("external_model", "each"),
                Need("adopted_model", "each"),
                *_needs("ensemble", *(s.asset for s in students)),
                *tested,
            ),
            recipe=lambda pipeline, partition: {"calibration": pipeline.profile.calibration},
        ),
        *comparisons,
        Stage(
            asset="error_analysis",
            group="evaluation",
            kinds=("html", "csv"),
            describe="What students and ensemble get wrong on the mixed test set, for people: "
            "`error_analysis.html`, contact sheets, confusions, agreement with the ensemble, the "
            "worst source, and labels in doubt (`review.csv`).",
            build="fer_assets.stages.error_analysis:build_error_analysis",
            gate="fer_assets.stages.error_analysis:gate_error_analysis",
            needs=_needs("benchmark", "test_all_sources_manifest"),
        ),
        Stage(
            asset="candidate_bundles",
            group="evaluation",
            kinds=("onnx",),
            describe="Every student as `model.onnx` with its `card.json`, one folder each; torch "
            "and ONNX compared on faces. One of them becomes `student_bundle`.",
            build="fer_assets.stages.bundles:build_candidate_bundles",
            gate="fer_assets.stages.bundles:gate_candidates",
            needs=_needs(*(s.asset for s in students), "hq_train_manifest"),
        ),
        Stage(
            asset="candidate_sessions",
            group="evaluation",
            kinds=("opencv", "csv"),
            describe="Every student over the session of `demo_session`: smoothed macro-F1 and "
            "flips a minute in `candidate_sessions.json`, and one log each.",
            build="fer_assets.stages.demo:build_candidate_sessions",
            gate="fer_assets.stages.demo:gate_candidate_sessions",
            needs=_needs("candidate_bundles"),
            recipe=_demo_recipe,
        ),
        Stage(
            asset="student_selection",
            group="evaluation",
            kinds=("json",),
            describe="The student that is deployed: the best on val of those that pass the dual "
            "gate, on val and on the demo session. Every figure, limit and verdict stands in "
            "`selection.json`.",
            build="fer_assets.stages.student_selection:build_selection",
            gate="fer_assets.stages.student_selection:gate_selection",
            needs=_needs("benchmark", "candidate_sessions"),
            recipe=lambda pipeline, partition: _dump(pipeline.profile.selection),
        ),
        Stage(
            asset="student_bundle",
            group="deployment",
            kinds=("onnx",),
            describe="The selected student as `model.onnx` with its `card.json`: classes, "
            "preprocessing, temperature, threshold, hashes; torch and ONNX compared on faces.",
            build="fer_assets.stages.bundles:build_bundle",
            code_version="2",
            gate="fer_assets.stages.bundles:gate_bundle",
            needs=_needs("student_selection", "candidate_bundles", "benchmark"),
        ),
        Stage(
            asset="small_bundles",
            group="deployment",
            kinds=("onnx",),
            describe="The student in fp16 and int8 for phones and small boards, each offered only "
            "where it keeps its accuracy and is as fast on this machine: `small_bundles.json`, "
            "`timing.json`.",
            build="fer_assets.stages.small_bundles:build_small_bundles",
            code_version="2",
            gate="fer_assets.stages.small_bundles:gate_small_bundles",
            needs=_needs("student_bundle", "hq_train_manifest"),
        ),
        Stage(
            asset="demo_session",
            group="deployment",
            kinds=("opencv", "csv"),
            describe="The bundle run over a fixed clip, or over a recorded session: "
            "`per_frame.csv`, `events.csv`, `demoresultssummary.csv`, `thresholds.json`.",
            build="fer_assets.stages.demo:build_session",
            code_version="2",
            needs=_needs("student_bundle"),
            recipe=_demo_recipe,
        ),
        Stage(
            asset="demo_kpis",
            group="deployment",
            kinds=("json",),
            describe="Frame times by stage, flips, reaction delay and accuracy of the session, "
            "from its log alone, with plots.",
            build="fer_assets.stages.demo:build_kpis",
            gate="fer_assets.stages.demo:gate_kpis",
            code_version="2",
            needs=_needs("demo_session"),
        ),
    ]
    end = [
        Stage(
            asset="report_claims",
            group="report",
            kinds=("json", "csv"),
            describe="Every sentence of the claims file bound to the bytes it came from, with its "
            "status: grounded, drifted, stale, ungrounded, contradicted or not comparable.",
            build="fer_assets.stages.report_claims:build_claims",
            code_version="2",
            gate="fer_assets.stages.report_claims:gate_claims",
            needs=_cited(claimed, *sources, *rest),
            recipe=_claims_recipe,
        ),
        Stage(
            asset="report",
            group="report",
            kinds=("markdown",),
            describe="The report, rendered from a template in which every number, table and "
            "figure is a reference: `report.md`, `report.html`, `report.pdf`; what it refers to "
            "stands in `report.json`.",
            build="fer_assets.stages.report:build_report",
            code_version="2",
            gate="fer_assets.stages.report:gate_report",
            needs=(Need("report_claims"), *_cited(reported, *sources, *rest)),
            recipe=_report_recipe,
        ),
    ]
    return {stage.asset: stage for stage in (*sources, *rest, *end)}


def _cited(wanted: frozenset[str], *stages: Stage) -> tuple[Need, ...]:
    """Cited stages as inputs: the partitions that are named, or all of them."""
    needs = []
    for stage in stages:
        keys = {key for asset, key in map(parse_label, wanted) if asset == stage.asset}
        if keys and stage.partitions is None:
            needs.append(Need(stage.asset))
        elif None in keys:
            needs.append(Need(stage.asset, "each"))
        elif keys:
            needs.append(Need(stage.asset, "named", tuple(sorted(filter(None, keys)))))
    return tuple(needs)


def _source_recipe(name: str) -> Callable[["Pipeline", str | None], dict[str, Any]]:
    def recipe(pipeline: "Pipeline", partition: str | None) -> dict[str, Any]:
        source = pipeline.profile.source(name)
        purged = sorted(read_log(pipeline.settings.home).photos(name))
        held = {"adapter": source.adapter, "options": source.options}
        # Only where something was: the recipes of all others stay what they were.
        return {**held, "purged": purged} if purged else held

    return recipe


def _comparison_recipe(name: str) -> Callable[["Pipeline", str | None], dict[str, Any]]:
    return lambda pipeline, partition: _dump(pipeline.profile.comparisons[name])


def _curation_recipe(name: str) -> Callable[["Pipeline", str | None], dict[str, Any]]:
    return lambda pipeline, partition: _dump(pipeline.profile.curated[name])


@dataclass(frozen=True)
class Target:
    """One thing to materialize: an asset, or one partition of it."""

    asset: str
    partition: str | None = None

    @property
    def label(self) -> str:
        """``asset`` or ``asset[partition]``."""
        return asset_label(self.asset, self.partition)


@dataclass(frozen=True)
class Pipeline:
    """The lineage of one profile over one artifact root."""

    settings: Settings
    profile: Profile
    store: Store

    @classmethod
    def open(cls, profile: str | None = None) -> "Pipeline":
        """The pipeline that the environment and ``fer.toml`` describe."""
        here = settings()
        loaded = load_profile(here, profile)
        return cls(here, loaded, open_store(here, loaded.name))

    def __post_init__(self) -> None:
        # Whoever gets an artifact by way of this pipeline is refused verdicts by other limits.
        store = replace(self.store, counts=partial(_counts, self.profile))
        object.__setattr__(self, "store", store)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """All stages by asset, in order."""
        return build_stages(
            self.profile,
            claimed_assets(self.claims_file()),
            reported_assets(self.report_template()),
        )

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of the profile's claims file; none when there is no readable file."""
        try:
            return read_claims(self.claims_file()).claims
        except FerError:
            return ()

    def stage(self, asset: str) -> Stage:
        """One stage; ``FerError`` names the known assets."""
        if asset not in self.stages:
            raise FerError(
                f"profile {self.profile.name} has no asset {asset!r}",
                allowed=", ".join(self.stages),
            )
        return self.stages[asset]

    @property
    def shows_faces(self) -> bool:
        """Whether faces may be shown in Dagster: it would keep them in its event log."""
        return self.profile.drawn or self.settings.config.faces_in_ui

    def targets(self) -> Iterator[Target]:
        """Everything there is to materialize, in order; partitions of the profile only."""
        for stage in self.stages.values():
            if stage.partitions:
                yield from (Target(stage.asset, key) for key in self.partitions(stage))
            else:
                yield Target(stage.asset)

    def partitions(self, stage: Stage) -> list[str]:
        """The partitions of a stage, in order; of what was adopted, models are of weights alone."""
        if stage.partitions != "adopted":
            return list(getattr(self.profile, str(stage.partitions)))
        names = self.store.pointers("adopted")
        if stage.asset == "adopted":
            return names
        held = {name: self.store.current("adopted", name) for name in names}
        return [name for name, a in held.items() if a and "best.pt" in a.record.files]

    def standard(self, target: Target) -> bool:
        """Whether a target is made with everything else, without being named.

        What is made on request only is wanted too where the report or a claim rests on it; what
        was adopted is there already.
        """
        stage = self.stage(target.asset)
        if not stage.on_request or stage.partitions == "adopted":
            return not stage.on_request
        return target in self._above(Target("report"))

    def _above(self, target: Target) -> set[Target]:
        found: set[Target] = set()
        left = [target]
        while left:
            new = [need for need in self.needed(left.pop()) if need not in found]
            found.update(new)
            left += new
        return found

    def named(self, names: str) -> "Selection":
        """Whether a target is meant by ``names``, as ``fer_assets.selection`` reads them."""
        from fer_assets.selection import read_selection

        return read_selection(self, names)

    def command(self, *, select: str | None = None, force: bool = False) -> str:
        """The ``fer materialize`` that makes this profile's selection, to be pasted."""
        # Without a name the command takes the default.
        named = self.profile.name != self.settings.profile
        parts = ["fer materialize", f"-p {self.profile.name}" if named else ""]
        parts += [f"--select {shlex.quote(select)}" if select else "", "--force" if force else ""]
        return " ".join(part for part in parts if part)

    def demo_video(self) -> Path:
        """The clip of the demo session."""
        if self.profile.demo.video is None:
            return self.store.root / SAMPLE_FOLDER / "video" / "demo.avi"
        return self.settings.project / self.profile.demo.video

    def demo_session(self) -> Path | None:
        """The logged session that the profile imports, or ``None``."""
        session = self.profile.demo.session
        return None if session is None else self.settings.project / session

    def model_path(self, name: str) -> Path:
        """Where a model from elsewhere lies."""
        if name not in self.profile.models:
            raise FerError(
                f"profile {self.profile.name} has no models.{name}",
                allowed=", ".join(self.profile.models),
                fix=f"add models.{name} to the profile",
            )
        return self.settings.project / Path(self.profile.models[name]).expanduser()

    def claims_file(self) -> Path:
        """``claims/<profile>.yaml`` in the project."""
        return self.settings.project / "claims" / f"{self.profile.name}.yaml"

    def report_template(self) -> Path:
        """The project's own ``report/<profile>.md.j2`` where it is, else a built-in template."""
        from fer_ml.report.template import template_path  # jinja2: a trace needs none of it.

        return template_path(self.settings.project, self.profile.name)

    def raw_input(self, source: str) -> Input:
        """A raw folder as an input, by its fingerprint now."""
        ensure_raw(self.profile, self.store)
        root = raw_root(self.settings, self.profile, self.store, source)
        return Input(asset=f"raw/{source}", sha256=fingerprint(root), root=root.as_posix())

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the raw folders that are there, by asset. Makes nothing."""
        found = {}
        for source in self.profile.sources:
            with contextlib.suppress(FerError):
                root = raw_root(self.settings, self.profile, self.store, source.name)
                found[f"raw/{source.name}"] = fingerprint(root)
        return found

    def needed(self, target: Target) -> list[Target]:
        """The inputs of a target, partitions spelled out.

        Those of an adopted result are what it was found to name by hash.
        """
        held = (
            self.store.current("adopted", target.partition) if target.asset == "adopted" else None
        )
        found = [Target(i.asset, i.partition) for i in held.record.inputs] if held else []
        for need in self.stage(target.asset).needs:
            if need.partition == "folds":
                found += [
                    Target(need.asset, name)
                    for name, (teacher, _) in self.profile.folds.items()
                    if teacher == target.partition
                ]
            elif need.partition == "named":
                # A claim may name a partition that is none: it says so when it is resolved.
                known = self.partitions(self.stage(need.asset))
                found += [Target(need.asset, key) for key in need.keys if key in known]
            elif need.partition == "each":
                keys = self.partitions(self.stage(need.asset))
                found += [Target(need.asset, key) for key in keys]
            elif need.partition != "distilled" or self._distils(target):
                same = target.partition if need.partition == "same" else None
                found.append(Target(need.asset, same))
        return found

    def _distils(self, target: Target) -> bool:
        training = self.profile.experiments.get(str(target.partition))
        return training is not None and isinstance(training.task, Distilling)

    def recipe(self, target: Target) -> dict[str, Any]:
        """The part of the profile that decides this target, as JSON values."""
        recipe = self.stage(target.asset).recipe(self, target.partition)
        return json.loads(json.dumps(recipe))

    def looking_again(self, since: float) -> "Pipeline":
        """This pipeline for a full pass: looks at files before ``since`` (s) do not count."""
        return replace(self, store=replace(self.store, looked_since=since))

    def job(
        self,
        target: Target,
        without: Collection[Target] = (),
        needs: Collection[Target] | None = None,
    ) -> tuple[Job, list[Input]]:
        """What the build function of a target is given, from gated inputs, and its inputs.

        Inputs ``without`` which it must do, since they are still to be made, are left out;
        ``needs`` take the place of those that the table declares.
        """
        stage = self.stage(target.asset)
        self.store.fetch_log()
        # A partition that the profile does not train is refused before its inputs are looked at.
        recipe = self.recipe(target)
        inputs = {
            need.label: self.store.require(
                need.asset, need.partition, rules=blocking_rules(need.asset, self.profile)
            )
            for need in (self.needed(target) if needs is None else needs)
            if need not in without
        }
        declared = [artifact.as_input() for artifact in inputs.values()]
        paths = {
            "video": self.demo_video(),
            "claims": self.claims_file(),
            "report": self.report_template(),
        }
        if self.settings.yunet is not None:
            paths["yunet"] = self.settings.yunet
        session = self.demo_session()
        if session is not None:
            paths["session"] = session
        if stage.partitions == "models":
            paths["model"] = self.model_path(str(target.partition))
        if stage.raw is not None:
            raw = self.raw_input(stage.raw)
            declared.append(raw)
            paths[raw.asset] = Path(str(raw.root))
        job = Job(
            asset=target.asset,
            partition=target.partition,
            profile=self.profile,
            store=self.store,
            recipe=recipe,
            inputs=inputs,
            paths=paths,
            device=self.settings.device,
            processes=self.settings.processes,
            code_version=stage.code_version,
        )
        return job, declared

    def make(
        self,
        target: Target,
        run_id: str | None = None,
        build: Callable[[RunFolder, Job], None] | None = None,
        needs: Collection[Target] | None = None,
    ) -> Artifact:
        """Materialize one target from gated inputs; returns the new current artifact.

        ``build`` takes the place of the stage's own function, and ``needs`` that of its declared
        inputs, for results made elsewhere.
        """
        stage = self.stage(target.asset)
        with self._step("make", target, run_id) as known:
            log.info("%s: started", target.label)
            job, declared = self.job(target, needs=needs)
            with self.store.begin(
                target.asset,
                target.partition,
                inputs=declared,
                recipe=dict(job.recipe),
                code_version=stage.code_version,
                run_id=run_id,
            ) as run:
                (build or _load(stage.build))(run, job)
            artifact = self.store.current(target.asset, target.partition)
            assert artifact is not None
            cost = {key: artifact.record.summary[key] for key in COSTS}
            known |= {"sha256": artifact.sha256, **cost}
            log.info("%s: done in %.1f s", target.label, artifact.record.seconds)
        return artifact

    def place_images(self, raw: dict[str, str]) -> None:
        """Link the images of manifests that another machine made, out of the raw folders here."""
        for source in self.profile.sources:
            target = Target(f"manifest/{source.name}")
            here = (self.store.root / "cleaned" / source.name).is_dir()
            if here or source.name not in raw or self.stale(target, raw) is not None:
                continue
            log.info("placing the images of %s", source.name)
            again = RunFolder(self.store.partial / owned_name())
            try:
                _load(self.stage(target.asset).build)(again, self.job(target)[0])
            finally:
                shutil.rmtree(again.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _step(self, what: str, target: Target, run_id: str | None) -> Iterator[dict[str, Any]]:
        """One step: what is logged in it carries its names, and it is a span."""
        names = {
            "profile": self.profile.name,
            "run": run_id,
            "asset": target.asset,
            "partition": target.partition,
        }
        with belongs_to(**names, step=what), span(f"{what} {target.label}", run_id, names) as known:
            try:
                yield known
            except Exception:
                log.exception("%s: failed", target.label)
                raise

    def judge(self, target: Target, run_id: str | None = None) -> list[Outcome]:
        """Run the gates of a target's current artifact and write their receipts."""
        with self._step("judge", target, run_id) as known:
            outcomes, sha256 = self._judge(target, run_id)
            known |= {"sha256": sha256, **{f"gate.{o.rule}": o.passed for o in outcomes}}
            failed = [outcome.rule for outcome in outcomes if not outcome.passed]
            passed = f"{len(outcomes) - len(failed)} of {len(outcomes)} gates passed"
            lost = f", not {', '.join(failed)}" if failed else ""
            log.info("%s: %s%s", target.label, passed, lost)
        return outcomes

    def _judge(self, target: Target, run_id: str | None) -> tuple[list[Outcome], str]:
        stage = self.stage(target.asset)
        artifact = self.store.require(target.asset, target.partition)
        if stage.gate is None:
            return [], artifact.sha256
        profile, judged_by = watched(self.profile)
        outcomes: list[Outcome] = _load(stage.gate)(artifact, self.store, profile)
        gates = {gate.rule: gate for gate in gates_of(target.asset, self.profile)}
        if set(gates) != {outcome.rule for outcome in outcomes}:
            raise FerError(
                f"{stage.gate} judged {sorted(o.rule for o in outcomes)}", allowed=sorted(gates)
            )
        for outcome in outcomes:
            self.store.write_receipt(
                artifact,
                Receipt(
                    asset=target.asset,
                    partition=target.partition,
                    artifact_sha256=artifact.sha256,
                    rule=outcome.rule,
                    blocking=gates[outcome.rule].blocking,
                    passed=outcome.passed,
                    value=outcome.value,
                    limit=outcome.limit,
                    detail=outcome.detail,
                    examples=outcome.examples,
                    checked_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    run_id=run_id,
                    judged_by=judged_by,
                ),
            )
        return outcomes, artifact.sha256

    def damages(self, targets: Iterable[Target]) -> dict[Path, str | None]:
        """What is wrong with the bytes of what was made of ``targets``, by run folder.

        It is hashed on all processors at once, which is most of what looking at a profile takes.
        What cannot be read is left out: who looks at it alone is told.
        """
        held = []
        for target in targets:
            with contextlib.suppress(FerError, OSError):
                held.append(self.store.current(target.asset, target.partition))
        made = [artifact for artifact in held if artifact is not None]
        found: dict[Path, str | None] = {}
        for artifact, look in zip(made, in_threads(_damage, made, processors()), strict=True):
            if look is not None:
                found[artifact.folder] = look[0]
        return found

    def stale(
        self,
        target: Target,
        raw: Mapping[str, str],
        damages: Mapping[Path, str | None] = MappingProxyType({}),
    ) -> str | None:
        """Why a target must be made (again), or ``None``. ``raw`` holds fingerprints by source.

        ``damages`` is what is known already.
        """
        stage = self.stage(target.asset)
        current = self.store.current(target.asset, target.partition)
        if current is None:
            return "missing"
        record = current.record
        known = current.folder in damages
        damage = damages[current.folder] if known else current.damage()
        if damage:
            return f"damaged: {damage}"
        purged = current.purged()
        if purged:
            return purged
        if record.code_version != stage.code_version:
            return f"code version {record.code_version} is now {stage.code_version}"
        if record.recipe != self.recipe(target):
            return "its recipe changed"
        held = {item.key: item.sha256 for item in record.inputs}
        now = {}
        if stage.raw is not None:
            now[f"raw/{stage.raw}"] = raw[stage.raw]
        for need in self.needed(target):
            upstream = self.store.current(need.asset, need.partition)
            now[need.label] = upstream.sha256 if upstream else "missing"
        changed = [key for key in {**held, **now} if held.get(key) != now.get(key)]
        return f"changed input: {', '.join(changed)}" if changed else None

    def too_slow(self, target: Target) -> str | None:
        """Why what was measured here is to be measured again, or ``None``: a speed fell short.

        A session that was imported was measured elsewhere.
        """
        current = self.store.current(target.asset, target.partition)
        if current is None or "imported" in current.record.summary:
            return None
        for asset in self.stages:
            rules = [g.rule for g in gates_of(asset) if g.measured_in == target.asset]
            judged = self.store.current(asset) if rules else None
            if judged is None or current.as_input() not in judged.record.inputs:
                continue
            for rule, receipt in judged.receipts().items():
                # A text says that there was nothing to measure.
                if rule in rules and not receipt.passed and not isinstance(receipt.value, str):
                    return f"{rule} was not reached when it was measured"
        return None

    def unjudged(self, target: Target) -> bool:
        """Whether a gate has no passing receipt for the current bytes, or another word to say."""
        current = self.store.current(target.asset, target.partition)
        if current is None:
            return False
        receipts = current.receipts()
        return any(
            gate.rule not in receipts
            or gate.blocking != receipts[gate.rule].blocking
            or (gate.blocking and not receipts[gate.rule].passed)
            for gate in gates_of(target.asset, self.profile)
        )


def _damage(artifact: Artifact) -> tuple[str | None] | None:
    """What is wrong with the bytes; ``None`` where they cannot be read."""
    try:
        return (artifact.damage(),)
    except OSError:
        return None


def _counts(profile: Profile, receipt: Receipt) -> bool:
    """Whether a verdict was made by the limits of today: of older ones they are not known."""
    return receipt.judged_by is not None and still_says(profile, receipt.judged_by)


def claimed_assets(path: Path) -> frozenset[str]:
    """The assets and partitions that a claims file cites; none when there is no readable file.

    The graph must load without it: that the file is missing or wrong is said by ``report_claims``.
    """
    try:
        return read_claims(path).cited
    except FerError:
        return frozenset()


def reported_assets(path: Path) -> frozenset[str]:
    """The assets and partitions that a report's template refers to; none when it cannot be read.

    As with the claims file, what is wrong with it is said when the report is made.
    """
    from fer_ml.report.template import cited_assets, read_template

    try:
        return cited_assets(read_template(path))
    except FerError:
        return frozenset()


def _load(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded
