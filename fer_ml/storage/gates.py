"""Gates: rules that an artifact must pass before anything may be computed from it.

A gate is declared here or beside its asset's stage; an evaluator judges all gates of one artifact
at once and returns an ``Outcome`` for each. The outcome is written as a receipt beside the
artifact, and ``Store.require`` refuses bytes without a passing receipt of every blocking gate.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from fer_ml.base.labels import CLASSES
from fer_ml.recipes.profiles import SPLITS, Profile


@dataclass(frozen=True)
class Gate:
    """One rule: its name, what it asks, and what to do when it fails.

    ``blocks_with`` names a yes-or-no field of the profile that makes a gate block which else warns.
    ``measured_in`` is the asset that measured what is judged, where that is a speed: it depends on
    the machine and its load, so one that was not reached is measured again.
    """

    rule: str
    asks: str
    fix: str
    blocking: bool = True
    blocks_with: str = ""
    measured_in: str = ""

    def of(self, profile: Profile | None) -> "Gate":
        """This gate as ``profile`` wants it; without one as it is without a profile's word."""
        if profile is None or not self.blocks_with:
            return self
        return replace(self, blocking=attrgetter(self.blocks_with)(profile))


@dataclass(frozen=True)
class Outcome:
    """What a rule found: value against limit, with a few examples."""

    rule: str
    passed: bool
    value: float | str
    limit: float | str
    detail: str = ""
    examples: tuple[str, ...] = field(default=())


def at_most(
    rule: str, value: float, limit: float, detail: str = "", examples: Sequence[str] = ()
) -> Outcome:
    """Passes when ``value <= limit``."""
    return Outcome(rule, value <= limit, value, limit, detail, tuple(examples[:5]))


def at_least(rule: str, value: float, limit: float, detail: str = "") -> Outcome:
    """Passes when ``value >= limit``."""
    return Outcome(rule, value >= limit, value, limit, detail)


def same(rule: str, found: object, wanted: object, detail: str = "") -> Outcome:
    """Passes when both are equal; shows both sides, hashes by their first digits."""
    return Outcome(rule, found == wanted, _shown(found), _shown(wanted), detail)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))


MANIFEST_GATES: tuple[Gate, ...] = (
    Gate(
        "malformed_rows",
        "every line is a row: UTF-8, as many fields as the header, quotes in order",
        "write the file again, or mend the named lines",
    ),
    Gate(
        "csv_dialect",
        "UTF-8 without a byte order mark, LF line ends, no empty lines",
        "save the file as plain UTF-8; it was read, but other readers may stumble",
        blocking=False,
    ),
    Gate(
        "schema",
        "required cells are filled and numbers are numbers",
        "fill the named cells or quarantine the rows",
    ),
    Gate("bad_labels", f"every label is one of {', '.join(CLASSES)}", "correct the label table"),
    Gate("bad_splits", f"every split is one of {', '.join(SPLITS)}", "correct the split mapping"),
    Gate(
        "escaping_paths",
        "every path stays below the root: relative, without '..', no link that leads out",
        "put the images below the root and name them relative to it",
    ),
    Gate("missing_paths", "every image exists below the root", "restore the files, clean again"),
    Gate(
        "case_collisions",
        "no two images have paths that differ only in case or accents",
        "rename one of each pair: on another disk they would be one file",
    ),
    Gate("undecodable", "every image decodes", "replace the files, clean again"),
    Gate(
        "oversized",
        "no image says that it is larger than is safe to decode",
        "replace the files: a face needs no such image, and a small file may fill the memory",
    ),
    Gate(
        "image_modes",
        "every image is 8-bit grey or 8-bit RGB, and a single picture",
        "convert the files: decoding would drop colours, depth or pictures without a word",
    ),
    Gate(
        "suffixes",
        "every suffix is one of the file's format",
        "rename the files; other tools go by the suffix",
        blocking=False,
    ),
    Gate(
        "image_sizes",
        "width and height are those of the image",
        "clean again: the image was replaced, or the columns belong to another one",
    ),
    Gate(
        "changed_pixels",
        "every image still is the one that its sample_id was computed from",
        "clean again: an image was edited or replaced after the manifest was written",
    ),
    Gate("bad_boxes", "every box lies inside its image", "correct the boxes' frame of reference"),
    Gate(
        "duplicates",
        "no source has a face twice",
        "decide which row to keep; curated manifests can keep one row a face",
        blocking=False,
    ),
    Gate("leakage", "no photo (group) lies in two splits", "split by group, quarantine the twins"),
    Gate(
        "near_leakage",
        "no two near-identical faces (correlation of 24x24 greys at least 0.98) lie in two splits",
        "split by group, quarantine the twins",
    ),
    Gate(
        "label_conflicts",
        "no face carries two labels",
        "decide which source to believe; curated manifests can keep one row a face",
        blocking=False,
    ),
    Gate(
        "class_coverage",
        "every split has every class",
        "add rows, or know that a class cannot be measured there",
        blocking=False,
    ),
    Gate(
        "imbalance",
        "rows of the largest training class for each of the smallest",
        "collect more, weight the loss, or adjust the logits",
        blocking=False,
    ),
    Gate(
        "sources_present",
        "every source that the recipe names has rows",
        "materialize its manifest, or take it out of the recipe",
    ),
    Gate(
        "reconciled",
        "the rows are exactly those that inputs and recipe give: none lost, none added",
        "materialize the manifest again; it was edited, or a row was lost",
    ),
    Gate(
        "drift",
        "rows, class shares, brightness and size are near those of the last accepted manifest",
        "look at what changed in the sources; if it was meant, nothing is to be done",
        blocking=False,
    ),
)

