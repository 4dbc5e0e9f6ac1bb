"""Shards come back in order, and nothing that happens in a worker is lost."""

import os
from pathlib import Path

import pytest

from fer_ml.base.errors import FerError
from fer_ml.base.shards import map_shards, processors
from tests.refusals import refused


def square(number: int) -> int:
    return number * number


def own_process(_: int) -> int:
    return os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise FerError("three is refused", code="three-refused", where="here", fix="leave it out")
    return number


def die(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_shards_order(workers: int) -> None:
    assert list(map_shards(square, range(30), workers=workers)) == [n * n for n in range(30)]


def test_one_worker_is_this_process_and_several_are_not() -> None:
    assert set(map_shards(own_process, range(3), workers=1)) == {os.getpid()}
    assert os.getpid() not in set(map_shards(own_process, range(3), workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_shard_is_raised_whole(workers: int) -> None:
    with refused("three-refused", where="here", fix="leave it out"):
        list(map_shards(refuse, range(5), workers=workers))


@pytest.mark.fault("a worker process is killed for memory", "One clear error.")
def test_a_killed_worker_is_told() -> None:
    with refused("worker-died"):
        list(map_shards(die, range(30), workers=2))


def test_only_a_few_shards_are_under_way(tmp_path: Path) -> None:
    taken = []

    def shards() -> "list[int]":
        for number in range(100):
            taken.append(number)
            yield number

    results = map_shards(square, shards(), workers=2)
    assert next(results) == 0
    assert len(taken) <= 6
    assert sum(1 for _ in results) == 99


def test_there_is_a_processor() -> None:
    assert processors() >= 1


def test_an_engine_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_ENGINE", "spark")
    with refused("invalid-setting") as told:
        map_shards(square, range(3))
    assert "FER_ENGINE" in told.value.what
    assert "`local`" in str(told.value.allowed) and "`ray`" in str(told.value.allowed)


@pytest.mark.fault("all machines of a Ray cluster are gone, or its address is wrong")
def test_a_cluster_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("FER_ENGINE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with refused("ray-unreachable"):
        list(map_shards(square, range(3)))
