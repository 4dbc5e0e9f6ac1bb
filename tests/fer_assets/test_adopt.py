"""``fer adopt`` with Dagster: partitions, checks, metadata, claims; refusals leave nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from fer_assets.cli import app
from fer_assets.keys import asset_key
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.remote import adopt_foreign
from fer_assets.running import materialize
from fer_assets.show import trace_of
from fer_assets.stages import gates_of
from fer_ml.base.reading import sha256_file
from fer_ml.bundles.bundle import load_bundle
from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import verify
from fer_ml.metrics.predictions import read_predictions
from tests.fer_ml.adoption import first_pipeline as old
from tests.refusals import refused

KEY = asset_key("tiny", "adopted")


@pytest.fixture(scope="module")
def tiny(project: Callable[[str], Pipeline]) -> Pipeline:
    return project("tiny")


def test_an_old_run_in_the_lineage(tiny: Pipeline, tmp_path: Path) -> None:
    csv = old.manifest(tmp_path / "old_manifest.csv")
    folder = old.teacher_run(tmp_path / "RN18_stageA", manifest_sha256=sha256_file(csv))
    with dg.DagsterInstance.get() as instance:
        manifest = adopt_foreign(tiny, csv, instance)
        artifact = adopt_foreign(tiny, folder, instance, name="rn18")
        assert set(instance.get_dynamic_partitions("tiny/adopted")) == {"old_manifest", "rn18"}
        (record,) = instance.fetch_materializations(
            dg.AssetRecordsFilter(KEY, asset_partitions=["rn18"]), limit=1
        ).records
        event = record.asset_materialization
        assert event is not None
        assert (event.tags or {})["dagster/data_version"] == artifact.sha256
        assert event.metadata["adopted"].value == "run"
        assert "sampler" in str(event.metadata["not_verified"].value)
        rows = event.metadata["checks_table"].records  # type: ignore[union-attr]
        assert any(row.data["check"] == "temperature_not_on_clamp" for row in rows)
        checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [dg.AssetCheckKey(KEY, gate.rule) for gate in gates_of("adopted")]
        )
        assert len(checks) == len(gates_of("adopted"))
        # Nothing to do for what is adopted; asked for by name, it is examined again.
        pick = {"select": lambda target: target.asset == "adopted"}
        assert materialize(tiny, instance, **pick) == []
        done = materialize(tiny, instance, force=True, **pick)
    assert [made.target.label for made in done] == ["adopted[old_manifest]", "adopted[rn18]"]
    again = tiny.store.current("adopted", "rn18")
    assert again is not None and again.folder != artifact.folder
    assert again.sha256 == artifact.sha256
    assert [item.sha256 for item in again.record.inputs] == [manifest.sha256]
    # The path of the run leads to the manifest that it names by hash.
    traced = trace_of(tiny, "adopted[rn18]")
    assert traced.sound
    assert [node.item.key for node in traced.steps] == [
        "adopted[rn18]",
        "adopted[old_manifest]",
    ]
    claim = {
        "id": "old",
        "kind": "number",
        "sentence": "{value}",
        "asset": "adopted",
        "partition": "rn18",
        "file": "reliabilitymetrics.json",
        "pointer": "/raw/macro_f1",
        "decimals": 3,
    }
    held = ClaimsFile.model_validate({"version": "2", "title": "T", "claims": [claim]})
    (resolved,) = verify(held, Tracer(tiny.store)).claims
    assert resolved.status == "grounded", resolved.reason


def test_a_name_that_is_taken(tiny: Pipeline, tmp_path: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        first = adopt_foreign(tiny, old.evaluation(tmp_path / "ev"), instance)
        with refused("name-taken") as caught:
            adopt_foreign(tiny, old.evaluation(tmp_path / "other", drop=3), instance, name="ev")
        assert "--replace" in str(caught.value.fix)
        assert tiny.store.current("adopted", "ev") == first
        adopt_foreign(
            tiny, old.evaluation(tmp_path / "other", drop=3), instance, name="ev", replace=True
        )
    now = tiny.store.current("adopted", "ev")
    assert now is not None and now.record.summary["n"] == old.VAL_ROWS - 3


def test_what_is_refused_leaves_nothing(tiny: Pipeline, tmp_path: Path) -> None:
    folder = old.softlabels(tmp_path / "soft")
    (folder / "softlabels.npz").write_bytes(b"PK")
    with dg.DagsterInstance.get() as instance, refused("damaged-npz"):
        adopt_foreign(tiny, folder, instance)
    assert not tiny.store.home("adopted", "soft").exists()
    assert not list((tiny.store.root / ".partial").iterdir())
    with refused("asset-not-made"):
        tiny.make(Target("adopted", "soft"))


def test_the_command(tiny: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = old.student_run(tmp_path / "ce_20251223")
    app(["adopt", str(folder), "--profile", "tiny"], standalone_mode=False)
    told = capsys.readouterr().out
    assert "Adopted: run, 4 files, came as ce_20251223." in told
    assert "unknown the loss" in told
    (folder / "job.json").write_text("{}")
    with refused("options-conflict"):
        app(["adopt", str(folder), "--as", "x", "--profile", "tiny"], standalone_mode=False)


def test_adopted_weights_are_measured_and_exported_here(tiny: Pipeline, tmp_path: Path) -> None:
    """A student's own weights come back as a foreign run: here they have the student's figures."""
    folder = old.student_run(tmp_path / "returned")
    with dg.DagsterInstance.get() as instance:
        materialize(
            tiny,
            instance,
            select=lambda t: t.asset == "student_ce" or tiny.stage(t.asset).group == "manifests",
        )
        student = tiny.store.current("student_ce")
        assert student is not None
        shutil.copyfile(student.file("best.pt"), folder / "best.pt")
        adopt_foreign(tiny, folder, instance)
        adopt_foreign(tiny, old.softlabels(tmp_path / "labels"), instance)
        made = {target.asset for target in tiny.targets() if target.partition == "labels"}
        assert made == {"adopted"}, "soft labels are no model"
        mine = {Target("adopted_model", "returned"), Target("adopted_bundle", "returned")}
        done = materialize(tiny, instance, select=lambda target: target in mine)
    assert {work.target for work in done} == mine
    model = tiny.store.require("adopted_model", "returned")
    here, there = (held.read_json("reliabilitymetrics.json") for held in (model, student))
    for key in ("epoch", "split", "n", "checkpoint_sha256", "manifest_sha256"):
        assert here[key] == there[key]
    for key in ("accuracy", "macro_f1", "nll"):
        assert here["raw"][key] == pytest.approx(there["raw"][key], abs=1e-4)
    for split in ("val", "calib"):
        name = f"predictions_{split}.csv"
        ours, theirs = (read_predictions(held.file(name)) for held in (model, student))
        assert (ours[1] == theirs[1]).all()
        assert ours[2] == pytest.approx(theirs[2], abs=1e-3)
    assert model.record.splits == {"checkpoint": "unknown", "temperature": "calib"}
    bundle = tiny.store.require("adopted_bundle", "returned")
    card = load_bundle(bundle.folder).card
    assert card.checkpoint_sha256 == student.record.files["best.pt"].sha256
    assert card.lineage["made_from"]["asset"] == "adopted_model"
    with refused("missing-weights"):
        tiny.make(Target("adopted_model", "labels"))