#: A training manifest without one of the classes teaches that it does not exist.
TRAINING_MANIFEST_GATES: tuple[Gate, ...] = tuple(
    replace(gate, blocking=True) if gate.rule == "class_coverage" else gate
    for gate in MANIFEST_GATES
)

#: Checklist A.4 of the interim report.
RUN_FILES = (
    "best.pt",
    "history.json",
    "reliabilitymetrics.json",
    "calibration.json",
    "alignmentreport.json",
)

RUN_GATES: tuple[Gate, ...] = (
    Gate("run_complete", f"the folder holds {', '.join(RUN_FILES)}", "train again"),
    Gate("class_order", "the checkpoint's classes are in the canonical order", "train again"),
    Gate(
        "budget_as_planned",
        "as many epochs as the recipe says, and at least one step",
        "look at the run's log: it stopped early",
    ),
    Gate(
        "init_as_promised",
        "the first weights are those that the recipe names, with a hash unless they are random",
        "train again; the weights came from elsewhere",
    ),
    Gate("weights_changed", "the best weights differ from the first ones", "check lr and the data"),
    Gate(
        "metrics_of_best",
        "metrics and temperature carry the sha256 of best.pt, and n of the val split",
        "train again; the files come from different runs",
    ),
    Gate("finite_weights", "no weight is NaN or infinite", "lower lr, or switch bf16 off"),
    Gate(
        "temperature_in_bounds",
        "the temperature's search ended inside its bounds",
        "the calib split is separated perfectly or not at all: give it more rows",
    ),
    Gate(
        "above_floor",
        "val macro-F1 is at least the profile's floor",
        "more epochs, a higher lr, or better data",
    ),
    Gate(
        "classes_above_chance",
        "each class's val F1 is above that of guessing it for one face in seven",
        "look at the confusion matrix: the class is hardly ever predicted",
        blocking=False,
    ),
    Gate(
        "inference_fits",
        "training faces are answered in inference as with a batch's own BatchNorm statistics, and "
        "no face's features are out of range",
        "set precise_bn and zero_init_residual in its recipe, stem_stride = 1 for small faces, or "
        "lower lr; history.json has it by epoch",
        blocking=False,
    ),
    Gate(
        "confidence_informs",
        "val NLL, scaled, is below that of the same answers all given with one confidence",
        "logits of some faces run away: change its recipe, or fuse it by probabilities",
        blocking=False,
    ),
)

NOT_BELOW_PREVIOUS = Gate(
    "not_below_previous",
    "val macro-F1 is at least that of the student before, on the same rows",
    "compare recipes; distillation that loses to CE is worth a look",
    blocking=False,
)

LOGITS_GATES: tuple[Gate, ...] = (
    Gate(
        "answered_by_inputs",
        "the networks that answered are the teacher and, for training rows, those of its folds",
        "materialize teacher_logits again",
    ),
    Gate("covers_manifests", "one row for each distinct face of the manifests", "make it again"),
    Gate("class_order", "the columns are in the canonical order", "make it again"),
    Gate("finite", "no logit is NaN or infinite", "look at the teacher's weights"),
)

