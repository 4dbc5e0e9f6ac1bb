"""A run that waits for a place in a pool: it looks now and then, and ends when it is told to."""

import _thread
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.plan.active import ActiveExecution

import fer_assets.dagster_private.waiting  # noqa: F401 - what is tested


@dg.op(pool="training")
def train() -> None: ...


@dg.job
def trains() -> None:
    train()


@contextmanager
def a_full_pool(folder: Path) -> Iterator[tuple[dg.DagsterInstance, str]]:
    """An instance, and the id of the run that has the one place of the pool ``training``."""
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        instance.event_log_storage.set_concurrency_slots("training", 1)
        other = instance.create_run_for_job(trains, status=dg.DagsterRunStatus.STARTED).run_id
        instance.event_log_storage.claim_concurrency_slot("training", other, "train")
        yield instance, other


def holders(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.event_log_storage.get_concurrency_info("training").active_run_ids)


def test_a_run_that_waits_for_its_place_keeps_no_processor_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = [], ActiveExecution.get_next_step

    def counted(self: ActiveExecution) -> Any:
        looks.append(self)
        return look(self)

    monkeypatch.setattr(ActiveExecution, "get_next_step", counted)
    with a_full_pool(tmp_path) as (instance, other):
        free = instance.event_log_storage.free_concurrency_slots_for_run
        timer = threading.Timer(2, free, [other])
        timer.start()
        assert trains.execute_in_process(instance=instance).success
        timer.join()
    assert len(looks) < 100, "a loop without a pause looks thousands of times"


def test_a_run_that_waits_for_its_place_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with a_full_pool(tmp_path) as (instance, other):
        timers = [
            threading.Timer(2, _thread.interrupt_main),
            # Else this would wait for ever.
            threading.Timer(60, instance.event_log_storage.free_concurrency_slots_for_run, [other]),
        ]
        for timer in timers:
            timer.start()
        ended = trains.execute_in_process(instance=instance, raise_on_error=False)
        for timer in timers:
            timer.cancel()
        assert not ended.success
        assert holders(instance) == {other}, "it had not got its place yet"
        assert not [e for e in ended.all_events if e.event_type_value == "STEP_START"]
        assert instance.event_log_storage.get_concurrency_info("training").pending_step_count == 0
