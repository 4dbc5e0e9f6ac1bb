"""``fer`` in an empty project of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Fer = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fer(tmp_path: Path) -> Fer:
    """Run ``fer`` in an empty project of its own."""
    (tmp_path / "dagster_home").mkdir()
    (tmp_path / "workspace.yaml").touch()
    (tmp_path / "dagster_home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))}
        return subprocess.run(
            [sys.executable, "-c", "from fer_assets.cli import main; main()", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**keep, **environment},
            check=False,
        )

    return run


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One clear message, and a non-zero exit."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
