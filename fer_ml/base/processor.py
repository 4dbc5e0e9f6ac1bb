"""The processor's instruction set, and the number of threads that share a computation.

A packed training needs this module. So its only dependency is torch, imported where it is used.
"""

import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError

#: Values of ``ATEN_CPU_CAPABILITY``: the highest instruction set of torch's own kernels.
ATEN_CAPABILITIES = ("default", "avx2", "avx512", "sve256", "vsx", "zvector")
#: Values of ``ONEDNN_MAX_CPU_ISA``, case ignored: the highest one of oneDNN's convolutions.
ONEDNN_ISAS = (
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
    "AVX512_CORE_BF16",
    "AVX512_CORE_FP16",
    "AVX512_CORE_AMX",
    "AVX512_CORE_AMX_FP16",
    "AVX10_1_512",
    "AVX10_1_512_AMX",
    "AVX10_1_512_AMX_FP16",
    "DEFAULT",
    "ALL",
)
_CPUINFO, _LOADAVG = Path("/proc/cpuinfo"), Path("/proc/loadavg")
#: Looks at what runs, and the seconds between them: a moment's work of another is no load.
_LOOKS, _LOOK_SECONDS = 9, 0.005


def onednn_limit() -> str:
    """Return the highest instruction set that oneDNN may use; ``DEFAULT`` without a limit.

    ``FerError`` for a name that oneDNN does not know, which it would silently ignore.
    """
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        value = os.environ.get(name, "").upper()
        if value and value not in ONEDNN_ISAS:
            raise FerError(
                f"{name} is {value!r}",
                code="invalid-setting",
                allowed=", ".join(ONEDNN_ISAS),
                fix="correct the variable, or unset it",
            )
        if value:
            return value
    return "DEFAULT"


def check_processor(cpuinfo: Path = _CPUINFO) -> None:
    """Check the processor and its settings before work starts, instead of crashing in its middle.

    ``FerError`` for an unknown name of an instruction set, a processor without SSE4.1 (where
    ``cpuinfo`` tells), and threads that cannot be started.
    """
    aten = os.environ.get("ATEN_CPU_CAPABILITY", "")
    if aten and aten not in ATEN_CAPABILITIES:
        raise FerError(
            f"ATEN_CPU_CAPABILITY is {aten!r}",
            code="invalid-setting",
            allowed=", ".join(ATEN_CAPABILITIES),
            fix="correct the variable, or unset it: torch would ignore it",
        )
    onednn_limit()
    flags = _flags(cpuinfo)
    if flags and "sse4_1" not in flags:
        raise FerError(
            "this processor lacks SSE4.1, without which torch and ONNX Runtime do not compute",
            code="unsupported-processor",
            where=cpuinfo,
            fix="use an x86-64 processor of 2008 or later",
        )
    _start_threads(_thread_count())


def _flags(cpuinfo: Path) -> set[str]:
    """The flags of an x86 processor; none where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _thread_count() -> int:
    """How many threads torch will start: ``OMP_NUM_THREADS``, else one a processor."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if not asked:
        return os.cpu_count() or 1
    if not asked.isascii() or not asked.isdigit() or not int(asked):
        raise FerError(
            f"OMP_NUM_THREADS is {asked!r}",
            code="invalid-setting",
            allowed="a whole number, at least 1",
            fix="correct the variable, or unset it: the default is one thread a processor",
        )
    return int(asked)


def _start_threads(count: int) -> None:
    """Start as many threads as the work will need, all at once, and let them end."""
    go_on = threading.Event()
    started = []
    try:
        for _ in range(count - 1):
            thread = threading.Thread(target=go_on.wait)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError) as error:
        raise FerError(
            f"the system starts {len(started) + 1} of {count} threads: {error}",
            code="too-few-threads",
            fix="set OMP_NUM_THREADS=1, or raise the limits on memory and processes (ulimit)",
        ) from error
    finally:
        go_on.set()
        for thread in started:
            thread.join()


def free_threads(asked: int, loadavg: Path = _LOADAVG) -> int:
    """Return how many of ``asked`` threads would have a processor of their own now, at least 1.

    Threads that share an operation wait for the slowest of them, spinning inside oneDNN: two
    threads on one processor took six times as long as one. The load of other programs is measured
    for a moment. Returns ``asked`` where the system does not tell it, or where
    ``OMP_NUM_THREADS`` fixes the number.
    """
    if asked == 1 or os.environ.get("OMP_NUM_THREADS"):
        return asked
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        return asked  # Own threads that spin look like work of others.
    seen = []
    for _ in range(_LOOKS):
        try:
            running = loadavg.read_text(encoding="ascii").split()[3].partition("/")[0]
        except OSError:
            return asked
        seen.append(int(running) - 1)  # This thread is one of them.
        time.sleep(_LOOK_SECONDS)
    return max(1, min(asked, (os.cpu_count() or 1) - int(statistics.median(seen))))


def computes_bf16() -> bool:
    """Whether the processor has bf16 instructions and oneDNN is allowed to use them."""
    import torch

    limit = onednn_limit()
    allowed = ONEDNN_ISAS.index(limit) >= ONEDNN_ISAS.index("AVX512_CORE_BF16")
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(allowed and native)


def processor_facts() -> dict[str, Any]:
    """Return the processor facts that decide the last digits of a result, and its speed.

    ``instruction_set`` is that of torch's kernels, ``onednn_limit`` the highest one that oneDNN may
    use, ``threads`` the number of threads that share an operation.
    """
    import torch

    return {
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "onednn_limit": onednn_limit(),
        "threads": torch.get_num_threads(),
    }
