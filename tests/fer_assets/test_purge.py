"""After a purge no pixel of the photo is below the artifact root, and nothing on it is green."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import dagster as dg
import numpy as np
import polars as pl
import pytest

from fer_assets import abandoned, purging
from fer_assets.dagster_private import StepMaterializationData
from fer_assets.digest import digest_of
from fer_assets.keys import asset_key
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from fer_assets.show import trace_of
from fer_assets.staleness import stale_reason
from fer_assets.storage import dagster_instance
from fer_ml.base.errors import FerError
from fer_ml.base.reading import sha256_file
from fer_ml.base.settings import settings
from fer_ml.manifests.schema import read_manifest
from fer_ml.packed.packing import load_faces
from fer_ml.privacy.log import read_log
from fer_ml.storage.artifact import PURGED_FILE
from fer_ml.validation.review import embedded_face
from tests.fer_assets.folders import ROOT
from tests.refusals import refused

SOURCES = ("affectnet_full_balanced", "rafdb_basic", "expw_full")
CLAIMS = """
version: 2
title: Rows
claims:
  - {id: rows, kind: number, sentence: "{value} rows.", asset: classification_manifest,
     file: clean_report.json, pointer: /manifest/rows}
"""
Plan = purging.Plan


@dataclass
class Photo:
    """A photo on the page of doubtful labels, and each form of its pixels below the root."""

    row: dict[str, str]
    needles: dict[str, bytes]


@pytest.fixture(scope="module")
def made(
    project: Callable[[str], Pipeline], drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """An artifact root with all manifests of a profile whose raw folders lie outside of it."""
    folder, place = project("tiny").settings.project, tmp_path_factory.mktemp("own")
    shutil.copytree(drawn / "raw", place / "raw")
    plant_a_twin(place / "raw" / "affectnet_full_balanced")
    roots = "".join(f'{name} = "{place / "raw" / name}"\n' for name in SOURCES)
    tiny = (folder / "fer.toml").read_text()
    own = tiny.replace("profiles.tiny", "profiles.own").replace("drawn = true\n", "")
    (folder / "fer.toml").write_text(f"{tiny}{own}[roots]\n{roots}")
    (folder / "claims" / "own.yaml").write_text(CLAIMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(place / "home"))
        patch.setenv("FER_PROFILE", "own")
        settings.cache_clear()
        make_manifests(Pipeline.open("own"))
        yield place / "home"


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A copy of it for one test."""
    shutil.copytree(made, tmp_path / "home")
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    return Pipeline.open("own")


def plant_a_twin(source: Path) -> None:
    """Publish one face again, a bit darker and with another label."""
    image = cv2.imread(str(min((source / "train" / "Anger").iterdir())))
    assert image is not None
    darker = cv2.convertScaleAbs(image, alpha=0.95)
    assert cv2.imwrite(str(source / "train" / "Fear" / "again.png"), darker)


def make_manifests(pipeline: Pipeline) -> None:
    with dg.DagsterInstance.get() as instance:
        materialize(
            pipeline, instance, select=lambda t: pipeline.stage(t.asset).group == "manifests"
        )


def rows_of(pipeline: Pipeline, asset: str, file: str) -> pl.DataFrame:
    artifact = pipeline.store.current(asset)
    assert artifact
    return read_manifest(artifact.file(file))


def unified(pipeline: Pipeline) -> pl.DataFrame:
    return rows_of(pipeline, "classification_manifest", "classification_manifest.csv")


def doubtful(pipeline: Pipeline) -> Photo:
    """The first photo on the review page, packed into caches as a training does."""
    review = pipeline.store.current("label_review")
    assert review
    first = pl.read_csv(review.file("review.csv"), infer_schema=False)["sample_id"][0]
    frame = unified(pipeline)
    root = pipeline.store.root
    (row,) = frame.filter(pl.col("sample_id") == first)[:1].iter_rows(named=True)
    faces = load_faces(frame, root, pipeline.profile.preprocess, root / "cache")
    packed = np.asarray(faces.images[frame["sample_id"].to_list().index(first)])
    (root / "unfinished" / "teacher_RN18").mkdir(parents=True)
    np.save(root / "unfinished" / "teacher_RN18" / "images.npy", packed[None])
    source = pipeline.store.current(f"manifest/{row['source']}")
    assert source
    own = read_manifest(source.file(f"{row['source']}.csv"))
    thumbs = np.load(source.file("thumbs.npy"))
    box = tuple(row[f"bbox_{edge}"] for edge in ("left", "top", "right", "bottom"))
    page = embedded_face(root, row["image_path"], None if box[0] is None else box)["png"]
    return Photo(
        row,
        {
            "image": (root / row["image_path"]).read_bytes(),
            "thumb": thumbs[own["sample_id"].to_list().index(first)].tobytes(),
            "packed": packed.tobytes(),
            "page": page.encode(),
        },
    )


