"""The launcher of a packed training in several processes of this machine, by torch's launcher."""

import logging
import signal
import sys
import threading
from pathlib import Path
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fer_ml.base.errors import FerError
from fer_ml.base.processes import processors
from fer_ml.packed.runner import run_job
from fer_ml.training.ranks import choose_device, join

#: The signals that the launcher handles, of those that this system has.
LAUNCHERS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)
)


def launch(folder: Path, out: Path, device: str, processes: int) -> list[Path]:
    """Call ``run_job`` in several processes, which share each batch; return its result folders.

    A signal to stop goes to all of them first: they save their state, then this process obeys it.
    If this process dies, they stop too. ``FerError`` with the first fault of any of them.
    """
    _require_gpus(device, processes)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    # The launcher puts its own handlers in their place and leaves them there, in the main thread.
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in LAUNCHERS if main}
    stopped: int | None = None
    try:
        folders: list[Path] = elastic_launch(config, _work)(folder, out, device)[0]
    except SignalException as asked:
        stopped = int(asked.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        message = failure.message
        # An exception of Python is a table, a signal a sentence.
        reason = message["message"] if isinstance(message, dict) else message
        raise FerError(
            f"process {rank} of the training: {reason.removeprefix('FerError: ')}",
            code="process-failed",
        ) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if stopped is not None:
        if sys.platform != "win32":
            # Blocked in this thread it would wait for ever.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [stopped])
        signal.raise_signal(stopped)
        raise KeyboardInterrupt
    return folders


def _require_gpus(device: str, processes: int) -> None:
    gpu_count = torch.cuda.device_count() if choose_device(device).type == "cuda" else processes
    if processes > gpu_count:
        raise FerError(
            f"{processes} processes need a GPU each, and {gpu_count} are here",
            code="too-few-gpus",
            allowed=f"FER_PROCESSES: 1 to {gpu_count}",
            fix="lower FER_PROCESSES",
        )


@record
def _work(folder: Path, out: Path, device: str) -> list[Path]:
    """Run the job in one worker process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with join(device) as ranks:
        torch.set_num_threads(max(1, processors() // ranks.world))
        return run_job(folder, out, ranks)
