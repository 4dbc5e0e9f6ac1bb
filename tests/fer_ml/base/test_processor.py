"""What the processor is held to is known by name, and refused before work where it is not."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from fer_ml.base.processor import (
    ATEN_CAPABILITIES,
    ONEDNN_ISAS,
    check_processor,
    computes_bf16,
    free_threads,
    processor_facts,
)
from tests.refusals import refused

VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_the_machine_as_it_is_passes() -> None:
    before = threading.active_count()
    check_processor()
    assert threading.active_count() == before


@pytest.mark.parametrize("value", [*ONEDNN_ISAS, "sse41", "avx512_core_bf16"])
def test_every_name_of_onednn_passes(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", value)
    check_processor()


@pytest.mark.parametrize("value", ATEN_CAPABILITIES[:3])
def test_torch_takes_the_names_that_pass(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch itself says, in a process of its own, whether it knows the name."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", value)
    check_processor()
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ignoring invalid value" not in done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATEN_CPU_CAPABILITY", "AVX2"),
        ("ATEN_CPU_CAPABILITY", "sse41"),
        ("ONEDNN_MAX_CPU_ISA", "AVX-512"),
        ("DNNL_MAX_CPU_ISA", "best"),
        ("OMP_NUM_THREADS", "0"),
        ("OMP_NUM_THREADS", "-1"),
        ("OMP_NUM_THREADS", "two"),
        ("OMP_NUM_THREADS", "²"),
    ],
)
def test_an_unknown_value_is_named_with_those_that_are(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with refused("invalid-setting") as caught:
        check_processor()
    assert value.upper() in str(caught.value).upper()
    assert caught.value.allowed
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("flags\t\t: fpu sse sse2 ssse3\n", False),
        ("flags\t\t: fpu sse sse2 ssse3 sse4_1\n", True),
        ("Features\t: fp asimd\n", True),
        ("", True),
    ],
)
def test_a_processor_without_sse41_is_refused(text: str, passes: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    if passes:
        check_processor(tmp_path / "cpuinfo")
    else:
        with refused("unsupported-processor"):
            check_processor(tmp_path / "cpuinfo")
    check_processor(tmp_path / "no such file")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is limited as on Linux")
def test_threads_that_cannot_start_are_told_before_work() -> None:
    """The address space is used up but for less than a thread's stack."""
    code = """
import resource, threading
from fer_ml.base.processor import check_processor
threading.stack_size(256 * 2**20)
held = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + 64 * 2**20,) * 2)
from fer_ml.base.errors import FerError
try:
    check_processor()
except FerError as error:
    print(error.fix)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert "OMP_NUM_THREADS=1" in done.stdout


@pytest.mark.parametrize(
    ("running", "asked", "threads"),
    [(1, 2, 2), (2, 2, 1), (3, 2, 1), (40, 2, 1), (40, 1, 1), (1, 64, 4), (2, 3, 3)],
)
def test_threads_leave_processors_to_those_that_use_them(
    running: int, asked: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = 4 if asked > 2 else 2
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    (tmp_path / "loadavg").write_text(f"0.50 0.40 0.30 {running}/345 6789\n")
    assert free_threads(asked, tmp_path / "loadavg") == threads
    for name, value in (("OMP_NUM_THREADS", str(asked)), ("OMP_WAIT_POLICY", "active")):
        with monkeypatch.context() as held:
            held.setenv(name, value)
            assert free_threads(asked, tmp_path / "loadavg") == asked


def test_without_a_look_at_the_load_all_threads_are_taken(tmp_path: Path) -> None:
    assert free_threads(2, tmp_path / "none") == 2


def test_a_limit_below_bf16_is_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert computes_bf16() == own
    for value in ("SSE41", "AVX2", "AVX512_CORE", "avx512_core_vnni"):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", value)
        assert not computes_bf16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert computes_bf16() == own


def test_the_record_says_what_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert processor_facts() == {
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "onednn_limit": "AVX2",
        "threads": torch.get_num_threads(),
    }
