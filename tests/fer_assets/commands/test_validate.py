import json
from pathlib import Path

from tests.fer_assets.commands.conftest import Fer, refused


def test_validate_judges_any_csv(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "image_path,label,split,source\na.png,Happy,train,x\nb.png,happy,train,x\n"
    )
    done = fer("validate", "m.csv", "--json")
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert (found["rows_total"], found["missing_paths"], found["bad_labels"]) == (2, 2, 1)
    refused(fer("validate", "nothing.csv"), "no such manifest")
    refused(fer("validate", "m.csv", "--root", "nowhere"), "no such folder")