def holding(home: Path, photo: Photo) -> dict[str, set[str]]:
    """Which files below the artifact root hold which form of the photo's pixels."""
    found: dict[str, set[str]] = {name: set() for name in photo.needles}
    for path in home.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        for name, needle in photo.needles.items():
            if needle in data:
                found[name].add(path.name)
    return found


def plan(kind: str, name: str) -> Plan:
    return purging.plan(settings(), kind, name)


def carry_out(found: Plan) -> None:
    purging.carry_out(settings(), found, "consent withdrawn")


def standing_in(pipeline: Pipeline, asset: str, *inputs: str, **files: bytes) -> None:
    """An artifact as its stage would leave it, as far as a purge can tell."""
    held = [pipeline.store.current(name) for name in inputs]
    with pipeline.store.begin(asset, inputs=[a.as_input() for a in held if a]) as run:
        for name, data in files.items():
            run.path(name.replace("__", "/").replace("_png", ".png")).write_bytes(data)


def test_no_pixel_of_a_purged_photo_remains_nor_comes_back(own: Pipeline) -> None:
    home = own.settings.home
    photo = doubtful(own)
    validate_cache = home / ".validate" / "probe"
    validate_cache.mkdir(parents=True)
    (validate_cache / "x.npy").write_bytes(photo.needles["thumb"])
    held = holding(home, photo)
    assert all(held.values()), held
    assert "review.html" in held["page"]

    found = plan("photo", photo.row["sample_id"])
    assert holding(home, photo) == held, "looking changes nothing"
    carry_out(found)
    assert not any(holding(home, photo).values())
    assert not [
        path.name for path in home.rglob("*.png") if path.name in ("faces.png", "findings.png")
    ]

    # The raw file is the user's and is there still: it is named, and kept out.
    assert [path.name for path in found.raw] == [Path(photo.row["orig_image"]).name]
    make_manifests(own)
    assert not any(holding(home, photo).values())
    assert photo.row["sample_id"] not in set(unified(own)["sample_id"])
    source = own.store.current(f"manifest/{photo.row['source']}")
    assert source
    quarantine = pl.read_csv(source.file("quarantine.csv"), infer_schema=False)
    assert quarantine.filter(pl.col("rule") == "purged").height == 1
    assert [e for e in digest_of(own).entries if e.state != "warns"] == []


def test_what_rested_on_it_is_stale_and_claims_are_not_grounded(own: Pipeline) -> None:
    photo = doubtful(own)
    standing_in(own, "student_ce", "hq_train_manifest", best_pt=b"weights")
    standing_in(own, "benchmark", "student_ce")
    standing_in(own, "error_analysis", "benchmark", faces__a_png=b"sheet", cases=b"numbers")
    assert trace_of(own, "rows").claim.status == "grounded"  # type: ignore[union-attr]
    found = plan("photo", photo.row["sample_id"])
    in_train = photo.row["sample_id"] in set(
        rows_of(own, "hq_train_manifest", "classification_manifest_hq_train.csv")["sample_id"]
    )
    assert in_train
    assert "own/student_ce" in found.resting
    assert "own/classification_manifest" in found.resting
    assert f"own/manifest/{photo.row['source']}" in found.resting
    others = set(SOURCES) - {photo.row["source"]}
    assert not {f"own/manifest/{name}" for name in others} & set(found.resting)
    assert found.claims == {"own": ["rows"]}
    carry_out(found)
    raw = {name: own.raw_input(name).sha256 for name in SOURCES}
    for label in found.resting:
        reason = stale_reason(own, Target(label.removeprefix("own/")), raw)
        assert reason and "purged on" in reason, label
    assert trace_of(own, "rows").claim.status != "grounded"  # type: ignore[union-attr]
    told = {e.name for e in digest_of(own).entries if e.state in ("red", "stale")}
    assert told >= {label.removeprefix("own/") for label in found.resting} | {"rows"}
    analysis = own.store.current("error_analysis")
    assert analysis and not (analysis.folder / "faces" / "a.png").exists()
    assert (analysis.folder / "cases").read_bytes() == b"numbers"


