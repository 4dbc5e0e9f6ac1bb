"""Work that outlives a kill: one process has it, until its result is current."""

from dataclasses import replace
from typing import Any

import pytest

from fer_ml.storage import job as module
from fer_ml.storage.job import Job
from fer_ml.storage.looks import face_ids, note_look
from fer_ml.storage.store import Store
from tests.refusals import refused


@pytest.fixture
def job(store: Store) -> Job:
    return Job("teacher", "RN18", store, None, {}, {}, recorded={"epochs": 1})


def test_it_stays_when_the_work_fails_and_goes_once_its_result_is_current(job: Job) -> None:
    with pytest.raises(KeyboardInterrupt), job.store.begin("teacher", "RN18") as run:
        (job.kept(run) / "half.txt").write_text("half")
        raise KeyboardInterrupt
    with job.store.begin("teacher", "RN18") as run:
        kept = job.kept(run)
        assert (kept / "half.txt").read_text() == "half"
        run.write_text("a.txt", "whole")
    assert not kept.parent.exists()
    assert job.store.current("teacher", "RN18")


@pytest.mark.parametrize("change", [{"recorded": {"epochs": 2}}, {"code_version": "2"}])
def test_another_recipe_or_code_starts_anew(job: Job, change: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt), job.store.begin("teacher", "RN18") as run:
        first = job.kept(run)
        raise KeyboardInterrupt
    with job.store.begin("teacher", "RN18") as run:
        assert replace(job, **change).kept(run) != first
        assert not first.exists()


def test_nobody_else_has_it_until_its_result_is_current(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with job.store.begin("teacher", "RN18") as run:
        job.kept(run)
        with refused("work-in-progress"), job.store.begin("teacher", "RN18") as other:
            job.kept(other)
    with job.store.begin("teacher", "RN18") as run:
        job.kept(run)


def test_a_set_that_the_profile_had_looked_at_is_marked_without_a_ledger(job: Job) -> None:
    faces = face_ids(["a", "b"])
    assert job.looked_before("test_all_sources_manifest", faces) is None
    told = replace(job, looked_at={"test_all_sources": "2020-01-02"}, decisions={"x": "new"})
    mark = {"since": "2020-01-02", "decided": ["the profile"]}
    assert told.looked_before("test_all_sources_manifest", faces) == mark
    assert told.looked_before("eval_only_manifest", faces) is None
    about = {"profile": "p", "asset": "benchmark", "run_id": None, "plan": None}
    note_look(job.store.root.parent, {"s": faces}, decisions={"x": "old"}, **about)
    both = told.looked_before("test_all_sources_manifest", faces)
    assert both == {"since": "2020-01-02", "decided": ["the profile", "x"]}
