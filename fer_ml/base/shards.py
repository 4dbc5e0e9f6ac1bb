"""Parallel map over shards of work, with the results in order.

The only module that starts worker processes. A stage passes a function and its shards. They are
computed by processes of this machine or by a Ray cluster, as ``FER_ENGINE`` says.
"""

import multiprocessing
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

from fer_ml.base.errors import FerError
from fer_ml.base.processes import processors
from fer_ml.base.settings import RAY, environment, ray_address

Shard = TypeVar("Shard")
Result = TypeVar("Result")
Shared = TypeVar("Shared")

#: Seconds without a result after which a cluster is asked whether it is there.
_PATIENCE = 10


def map_shards(
    function: Callable[[Shard], Result], shards: Iterable[Shard], *, workers: int | None = None
) -> Iterator[Result]:
    """Yield ``function(shard)`` for every shard, in the shards' order.

    ``function`` and the shards are pickled. With ``workers=1`` everything stays in this process;
    ``None`` uses all processors of this machine or of the cluster. Only a few shards are in flight
    at once, so memory does not grow with their number. ``FerError`` when a local worker dies or the
    cluster is lost; a shard whose cluster worker died is computed again. An exception of
    ``function`` is raised here.
    """
    if workers != 1 and environment().FER_ENGINE == RAY:
        return _on_ray(function, shards)
    workers = processors() if workers is None else workers
    return in_processes(function, shards, workers)


def map_sharing(
    function: Callable[[Shared, Shard], Result],
    shared: Shared,
    shards: Iterable[Shard],
    *,
    workers: int,
) -> Iterator[Result]:
    """Yield ``function(shared, shard)`` for every shard, in order; ``shared`` is large, read-only.

    On this machine threads do the work, so ``function`` should release Python's lock; on a cluster
    each machine holds ``shared`` once.
    """
    if environment().FER_ENGINE == RAY:
        return _on_ray(function, shards, shared)
    return in_threads(partial(function, shared), shards, workers)


def in_threads(
    function: Callable[[Shard], Result], shards: Iterable[Shard], workers: int
) -> Iterator[Result]:
    """Yield ``function(shard)`` in order, by threads of this process, with few shards in flight."""
    with ThreadPoolExecutor(workers) as pool:
        yield from _in_order(
            lambda shard: pool.submit(function, shard), Future.result, shards, 2 * workers
        )


def in_processes(
    function: Callable[[Shard], Result], shards: Iterable[Shard], workers: int
) -> Iterator[Result]:
    """Yield ``function(shard)`` in order, by so many processes; 1 computes in this process.

    ``FerError`` when a worker process dies.
    """
    return map(function, shards) if workers <= 1 else _in_pool(function, shards, workers)


def _in_pool(
    function: Callable[[Shard], Result], shards: Iterable[Shard], workers: int
) -> Iterator[Result]:
    # A forked child would inherit the locks of polars' and OpenCV's threads.
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context)

    def submit(shard: Shard) -> Future[Result]:
        with _interrupts_held():  # A worker is started here, and is not interrupted itself.
            return pool.submit(function, shard)

    try:
        yield from _in_order(submit, Future.result, shards, 2 * workers)
    except (KeyboardInterrupt, GeneratorExit):
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()
        raise
    except BrokenProcessPool as error:
        raise FerError(
            "a worker process died before its work was done",
            code="worker-died",
            fix="look for the out-of-memory killer in the system's log, then start again",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block, and keep it from processes that are started inside.

    A terminal sends it to every process, and each worker would print a traceback.
    """
    if sys.platform == "win32" or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _on_ray(
    function: Callable[..., Result], shards: Iterable[Any], *shared: object
) -> Iterator[Result]:
    ray = _cluster()
    references = [ray.put(each) for each in shared]
    task = ray.remote(_call)
    ahead = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def result(reference: Any) -> Result:
        while not ray.wait([reference], timeout=_PATIENCE)[0]:
            # Ray itself would wait for a machine for ever.
            if not ray.cluster_resources().get("CPU"):
                raise ConnectionError("no machine with a processor is left")
        answer: Result = ray.get(reference)
        return answer

    try:
        yield from _in_order(
            lambda shard: task.remote(function, *references, shard), result, shards, ahead
        )
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.RayError, ConnectionError, SystemExit) as error:
        # Ray may end the process of a cluster that goes with exit code 0, as if all were well.
        if isinstance(error, SystemExit) and error.code:
            raise
        raise FerError(
            f"the Ray cluster could not finish a shard: {str(error) or type(error).__name__}",
            code="ray-failure",
            fix="look at 'ray status' and at the machine that went away, then start again",
        ) from error


def _call(function: Callable[..., Result], *given: object) -> Result:
    """What a worker of the cluster runs: Ray takes no ``partial``."""
    return function(*given)


def _cluster() -> ModuleType:
    """Ray, connected to the cluster that ``RAY_ADDRESS`` names, or to the one on this machine."""
    try:
        import ray
    except ImportError as error:
        raise FerError(
            "FER_ENGINE is ray, but Ray is not installed",
            code="missing-package",
            fix="pip install 'fer-platform[ray]'",
        ) from error
    if not ray.is_initialized():
        address = ray_address()
        try:
            if address:
                # Ray itself tries for a quarter of an hour.
                socket.create_connection(address, timeout=10).close()
            ray.init(address="auto", log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise FerError(
                f"no Ray cluster answers: {error}",
                code="ray-unreachable",
                fix="start one (ray start --head), let RAY_ADDRESS name it, or unset FER_ENGINE",
            ) from error
    return ray


def _in_order(
    start: Callable[[Shard], Any],
    result: Callable[[Any], Result],
    shards: Iterable[Shard],
    ahead: int,
) -> Iterator[Result]:
    """Results in order, with at most ``ahead`` shards started before one is asked for."""
    waiting: deque[Any] = deque()
    for shard in shards:
        waiting.append(start(shard))
        if len(waiting) > ahead:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())
