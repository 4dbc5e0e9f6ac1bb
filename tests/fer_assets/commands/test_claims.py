import json
from pathlib import Path

from tests.fer_assets.commands.conftest import Fer, refused


def test_claims_are_verified_without_a_project(fer: Fer, tmp_path: Path) -> None:
    text = "version: 2\ntitle: T\nclaims:\n  - id: a\n    kind: sum\n    sentence: S {value}\n"
    text += "    expected: 3\n    parts: [1, 2]\n"
    good, bad, newer = (tmp_path / f"{name}.yaml" for name in ("good", "bad", "newer"))
    good.write_text(text)
    bad.write_text(text.replace("[1, 2]", "[1, 3]"))
    newer.write_text(text.replace("version: 2", "version: 3"))
    (tmp_path / "folder").mkdir()
    done = fer("claims", "verify", "folder", "--claims", str(good))
    assert (done.returncode, "1 claims: 1 grounded." in done.stdout) == (0, True), done.stderr
    done = fer("claims", "verify", "folder", "--claims", str(bad), "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["counts"]["contradicted"] == 1
    assert fer("claims", "verify", "--claims", str(bad)).returncode == 2
    refused(
        fer("claims", "verify", "folder", "--claims", str(newer)), "version 3", "allowed: 1 to 2"
    )
    refused(fer("claims", "verify", "folder"), "keeps no claims", "--claims")
    refused(fer("claims", "verify", "nowhere"), "no such folder")
    refused(fer("claims", "verify"), "claims file cannot be read", "claims/<profile>.yaml")
    schema = json.loads(fer("claims", "schema").stdout)
    assert schema["properties"]["version"]["const"] == 2