def test_a_group_takes_its_near_duplicates_and_a_photo_does_not(own: Pipeline) -> None:
    # Of a photo that is one face the sample's hash is the photo's.
    frame = unified(own).with_columns(
        pl.col("sample_id").n_unique().over("group_id").alias("n"),
        pl.col("bbox_left").is_null().all().over("group_id").alias("whole"),
    )
    pair = frame.filter(pl.col("n") > 1, pl.col("whole")).sort("group_id", "sample_id")
    first = pair.row(0, named=True)
    group = frame.filter(pl.col("group_id") == first["group_id"])
    alone = plan("photo", first["sample_id"])
    together = plan("group", first["sample_id"])
    assert alone.wanted.photos == {first["sample_id"]}
    assert together.wanted.photos == set(group["sample_id"])
    carry_out(together)
    assert not [path for path in group["image_path"] if (own.store.root / path).exists()]
    others = frame.filter(pl.col("group_id") != first["group_id"])["image_path"]
    assert all((own.store.root / path).exists() for path in others)


def test_a_photo_is_known_by_hash_path_and_file(own: Pipeline) -> None:
    row = unified(own).row(0, named=True)
    by_hash = plan("photo", row["sample_id"][:12]).wanted
    file = own.store.root / row["image_path"]
    assert plan("photo", row["image_path"]).wanted == by_hash
    assert plan("photo", str(file)).wanted == by_hash
    with refused("unknown-photo"):
        plan("photo", "nobody.png")
    with refused("unknown-photo"):
        plan("group", "0123456789abcdef")


def test_a_source_goes_whole_and_is_refused_from_then_on(own: Pipeline) -> None:
    with refused("unknown-source") as caught:
        plan("source", "nothing")
    assert "expw_full" in str(caught.value)
    carry_out(plan("source", "expw_full"))
    pool = own.store.root / "cleaned"
    assert not [path for path in (pool / "expw_full").rglob("*") if path.is_file()]
    assert [path for path in (pool / "rafdb_basic").rglob("*") if path.is_file()]
    with refused("source-purged"):
        own.make(Target("manifest/expw_full"))


def test_the_log_names_nobody_and_an_unreadable_one_stops_everything(own: Pipeline) -> None:
    row = unified(own).row(0, named=True)
    carry_out(plan("photo", row["sample_id"]))
    path = own.settings.home / PURGED_FILE
    (entry,) = read_log(own.settings.home).entries
    assert (entry.kind, entry.reason) == ("photo", "consent withdrawn")
    assert entry.photos == (row["sample_id"],)
    text = path.read_text()
    for name in (Path(row["image_path"]).stem, Path(row["orig_image"]).stem, "base64"):
        assert name not in text
    path.write_text("{")
    with refused("invalid-purge-log"):
        own.make(Target(f"manifest/{row['source']}"))


def test_it_waits_for_what_is_being_made(own: Pipeline) -> None:
    found = plan("source", "expw_full")
    with (
        own.store.begin("label_review") as run,
        refused("work-in-progress"),
    ):
        run.write_text("review.csv", "")
        carry_out(found)
    assert read_log(own.settings.home).entries == ()
    assert list((own.store.root / "cleaned" / "expw_full").rglob("*.jpg"))


def test_a_session_goes_with_what_a_buffer_took_from_it(own: Pipeline, tmp_path: Path) -> None:
    session = own.settings.home / "demo" / "monday"
    (session / "frames").mkdir(parents=True)
    (session / "frames" / "000000.png").write_bytes(b"frame")
    (session / "per_frame.csv").write_text("frame_index\n0\n")
    recipe = {"video_sha256": sha256_file(session / "per_frame.csv")}
    with own.store.begin("demo_session", recipe=recipe) as run:
        run.write_text("per_frame.csv", "frame_index\n0\n")
    standing_in(own, "demo_kpis", "demo_session")
    found = plan("session", "monday")
    assert found.resting == ["own/demo_kpis", "own/demo_session"]
    carry_out(found)
    assert not session.exists()
    with refused("missing-session"):
        plan("session", "monday")


PICTURE = re.compile(rb"(faces|findings)[^\x00]{0,60}\]\(data:image")


