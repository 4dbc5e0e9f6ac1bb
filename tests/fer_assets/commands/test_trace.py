from pathlib import Path

from tests.fer_assets.commands.conftest import Fer, refused


def test_trace_of_nothing(fer: Fer, tmp_path: Path) -> None:
    refused(fer("trace", "no-such-claim"), "nothing to trace for 'no-such-claim'", "allowed:")
    assert not (tmp_path / "outputs").exists(), "looking makes nothing"
