"""What ``--select`` means, in names and in Dagster's own syntax; what is missing is said first."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.selection import require_inputs
from fer_ml.base.errors import FerError
from fer_ml.base.settings import Settings, UserConfig
from fer_ml.recipes.builtin import sample
from fer_ml.storage.record import Receipt
from fer_ml.storage.store import Store
from tests.gates import blocking_rules
from tests.refusals import refused


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The sample before anything of it was drawn or made; no report template, one claim."""
    return opened(tmp_path_factory.mktemp("project"))


def opened(folder: Path) -> Pipeline:
    here = Settings(
        project=folder,
        dagster_home=folder / "dagster_home",
        home=folder / "outputs",
        profile="sample",
        device="cpu",
        config=UserConfig(),
    )
    return Pipeline(here, sample(), Store(folder / "outputs" / "sample", "sample"))


def chosen(pipeline: Pipeline, text: str) -> set[str]:
    selection = pipeline.named(text)
    return {target.label for target in pipeline.targets() if selection(target)}


def every(pipeline: Pipeline, meant: Callable[[Target], bool] = lambda target: True) -> set[str]:
    return {target.label for target in pipeline.targets() if meant(target)}


def above(pipeline: Pipeline, *targets: Target) -> set[str]:
    """``targets`` and everything that they are made of, by the lineage table itself."""
    found, left = set(targets), list(targets)
    while left:
        new = set(pipeline.needed(left.pop())) - found
        found |= new
        left += new
    return {target.label for target in found}


def below(pipeline: Pipeline, *targets: Target) -> set[str]:
    found = set(targets)
    for target in pipeline.targets():
        if found & set(pipeline.needed(target)):
            found.add(target)
    return {target.label for target in found}


B3 = Target("teacher", "B3")
TEACHERS = {"teacher[RN18]", "teacher[B3]", "teacher[CNXT]"}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("teacher", TEACHERS),
        ("teacher[B3]", {"teacher[B3]"}),
        (" teacher[B3] , hq_train_manifest ", {"teacher[B3]", "hq_train_manifest"}),
        ("report", {"report", "report_claims"}),
        ("key:teacher", TEACHERS),
        ('key:"teacher[B3]"', {"teacher[B3]"}),
        ("key:teacher[B3]", {"teacher[B3]"}),
        ("key:*[B3]", {"teacher[B3]", "teacher_logits[B3]", "teacher_bundle[B3]"}),
        ("teacher[B3] or teacher[RN18]", {"teacher[B3]", "teacher[RN18]"}),
        ("teacher and not teacher[B3]", TEACHERS - {"teacher[B3]"}),
        ("kind:onnx and group:teachers", {f"teacher_bundle[{k}]" for k in ("RN18", "B3", "CNXT")}),
        ("1+teacher[B3]", {"teacher[B3]", "hq_train_manifest"}),
        ("++teacher[B3]", {"teacher[B3]", "hq_train_manifest", "classification_manifest"}),
        (
            "teacher[B3]+1",
            {"teacher[B3]", "teacher_logits[B3]", "teacher_bundle[B3]", "ensemble_bundle"},
        ),
        ("roots(+teacher[B3])", {f"manifest/{source.name}" for source in sample().sources}),
        ("(teacher[B3] or softlabels) and kind:json", {"softlabels"}),
        ("teacher[B3],sinks(group:students)", {"teacher[B3]", "student_dkd"}),
    ],
)
def test_names_and_expressions(pipeline: Pipeline, text: str, labels: set[str]) -> None:
    assert chosen(pipeline, text) == labels


def test_plus_is_all_that_it_needs_or_all_that_rests_on_it(pipeline: Pipeline) -> None:
    assert chosen(pipeline, "+teacher[B3]") == above(pipeline, B3)
    assert not chosen(pipeline, "+teacher_logits[B3]") & (TEACHERS - {"teacher[B3]"})
    assert chosen(pipeline, "teacher[B3]+") == below(pipeline, B3)
    assert chosen(pipeline, "+teacher[B3]+") == above(pipeline, B3) | below(pipeline, B3)
    assert chosen(pipeline, "2+ensemble") == chosen(pipeline, "++ensemble")
    assert chosen(pipeline, "+teachers") == above(
        pipeline, *(t for t in pipeline.targets() if pipeline.stage(t.asset).group == "teachers")
    )
    source = Target("manifest/ferplus")
    assert chosen(pipeline, "raw/ferplus+") == below(pipeline, source)
    assert chosen(pipeline, "key:raw/ferplus+") == below(pipeline, source)
    assert chosen(pipeline, "group:raw+") == chosen(pipeline, "raw+") >= below(pipeline, source)


