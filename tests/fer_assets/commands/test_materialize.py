"""``fer materialize`` on bad input: nothing is half-written."""

from pathlib import Path

from tests.fer_assets.commands.conftest import Fer, refused


def write_config(folder: Path, root: Path, adapter: str = "class_folders") -> None:
    (folder / "fer.toml").write_text(
        f"""
[roots]
mine = "{root}"
[profiles.own]
base = "ferplus"
sources = [{{ name = "mine", adapter = "{adapter}" }}]
hq_train = {{ sources = ["mine"] }}
eval_only = {{ sources = ["mine"] }}
test_all_sources = {{ sources = ["mine"] }}
"""
    )


def test_a_missing_data_root(fer: Fer, tmp_path: Path) -> None:
    write_config(tmp_path, tmp_path / "nowhere")
    refused(fer("materialize", "-p", "own", "--select", "manifests"), "no data root", "[roots]")
    assert not list((tmp_path / "outputs").rglob("record.json"))


def test_an_empty_folder(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_config(tmp_path, tmp_path / "empty")
    refused(fer("materialize", "-p", "own", "--select", "manifests"), "empty")
    assert not list((tmp_path / "outputs").rglob("record.json"))


def test_a_csv_without_a_column(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "fer2013.csv").write_text("emotion,Usage\n0,Training\n")
    write_config(tmp_path, tmp_path / "csv", "fer2013_csv")
    refused(fer("materialize", "-p", "own", "--select", "manifests"), "pixels")


def test_an_unknown_source_adapter(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "data" / "Happy").mkdir(parents=True)
    write_config(tmp_path, tmp_path / "data", "no_such_adapter")
    refused(
        fer("materialize", "-p", "own", "--select", "manifests"), "no_such_adapter", "split_folders"
    )


def test_an_unknown_profile_and_an_unknown_selection(fer: Fer) -> None:
    refused(fer("materialize", "-p", "smaple"), "unknown profile 'smaple'", "sample, ferplus")
    refused(
        fer("materialize", "--select", "techer"), "techer", "teacher[RN18]", "code: unknown-asset"
    )


def test_an_artifact_root_that_cannot_be_written(fer: Fer, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    (tmp_path / "data" / "Happy").mkdir(parents=True)
    (tmp_path / "data" / "Happy" / "x.png").write_bytes(b"")
    write_config(tmp_path, tmp_path / "data")
    done = fer("materialize", "-p", "own", "--select", "manifests", FER_HOME=str(blocked))
    refused(done, "fix:", "FER_HOME")
    assert blocked.read_text() == "in the way"