@pytest.mark.threat("other users of this machine look at faces")
def test_dagster_forgets_pictures_that_it_was_allowed_to_keep(
    own: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the setting is off by then, and after a first try that stopped before Dagster."""
    kept = tmp_path / "dagster"
    kept.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(kept))
    settings.cache_clear()
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", kept)
    config = own.settings.config.model_copy(update={"faces_in_ui": True})
    showing = replace(own, settings=own.settings.model_copy(update={"config": config}))
    asset, photo = "manifest_validation", unified(own)["sample_id"][0]
    key, earlier = asset_key("own", asset), dg.AssetKey(asset)
    other = dg.AssetMaterialization("student_kd")
    with dagster_instance() as instance:
        materialize(showing, instance, select=lambda t: t.asset == asset, force=True)
        (record,) = instance.fetch_materializations(key, limit=9).records
        # Before keys named their profile.
        shown = record.asset_materialization
        assert shown is not None
        again = dg.AssetMaterialization(earlier, metadata=shown.metadata)
        data = StepMaterializationData(again)
        told = dg.DagsterEvent("ASSET_MATERIALIZATION", "data", event_specific_data=data)
        instance.report_dagster_event(told, record.run_id)
        instance.report_runless_asset_event(other)
        # What is found finished is told without a run.
        instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=shown.metadata))

    def pictures() -> int:
        """Pages of Dagster's databases that hold one, deleted or not."""
        files = (path for path in kept.rglob("*") if path.is_file())
        return sum(len(PICTURE.findall(path.read_bytes())) for path in files)

    assert pictures() > 0
    for name in ("history", "schedules", "storage"):
        assert (kept / name).stat().st_mode & 0o077 == 0 or os.name == "nt"
    assert not settings().config.faces_in_ui
    (kept / "dagster.yaml").rename(tmp_path / "away")
    with refused("missing-dagster-yaml"):
        carry_out(plan("photo", photo))
    assert pictures() > 0
    (tmp_path / "away").rename(kept / "dagster.yaml")
    monkeypatch.setattr(abandoned, "PATIENCE_S", 0.2)
    reader = sqlite3.connect(kept / "history" / "runs" / "index.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM event_logs").fetchone()
    with refused("database-in-use"):
        carry_out(plan("photo", photo))
    reader.close()
    carry_out(plan("photo", photo))
    assert pictures() == 0
    assert not list(kept.rglob(f"{record.run_id}.db"))
    with dagster_instance() as instance:
        for forgotten in (key, earlier):
            assert instance.fetch_materializations(forgotten, limit=9).records == []
        assert len(instance.fetch_materializations(other.asset_key, limit=9).records) == 1


def test_what_dagster_keeps_open_is_told(own: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader keeps the log of its database as it was, with all that was deleted since."""
    monkeypatch.setattr(abandoned, "PATIENCE_S", 0.2)
    photo = unified(own)["sample_id"][0]
    database = Path(os.environ["DAGSTER_HOME"]) / "history" / "runs" / "index.db"
    reader = sqlite3.connect(database, isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM event_logs").fetchone()
        with pytest.raises(FerError) as caught:
            carry_out(plan("photo", photo))
    finally:
        reader.close()
    assert caught.value.where == str(database)
    carry_out(plan("photo", photo))


def test_a_link_to_pixels_is_told_before_anything_is_removed(own: Pipeline, tmp_path: Path) -> None:
    session, elsewhere = own.settings.home / "demo" / "monday", tmp_path / "large"
    session.mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "000000.png").write_bytes(b"frame")
    (session / "per_frame.csv").write_text("frame_index\n0\n")
    (session / "frames").symlink_to(elsewhere)
    shutil.rmtree(own.store.root / "cache", ignore_errors=True)
    (own.store.root / "cache").symlink_to(elsewhere)
    for kind, name in (("session", "monday"), ("photo", unified(own)["sample_id"][0])):
        with pytest.raises(FerError) as caught:
            carry_out(plan(kind, name))
        assert str(elsewhere) in str(caught.value.where)
    assert read_log(own.settings.home).entries == ()
    assert (session / "per_frame.csv").exists() and (elsewhere / "000000.png").exists()


def test_a_session_that_went_half_way_is_found_again(
    own: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = own.settings.home / "demo" / "monday"
    (session / "frames").mkdir(parents=True)
    (session / "frames" / "000000.png").write_bytes(b"frame")
    (session / "per_frame.csv").write_text("frame_index\n0\n")
    real = shutil.rmtree

    def stopped(path: Path) -> None:
        real(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            carry_out(plan("session", "monday"))
    assert not (session / "frames").exists()
    carry_out(plan("session", "monday"))
    assert not session.exists()


def fer(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from fer_assets.cli import main; main()", "purge"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_the_command_is_dry_unless_told(own: Pipeline) -> None:
    before = sorted(own.settings.home.rglob("*"))
    done = fer("--source", "expw_full")
    assert done.returncode == 0, done.stderr
    assert "Nothing was changed" in done.stdout
    assert sorted(own.settings.home.rglob("*")) == before
    wrong = fer("--source", "expw_full", "--photo", "x")
    assert wrong.returncode == 1
    assert "one of --photo, --group, --source, --session" in wrong.stderr
    done = fer("--source", "expw_full", "--yes", "--json")
    assert json.loads(done.stdout)["carried_out"] is True
    assert (own.settings.home / PURGED_FILE).is_file()