def test_not_and_star_are_of_everything(pipeline: Pipeline) -> None:
    assert chosen(pipeline, "*") == every(pipeline)
    manifests = every(pipeline, lambda t: pipeline.stage(t.asset).group == "manifests")
    assert chosen(pipeline, "manifests") == chosen(pipeline, "group:manifests") == manifests
    assert chosen(pipeline, "not manifests") == every(pipeline) - manifests
    students = every(pipeline, lambda t: t.asset.startswith("student_"))
    assert chosen(pipeline, "key:student_*") == students


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty-selection"),
        (" , ,", "empty-selection"),
        ("techer", "unknown-asset"),
        ("teacher or techer", "unknown-asset"),
        ("teacher[VGG]", "unknown-partition"),
        ("external_model", "unknown-partition"),
        ("teacher[", "invalid-selection"),
        ("teacher[B3", "invalid-selection"),
        ("teacher[B3]]", "invalid-selection"),
        ("teacher]", "invalid-selection"),
        ("group:raw", "selects-raw"),
        ("group:techers", "empty-selection"),
        ("teacher or kind:onx", "empty-selection"),
        ("key:nothing*", "empty-selection"),
        ("teacher and ensemble", "empty-selection"),
        ("raw/ferplus", "selects-raw"),
        ("key:raw/ferplus", "selects-raw"),
        ("raw/ferplus or teacher", "selects-raw"),
        ("raw", "selects-raw"),
        ("raw/nobody", "unknown-asset"),
        ("student_*", "invalid-selection"),
        ("*teacher", "invalid-selection"),
        ("status:fresh", "unknown-attribute"),
        ("teacher ensemble", "invalid-selection"),
        ("(teacher", "invalid-selection"),
        ("teacher and", "invalid-selection"),
        ("+", "invalid-selection"),
        ("()", "invalid-selection"),
        ("(" * 2000, "invalid-selection"),
        ("teacher & ensemble", "invalid-selection"),
        ('teacher"', "invalid-selection"),
    ],
)
def test_what_means_nothing_is_one_message(pipeline: Pipeline, text: str, code: str) -> None:
    with refused(code) as caught:
        pipeline.named(text)
    assert caught.value.allowed or caught.value.fix
    assert len(caught.value.what) < 400


def put(
    pipeline: Pipeline,
    asset: str,
    passed: Iterable[str],
    failed: Iterable[str] = (),
    *,
    limits_known: bool = True,
) -> None:
    """Something to be made of, with its receipts; earlier ones do not say by which limits."""
    store = pipeline.store
    with store.begin(asset) as run:
        run.write_text("a.txt", asset)
    held = store.current(asset)
    assert held is not None
    limits = pipeline.stage(asset).limits(pipeline.profile).recorded()
    for rule in (*passed, *failed):
        told = Receipt(
            asset=asset,
            partition=None,
            artifact_sha256=held.sha256,
            rule=rule,
            blocking=True,
            passed=rule not in failed,
            value=7,
            limit=0,
            detail="",
            examples=(),
            checked_at=held.record.created_at,
            run_id=None,
            judged_by=limits if limits_known else None,
        )
        store.write_receipt(held, told)


def missing(pipeline: Pipeline, text: str, *, force: bool = False) -> FerError | None:
    try:
        require_inputs(pipeline, pipeline.named(text), force=force)
    except FerError as error:
        return error
    return None