ENSEMBLE_GATES: tuple[Gate, ...] = (
    Gate("weights_sum_to_one", "the weights are in 0..1 and sum to 1", "make it again"),
    Gate("chosen_on_calib", "weights and temperature saw calib only", "never choose on test"),
    Gate("class_order", "the columns are in the canonical order", "make it again"),
    Gate(
        "not_below_best_member",
        "calib NLL is at most that of the best member",
        "look at search.csv: a member may be broken",
        blocking=False,
    ),
)

SOFTLABEL_GATES: tuple[Gate, ...] = (
    Gate("aligned_hashes", "index, manifest and ensemble carry the same hashes", "export again"),
    Gate("covers_train", "one row for each training row, in its order", "export again"),
    Gate("class_order", "classorder.json is the canonical order", "export again"),
    Gate("labels_agree", "y equals the manifest's labels", "export again"),
    Gate(
        "soft_enough",
        "mean entropy at the KD temperature, in nats: a one-hot teacher teaches nothing",
        "raise the temperature (softlabels.target_entropy)",
    ),
)

SOURCE_GATES: tuple[Gate, ...] = (
    Gate(
        "reconciled",
        "rows listed by the publisher = rows kept + excluded + quarantined",
        "a row was lost: report this as a fault of the adapter",
    ),
    Gate(
        "quarantine_empty",
        "no row of the source was faulty",
        "look at quarantine.csv: restore the files or correct the labels, then clean again",
        blocking=False,
    ),
)

VALIDATION_GATES: tuple[Gate, ...] = (
    Gate("all_passed", "every manifest's report passed", "look at the report that failed"),
    Gate(
        "of_current_manifests",
        "each report speaks of the manifest that is current",
        "materialize manifest_validation again",
    ),
)

EXTERNAL_GATES: tuple[Gate, ...] = (
    Gate("bytes_as_named", "the files are those at the path in the profile", "make it again"),
    Gate("class_order", "its classes are taken in the canonical order", "make it again"),
    Gate("finite", "no logit on calib is NaN or infinite", "look at the model's weights"),
)

BENCHMARK_GATES: tuple[Gate, ...] = (
    Gate(
        "every_row_scored",
        "n of each entry is the number of test rows of its manifest",
        "rows were lost: materialize the benchmark again",
    ),
    Gate(
        "calibrated_on_calib",
        "every scaling was fitted on calib and carries the hash of the checkpoint it scales",
        "materialize the benchmark again",
    ),
    Gate("no_choice_on_test", "no test split chose anything of any model", "never choose on test"),
    Gate(
        "students_above_floor",
        "every student's macro-F1 on test_all_sources is at least the profile's floor",
        "more epochs, or look at the training data",
    ),
)

COMPARISON_GATES: tuple[Gate, ...] = (
    Gate(
        "arms_equal_as_declared",
        "by their records, the trainings differ in seed, task and the declared fields alone, and "
        "were made from the same bytes",
        "train the experiments again from the profile's recipes",
    ),
    Gate("every_row_scored", "n of every run is that of the evaluation set", "make it again"),
    Gate("intervals_finite", "no figure or interval is NaN or infinite", "look at the predictions"),
)

ERROR_GATES: tuple[Gate, ...] = (
    Gate(
        "every_mistake_counted",
        "the confusions of each model add up to the benchmark's wrong rows",
        "make it again",
    ),
)

CANDIDATE_SESSION_GATES: tuple[Gate, ...] = (
    Gate(
        "like_for_like",
        "every student saw the same faces in the same frames of one session",
        "materialize candidate_sessions again",
    ),
    Gate(
        "has_truth",
        "the session says what its faces show, so that it can tell which student is better",
        "let demo.session name a recorded session with manual labels",
        blocking=False,
    ),
)

SELECTION_GATES: tuple[Gate, ...] = (
    Gate("chosen_on_val", "the choice used val metrics only", "never choose on test"),
    Gate(
        "selected_by_rule",
        "what is selected is the incumbent, or failed no check of the dual gate",
        "materialize student_selection again",
    ),
)

