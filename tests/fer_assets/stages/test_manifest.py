"""``manifest/<source>``: what decides it, what keeps a photo out, and what its gates see."""

from pathlib import Path

import pytest

from fer_ml.manifests.schema import read_manifest
from fer_ml.privacy.log import Entry, Log
from fer_ml.storage.artifact import PURGED_FILE
from fer_ml.storage.store import Store
from tests.fer_assets.stages.manifests import (
    ROWS,
    made,
    profile_of_two,
    stages_of,
    two_sources,
    verdicts,
)
from tests.refusals import refused

PROFILE = profile_of_two()
STAGES = stages_of(PROFILE)


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Path]:
    return two_sources(tmp_path / "raw")


def purge(store: Store, kind: str, photos: tuple[str, ...]) -> None:
    entry = Entry(
        at="2026-01-02T03:04:05+00:00",
        kind=kind,  # type: ignore[arg-type]
        reason="",
        photos=photos,
        sources=("a",),
        files_removed=0,
        resting=(),
    )
    log = Log(entries=(entry,))
    store.root.parent.mkdir(parents=True, exist_ok=True)
    (store.root.parent / PURGED_FILE).write_text(log.model_dump_json())


def test_the_recipe_is_the_adapter_and_its_options() -> None:
    assert STAGES["manifest/a"].recipe(PROFILE, None).recorded() == {
        "adapter": "csv_manifest",
        "options": {},
        "labels": {},
    }
    assert STAGES["manifest/a"].describe.startswith("The first, cleaned")
    assert STAGES["manifest/b"].describe.startswith("b, cleaned")


def test_a_row_that_was_left_out_is_warned_of(store: Store, raw: dict[str, Path]) -> None:
    artifact = made(STAGES["manifest/a"], PROFILE, store, raw)
    assert read_manifest(artifact.file("a.csv")).height == ROWS
    found = verdicts(STAGES["manifest/a"], PROFILE, store)
    assert (found["reconciled"].passed, found["reconciled"].value) == (True, ROWS + 1)
    assert found["quarantine_empty"].value == 1
    assert not found["quarantine_empty"].passed
    assert found["quarantine_empty"].detail == "1 missing path"
    assert [gate.blocking for gate in STAGES["manifest/a"].gates] == [True, True, True, False]


def test_a_purged_photo_stays_out(store: Store, raw: dict[str, Path]) -> None:
    rows = read_manifest(made(STAGES["manifest/a"], PROFILE, store, raw).file("a.csv"))
    purge(store, "photo", (rows["group_id"][0],))
    again = made(STAGES["manifest/a"], PROFILE, store, raw)
    assert read_manifest(again.file("a.csv")).height == ROWS - 1
    assert verdicts(STAGES["manifest/a"], PROFILE, store)["quarantine_empty"].value == 2


def test_a_purged_source_is_refused(store: Store, raw: dict[str, Path]) -> None:
    purge(store, "source", ())
    with refused("source-purged"):
        made(STAGES["manifest/a"], PROFILE, store, raw)
    assert made(STAGES["manifest/b"], PROFILE, store, raw)


def test_a_source_of_another_kind_is_refused_with_what_it_lists(
    store: Store, raw: dict[str, Path]
) -> None:
    index = raw["raw/b"] / "manifest.csv"
    text = index.read_text()
    index.write_text(text.replace(",Happy,", ",froh,"))
    artifact = made(STAGES["manifest/b"], PROFILE, store, raw)
    found = verdicts(STAGES["manifest/b"], PROFILE, store)
    assert (found["adapter_fits"].passed, found["adapter_fits"].value) == (False, 1)
    assert "'froh'" in found["adapter_fits"].examples[0]
    assert "manifest.csv:" in found["adapter_fits"].examples[0]
    assert "happiness" in found["adapter_fits"].detail
    assert found["rows_usable"].passed
    quarantine = artifact.file("quarantine.csv").read_text()
    assert quarantine.count("'froh'") == text.count(",Happy,")


def test_a_source_without_a_usable_row_is_refused_with_the_first_of_each_reason(
    store: Store, raw: dict[str, Path]
) -> None:
    index = raw["raw/b"] / "manifest.csv"
    lines = [line.replace(".png", ".jpg") for line in index.read_text().splitlines()]
    index.write_text("\n".join([*lines, "x.png,contempt,train", "y.png,froh,train"]))
    artifact = made(STAGES["manifest/b"], PROFILE, store, raw)
    assert read_manifest(artifact.file("b.csv")).height == 0
    outcome = verdicts(STAGES["manifest/b"], PROFILE, store)["rows_usable"]
    assert (outcome.passed, outcome.value, outcome.limit) == (False, 0, 1)
    rules = [example.split(": ")[1] for example in outcome.examples]
    assert rules == ["missing path", "bad label", "contempt"]
    assert outcome.examples[0].startswith("manifest.csv:2: ")


def test_labels_of_digits_are_shown_beside_labels_of_letters(
    store: Store, raw: dict[str, Path]
) -> None:
    """Rows with a bad label have numbers for labels, those that are left out on purpose words."""
    index = raw["raw/b"] / "manifest.csv"
    first, *rest = index.read_text().splitlines()
    index.write_text("\n".join([first, *(line.split(",")[0] + ",99,train" for line in rest)]))
    with index.open("a") as file:
        file.write("\ny.png,contempt,train\n")
    made(STAGES["manifest/b"], PROFILE, store, raw)
    outcome = verdicts(STAGES["manifest/b"], PROFILE, store)["rows_usable"]
    rules = [example.split(": ")[1] for example in outcome.examples]
    assert (outcome.passed, rules) == (False, ["bad label", "contempt"])