def test_missing_inputs_are_named_with_the_selection_that_makes_them(tmp_path: Path) -> None:
    pipeline = opened(tmp_path)
    error = missing(pipeline, "teacher[B3]")
    assert error is not None
    assert "teacher[B3] needs hq_train_manifest, which has not been made yet" in str(error)
    assert error.fix == "fer materialize --select '+teacher[B3]'"
    assert missing(pipeline, "+teacher[B3]") is None
    assert missing(pipeline, "manifests") is None, "these are made of raw folders alone"
    error = missing(pipeline, "manifests,key:student_* and group:students, teacher[B3]")
    assert error is not None
    # Only the parts that lack something need more.
    assert (
        error.fix
        == "fer materialize --select 'manifests,+(key:student_* and group:students)"
        + (",teacher[B3]'")
    )
    assert chosen(pipeline, error.fix.partition("'")[2].rstrip("'")) >= {"softlabels", "student_kd"}
    assert not (tmp_path / "outputs").exists(), "nothing is drawn for the answer"


def test_an_input_must_have_passed_its_gates(tmp_path: Path) -> None:
    pipeline = opened(tmp_path)
    rules = blocking_rules("hq_train_manifest")
    put(pipeline, "hq_train_manifest", rules)
    assert missing(pipeline, "teacher[B3]") is None
    put(pipeline, "hq_train_manifest", rules, limits_known=False)
    error = missing(pipeline, "teacher[B3]")
    assert error is not None and f"gate '{rules[0]}' has not judged yet" in str(error)
    put(pipeline, "hq_train_manifest", rules[1:])
    error = missing(pipeline, "teacher[B3]")
    assert error is not None and f"gate '{rules[0]}' has not judged yet" in str(error)
    assert error.fix == "fer materialize --select '+teacher[B3]'"
    put(pipeline, "hq_train_manifest", rules[1:], rules[:1])
    error = missing(pipeline, "teacher[B3]")
    assert error is not None and f"failed gate '{rules[0]}': 7.0 (limit 0.0)" in str(error)
    assert error.fix is not None and error.fix.endswith("fer materialize --select '+teacher[B3]'")


def test_what_is_up_to_date_needs_nothing(tmp_path: Path) -> None:
    """A gate that turned red since stops what would be made of it, and not a look."""
    pipeline = opened(tmp_path)
    rules = blocking_rules("classification_manifest")
    put(pipeline, "classification_manifest", rules)
    target = Target("label_review")
    recipe, code_version = pipeline.recipe(target), pipeline.stage("label_review").code_version
    held = pipeline.store.verified("classification_manifest")
    with pipeline.store.begin(
        "label_review", inputs=[held.as_input()], recipe=recipe, code_version=code_version
    ) as run:
        run.write_text("review.csv", "")
    put(pipeline, "classification_manifest", (), rules[:1])
    assert missing(pipeline, "label_review") is None
    assert missing(pipeline, "label_review", force=True) is not None


def test_the_command_names_the_profile_where_it_is_not_the_default(tmp_path: Path) -> None:
    pipeline = opened(tmp_path)
    assert pipeline.command() == "fer materialize"
    other = Pipeline(
        pipeline.settings.model_copy(update={"profile": "ferplus"}),
        pipeline.profile,
        pipeline.store,
    )
    assert other.command(select="a b", force=True) == (
        "fer materialize -p sample --select 'a b' --force"
    )


@pytest.mark.parametrize("text", ["group:nothing", "kind:nothing", "key:nothing", "teacher[VGG]"])
def test_what_is_said_to_be_allowed_is_allowed(pipeline: Pipeline, text: str) -> None:
    with pytest.raises(FerError) as caught:
        chosen(pipeline, text)
    attribute, colon, _ = text.partition(":")
    allowed = str(caught.value.allowed).split(", ")
    assert allowed
    for name in allowed:
        # What rests on it, since of a raw folder nothing else can be selected.
        again = f"{attribute}:{name}+" if colon else f"teacher[{name}]"
        assert chosen(pipeline, again)


@pytest.mark.parametrize("text", ["adopted", "adopted_model[x]", "external_model"])
def test_what_a_profile_has_none_of_is_told_with_the_way_to_one(
    pipeline: Pipeline, text: str
) -> None:
    with pytest.raises(FerError) as caught:
        chosen(pipeline, text)
    assert caught.value.allowed is None and caught.value.fix
