import json
import shutil
from pathlib import Path

from fer_ml.storage.store import Store
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
    refused(fer("claims", "verify", "folder"), "code: no-claims-kept", "--claims")
    refused(fer("claims", "verify", "nowhere"), "code: missing-file")
    refused(fer("claims", "verify"), "code: unreadable-file", "claims/<profile>.yaml")
    schema = json.loads(fer("claims", "schema").stdout)
    assert schema["properties"]["version"]["const"] == 2


def test_evidence_is_exported_and_verified_elsewhere(fer: Fer, tmp_path: Path) -> None:
    with Store(tmp_path / "outputs" / "sample", "sample").begin("label_review") as run:
        run.write_json("counts.json", {"rows": 3})
        run.path("review.html").write_text("<img>")
    claim = {"id": "rows", "kind": "number", "sentence": "{value} rows.", "asset": "label_review"}
    claim |= {"file": "counts.json", "pointer": "/rows", "expected": "3"}
    (tmp_path / "claims").mkdir()
    held = {"version": "2", "title": "T", "claims": [claim]}
    (tmp_path / "claims" / "sample.yaml").write_text(json.dumps(held))
    done = fer("claims", "export", "rows", "--out", "e.zip")
    assert done.returncode == 0, done.stderr
    refused(fer("claims", "export", "--out", "e.zip"), "code: output-exists")
    refused(
        fer("claims", "export", "nobody", "--out", "f.zip"),
        "nobody",
        "allowed: rows",
        "code: unknown-claim",
    )
    for name in ("outputs", "claims"):
        shutil.rmtree(tmp_path / name)
    done = fer("claims", "verify", "e.zip", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["counts"]["grounded"] == 1
    assert told["left_out"] == {"label_review": ["review.html"]}
    for out in ("claims.tex", "_variables.yml", "claims.csv"):
        assert fer("claims", "values", "e.zip", "--out", out).returncode == 0
        assert "rows" in (tmp_path / out).read_text()
    text = "\\begin{document}There are \\ferclaim{rows} rows and 3 of 17.\\end{document}"
    (tmp_path / "paper.tex").write_text(text)
    done = fer("report", "check", "paper.tex", "--claims", "e.zip", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["claims"]
    assert told["referred"] == ["rows"] and told["wrong"] == []
    assert [bare["text"] for bare in told["uncovered"]] == ["17"]
    (tmp_path / "paper.tex").write_text(text.replace("{rows}", "{others}"))
    done = fer("report", "check", "paper.tex", "--claims", "e.zip")
    assert done.returncode == 2 and "no claim others" in done.stdout
    refused(fer("report", "check", "paper.tex", "--claims", "nowhere"), "code: missing-file")
    (tmp_path / "e.zip").write_bytes((tmp_path / "e.zip").read_bytes()[:-30])
    refused(fer("claims", "verify", "e.zip"), "code: invalid-zip", "fer claims export")
