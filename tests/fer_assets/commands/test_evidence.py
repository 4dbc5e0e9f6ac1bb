from pathlib import Path

from tests.fer_assets.commands.conftest import Fer, refused


def test_faces_are_copied_only_into_a_folder_that_is_named(fer: Fer, tmp_path: Path) -> None:
    refused(fer("evidence", "--faces"), "--out", "code: missing-option")
    assert not (tmp_path / "outputs").exists()


def test_without_claims_there_is_no_evidence(fer: Fer, tmp_path: Path) -> None:
    refused(fer("evidence"), "code: unreadable-file")
    assert not (tmp_path / "outputs").exists()