NETWORK_GATES: tuple[Gate, ...] = (
    Gate(
        "torch_equals_onnx",
        "largest difference of a logit between torch and ONNX Runtime, on real faces",
        "export again; a difference means another model is served than was measured",
    ),
    Gate("card_matches", "the card's sha256 is that of model.onnx", "export again"),
    Gate("class_order", "the card's classes are in the canonical order", "export again"),
)

CANDIDATE_GATES: tuple[Gate, ...] = (
    *NETWORK_GATES,
    Gate("of_their_students", "each checkpoint is that of its student", "export again"),
)

BUNDLE_GATES: tuple[Gate, ...] = (
    *NETWORK_GATES,
    Gate("is_selected", "the checkpoint is the one that was selected", "export again"),
)

SMALL_BUNDLE_GATES: tuple[Gate, ...] = (
    Gate("cards_match", "the card of each offered precision is that of its bytes", "export again"),
    *(
        gate
        for precision, least in (("fp16", "at most 1.1 times as long"), ("int8", "no longer"))
        for gate in (
            Gate(
                f"{precision}_keeps_accuracy",
                f"macro-F1 on val falls by at most 0.005 in {precision}",
                "serve the full bundle: this precision costs too much, and is not offered",
                blocking=False,
            ),
            Gate(
                f"{precision}_is_as_fast",
                f"one face takes {least} in {precision}, measured on this machine in one run",
                "serve the full bundle here: this precision is not offered",
                blocking=False,
            ),
        )
    ),
)

KPI_GATES: tuple[Gate, ...] = (
    Gate("frames_scored", "at least one face was found and scored", "check the video and detector"),
    Gate(
        "steadier_than_raw",
        "stabilised labels flip no more often than raw ones",
        "look at the stabiliser's settings",
        blocking=False,
    ),
    Gate(
        "frame_p95",
        "95 of 100 frames take at most demo.p95_limit_ms of the profile, after the warm-up",
        "the next fer materialize measures again, unless the session was imported; if it stays: "
        "an idle or faster machine, a smaller student or detector width, or an honest limit",
        blocking=False,
        blocks_with="demo.p95_blocks",
        measured_in="demo_session",
    ),
    Gate(
        "replay_improves",
        "on the recorded session, macro-F1 of what is shown is above that of the session's bundle",
        "keep the bundle that recorded the session",
        blocking=False,
    ),
    Gate(
        "replay_is_as_calm",
        "on the recorded session, shown labels flip no more often than they did, by more than "
        "selection.flips_gain of the profile",
        "look at the stabiliser's settings, or keep the bundle that recorded the session",
        blocking=False,
    ),
)

CLAIM_GATES: tuple[Gate, ...] = (
    Gate(
        "all_grounded",
        "every claim holds and rests on current, gated bytes",
        "look at claims.json: correct the sentence, or materialize what is stale",
    ),
)

REPORT_GATES: tuple[Gate, ...] = (
    Gate(
        "numbers_covered",
        "every number and picture in the template's own prose is a reference, the value of a "
        "claim that its paragraph refers to, or stated with a reason",
        "write claim('id') or value(...), add a claim, or stated(text, why=...)",
    ),
    Gate(
        "figures_from_artifacts",
        "every figure is, byte for byte, a file of the artifact that it names",
        "use figure(asset, file, caption)",
    ),
    Gate(
        "citations_listed",
        "every citation leads to exactly one entry of the references",
        "add the entry, or correct the number",
    ),
    Gate(
        "references_cited",
        "every entry of the references is cited",
        "cite it, or take it out",
        blocking=False,
    ),
    Gate(
        "checklist_stated",
        "the report states what the reproducibility checklist asks for",
        "add what is missing: a run's files, soft labels, loading, resuming",
        blocking=False,
    ),
)

ADOPTED_GATES: tuple[Gate, ...] = (
    Gate(
        "class_order",
        "where the files name the classes, they are in the canonical order",
        "the columns mean something else than their place says: export again, in this order",
    ),
    Gate(
        "complete",
        "the files of checklist A.4 of the interim report are there",
        "adopt the folder again with the missing files, or know that they cannot be cited",
        blocking=False,
    ),
    Gate(
        "consistent",
        "the files do not contradict each other",
        "look at the checks in adoption.json before you cite a number of it",
        blocking=False,
    ),
    Gate(
        "verified",
        "nothing had to be taken on trust",
        "train or evaluate again here: only what was made here is known down to the raw rows",
        blocking=False,
    ),
)

