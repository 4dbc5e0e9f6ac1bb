"""What comes in at the door, and what does not."""

from pathlib import Path

import pytest

from fer_ml.adoption import folder as door
from fer_ml.adoption.folder import adopted_name, file_name, named_hashes, recognise
from tests.fer_ml.adoption import first_pipeline as old
from tests.machine import pipe
from tests.refusals import refused


def test_every_kind_is_recognised(tmp_path: Path) -> None:
    old.manifest(tmp_path / "m" / "m.csv")
    old.report(tmp_path / "m" / "manifest_validation.json")
    old.report(tmp_path / "v" / "manifest_validation_hq.json")
    found = {
        "run": recognise(old.teacher_run(tmp_path / "t")),
        "evaluation": recognise(old.evaluation(tmp_path / "e")),
        "softlabels": recognise(old.softlabels(tmp_path / "s")),
        "manifest": recognise(tmp_path / "m"),
        "validation": recognise(tmp_path / "v"),
    }
    assert {kind: foreign.kind for kind, foreign in found.items()} == {k: k for k in found}
    assert set(found["manifest"].files) == {"m.csv", "manifest_validation.json"}
    assert found["run"].origin == "t"
    assert recognise(tmp_path / "m" / "m.csv").kind == "manifest"
    assert recognise(tmp_path / "v" / "manifest_validation_hq.json").kind == "validation"


def test_what_is_nothing_of_the_kind(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "x" / "b.json").write_text("[]")
    with refused("nothing-to-adopt"):
        recognise(tmp_path / "x")
    for name in ("a.csv", "b.json"):
        with refused("nothing-to-adopt"):
            recognise(tmp_path / "x" / name)
    with refused("missing-file"):
        recognise(tmp_path / "nowhere")


def test_several_manifests_are_not_guessed_between(tmp_path: Path) -> None:
    old.manifest(tmp_path / "m" / "a.csv")
    old.manifest(tmp_path / "m" / "b.csv")
    with refused("several-manifests") as caught:
        recognise(tmp_path / "m")
    assert caught.value.allowed == "a.csv, b.csv"


@pytest.mark.threat("a path leads out of its folder")
def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    outside = old.student_run(tmp_path / "outside")
    folder = old.student_run(tmp_path / "run")
    (folder / "history.json").unlink()
    (folder / "history.json").symlink_to(outside / "history.json")
    with refused("link-leads-out"):
        recognise(folder)
    (folder / "history.json").unlink()
    (folder / "history.json").symlink_to(folder / "history.json")
    with refused("unreadable-file"):
        recognise(folder)
    (folder / "history.json").unlink()
    (folder / "other.json").write_bytes((outside / "history.json").read_bytes())
    (folder / "history.json").symlink_to(folder / "other.json")
    assert "history.json" in recognise(folder).files, "a link within the folder is no danger"


def test_what_is_no_file_or_too_large_or_empty(tmp_path: Path) -> None:
    folder = old.student_run(tmp_path / "run")
    path = folder / "history.json"
    path.unlink()
    path.mkdir()
    with refused("not-regular-file"):
        recognise(folder)
    path.rmdir()
    path.touch()
    with refused("empty-file"):
        recognise(folder)
    with path.open("wb") as file:
        file.truncate(door.MAX_JSON + 1)
    with refused("file-too-large"):
        recognise(folder)
    path.unlink()
    pipe(path)
    with refused("not-regular-file"):
        recognise(folder)


def test_a_long_list_of_other_files_is_cut(tmp_path: Path) -> None:
    folder = old.student_run(tmp_path / "run")
    for i in range(door.MAX_LEFT_OUT + 5):
        (folder / f"x{i}").touch()
    assert recognise(folder).left_out[-1] == "and 6 more"


def test_names_of_partitions(tmp_path: Path) -> None:
    assert adopted_name(None, tmp_path / "m.csv") == "m"
    (tmp_path / "a_b-1").mkdir()
    assert adopted_name(None, tmp_path / "a_b-1") == "a_b-1"
    for bad in ("../x", "a/b", ".", "", "x" * 101, "a b", "-a", "current.json", "ä"):
        with refused("invalid-adopted-name") as caught:
            adopted_name(bad, tmp_path / "a b")
        assert caught.value.fix == "name it: --as NAME"
    for bad in ("nul", "Com1", "A_b-1"):
        with refused("invalid-adopted-name") as caught:
            adopted_name(bad, tmp_path / "x.csv", taken=["other", "a_b-1"])
    assert "beside 'a_b-1'" in caught.value.what
    assert adopted_name("a_b-1", tmp_path / "x.csv", taken=["a_b-1"]) == "a_b-1"


def test_a_manifest_keeps_its_name_and_so_it_must_be_one_everywhere(tmp_path: Path) -> None:
    old.manifest(tmp_path / "m" / "m.csv")
    assert set(recognise(tmp_path / "m").files) == {"m.csv"}
    old.manifest(tmp_path / "n" / "m.csv")
    try:
        (tmp_path / "n" / "m.csv").rename(tmp_path / "n" / "aux.csv")
    except OSError:
        pytest.skip("nothing can be called so here")
    with refused("unportable-name"):
        recognise(tmp_path / "n")


def test_hashes_that_a_result_names(tmp_path: Path) -> None:
    teacher = recognise(old.teacher_run(tmp_path / "t", manifest_sha256="a" * 64))
    soft = recognise(old.softlabels(tmp_path / "s", manifest_sha256="b" * 64))
    assert named_hashes(teacher) == {"a" * 64}
    assert named_hashes(soft) == {"b" * 64}
    old.write(tmp_path / "s" / "hash_manifest.json", {"sha256": "../../etc"})
    old.write(tmp_path / "s" / "alignmentreport.json", {"paths": [], "manifest_sha256": 1})
    assert named_hashes(recognise(tmp_path / "s")) == set()


def test_file_names_of_any_machine() -> None:
    assert file_name("C:\\data\\a.csv") == file_name("/data/a.csv") == file_name("a.csv") == "a.csv"
