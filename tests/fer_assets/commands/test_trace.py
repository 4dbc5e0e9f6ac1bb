from pathlib import Path

from tests.fer_assets.commands.conftest import Fer, refused


def test_trace_of_nothing(fer: Fer, tmp_path: Path) -> None:
    refused(fer("trace", "no-such-claim"), "no-such-claim", "allowed:", "code: nothing-to-trace")
    assert not (tmp_path / "outputs").exists(), "looking makes nothing"