ADOPTED_MODEL_GATES: tuple[Gate, ...] = tuple(
    replace(gate, fix="adopt other weights, or materialize it again")
    for gate in RUN_GATES
    if gate.rule in ("class_order", "metrics_of_best", "finite_weights", "temperature_in_bounds")
)

#: By asset. Every ``*_manifest`` that is not named has ``MANIFEST_GATES``.
GATES: dict[str, tuple[Gate, ...]] = {
    "hq_train_manifest": TRAINING_MANIFEST_GATES,
    "manifest_validation": VALIDATION_GATES,
    "teacher": RUN_GATES,
    "teacher_fold": RUN_GATES,
    "teacher_logits": LOGITS_GATES,
    "ensemble": ENSEMBLE_GATES,
    "softlabels": SOFTLABEL_GATES,
    "student_ce": RUN_GATES,
    "student_experiment": RUN_GATES,
    "student_kd": (*RUN_GATES, NOT_BELOW_PREVIOUS),
    "student_dkd": (*RUN_GATES, NOT_BELOW_PREVIOUS),
    "external_model": EXTERNAL_GATES,
    "benchmark": BENCHMARK_GATES,
    "error_analysis": ERROR_GATES,
    "candidate_bundles": CANDIDATE_GATES,
    "candidate_sessions": CANDIDATE_SESSION_GATES,
    "student_selection": SELECTION_GATES,
    "teacher_bundle": NETWORK_GATES,
    "ensemble_bundle": NETWORK_GATES,
    "student_bundle": BUNDLE_GATES,
    "small_bundles": SMALL_BUNDLE_GATES,
    "demo_kpis": KPI_GATES,
    "adopted": ADOPTED_GATES,
    "adopted_model": ADOPTED_MODEL_GATES,
    "adopted_bundle": NETWORK_GATES,
    "report_claims": CLAIM_GATES,
    "report": REPORT_GATES,
}


def gates_of(asset: str, profile: Profile | None = None) -> tuple[Gate, ...]:
    """The gates of an asset; none for assets that only pass on what was judged before.

    Some gates block in one profile and warn in another: ``profile`` says how it is.
    """
    if asset.startswith("manifest/"):
        return SOURCE_GATES
    if asset.startswith("comparison/"):
        return COMPARISON_GATES
    gates = GATES.get(asset, MANIFEST_GATES if asset.endswith("_manifest") else ())
    return tuple(gate.of(profile) for gate in gates)


def blocking_rules(asset: str, profile: Profile | None = None) -> tuple[str, ...]:
    """The rules of which a consumer demands a passing receipt."""
    return tuple(gate.rule for gate in gates_of(asset, profile) if gate.blocking)


def as_markdown() -> str:
    """Every gate as Markdown tables, one for each group of assets that are asked the same."""
    holders: dict[Gate, list[str]] = {}
    lists = {"manifest/<source>": SOURCE_GATES, "*_manifest": MANIFEST_GATES, **GATES}
    for asset, gates in lists.items():
        for gate in gates:
            if asset != "hq_train_manifest" or gate not in MANIFEST_GATES:
                holders.setdefault(gate, []).append(f"`{asset}`")
    tables: dict[str, list[str]] = {}
    for gate, assets in holders.items():
        blocks = "yes" if gate.blocking else "warns"
        if gate.blocks_with:
            blocks += f"; yes where `{gate.blocks_with}` is set"
        row = (f"`{gate.rule}`", gate.asks, blocks, gate.fix)
        tables.setdefault(", ".join(assets), []).append(f"| {' | '.join(row)} |")
    head = "| gate | what it asks | blocks | when it fails |\n| --- | --- | --- | --- |"
    return "\n\n".join(
        "\n".join((f"Of {assets}:", "", head, *rows)) for assets, rows in tables.items()
    )


if __name__ == "__main__":
    # With a FILE the tables are written between its marks, without one they are printed.
    import sys
    from pathlib import Path

    for name in sys.argv[1:]:
        before, _, rest = Path(name).read_text(encoding="utf-8").partition("<!-- gates -->\n")
        after = rest.partition("<!-- /gates -->")[2]
        text = f"{before}<!-- gates -->\n{as_markdown()}\n<!-- /gates -->{after}"
        Path(name).write_text(text, encoding="utf-8")
    if not sys.argv[1:]:
        print(as_markdown())
