"""Work cut into shards, done by several processes, with the results in order.

The one place where this library starts processes. A stage hands over a function and its shards and
knows nothing of who computes them.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fer_ml.errors import FerError

Shard = TypeVar("Shard")
Result = TypeVar("Result")


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_shards(
    function: Callable[[Shard], Result], shards: Iterable[Shard], *, workers: int | None = None
) -> Iterator[Result]:
    """``function`` of every shard, in the shards' order.

    ``function`` and the shards are pickled. With one worker everything stays in this process. Only
    a few shards are under way at once, so memory does not follow their number. ``FerError`` when a
    worker dies; an exception of ``function`` is raised here.
    """
    workers = processors() if workers is None else workers
    if workers <= 1:
        yield from map(function, shards)
        return
    # A forked child would inherit the locks of polars' and OpenCV's threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    waiting: deque[Future[Result]] = deque()
    try:
        for shard in shards:
            waiting.append(pool.submit(function, shard))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise FerError(
            "a worker process died before its work was done",
            fix="look for the out-of-memory killer in the system's log, then start again",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
