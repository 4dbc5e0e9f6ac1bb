"""A Ray cluster on this machine: a head that computes nothing, and two workers of one processor."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

STORE_BYTES = 80 * 2**20


@contextmanager
def two_workers(*, dashboard: bool = False) -> "Iterator[Cluster]":
    """The cluster, chosen as the engine; skips where Ray is not installed.

    Steps are submitted to the ``dashboard``; shards need none.
    """
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'fer-platform[ray]'")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # By itself Ray lets its workers wait for everything else on the machine.
    patch.setenv("RAY_worker_niceness", "0")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": dashboard,
            "object_store_memory": STORE_BYTES,
        },
    )
    try:
        for _ in range(2):
            add_worker(cluster)
        patch.setenv("FER_ENGINE", "ray")
        patch.setenv("RAY_ADDRESS", cluster.address)
        if dashboard:
            _wait_for_jobs(cluster.address)
        yield cluster
    finally:
        patch.undo()
        ray.shutdown()
        cluster.shutdown()


def _wait_for_jobs(address: str) -> None:
    """A dashboard that answers refuses jobs until an agent of a machine has told it of itself."""
    from ray.job_submission import JobSubmissionClient

    for _ in range(120):
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            return
        except (RuntimeError, ConnectionError):
            time.sleep(1)
    raise TimeoutError("the dashboard takes no jobs")


def add_worker(cluster: "Cluster") -> None:
    """One more machine of one processor."""
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, memory=4 * 2**30)


def kill_worker(cluster: "Cluster") -> None:
    """Kill a machine with all that it computes, at once."""
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
