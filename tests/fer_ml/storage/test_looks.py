"""The ledger of looks: what is marked, and what an edited file says."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fer_ml.storage.looks import (
    LOOKS_FILE,
    face_ids,
    looked_before,
    note_look,
    planned_before,
    read_looks,
)
from tests.refusals import refused

TEST = face_ids(f"face {number}" for number in range(40))
OTHER = face_ids(f"other {number}" for number in range(40))
BEFORE = {"student_ce": "a", "softlabels": "b"}


def look(home: Path, faces: list[str] = TEST, **changes: Any) -> None:
    about = {"profile": "p", "asset": "benchmark", "run_id": "r", "decisions": BEFORE, "plan": None}
    note_look(home, {"test": faces}, **{**about, **changes})


def test_the_first_look_and_one_without_another_decision_mark_nothing(tmp_path: Path) -> None:
    assert looked_before(tmp_path, TEST, BEFORE) is None
    look(tmp_path)
    look(tmp_path, asset="report", run_id=None)
    assert looked_before(tmp_path, TEST, BEFORE) is None
    assert [entry.asset for entry in read_looks(tmp_path)] == ["benchmark", "report"]


@pytest.mark.parametrize(
    ("now", "decided"),
    [
        ({"student_ce": "x", "softlabels": "b"}, ["student_ce"]),
        ({"student_ce": "a"}, ["softlabels"]),
        ({**BEFORE, "student_experiment[kd]": "k"}, ["student_experiment[kd]"]),
    ],
)
def test_what_was_decided_after_a_look_marks_its_faces(
    tmp_path: Path, now: dict[str, str], decided: list[str]
) -> None:
    look(tmp_path)
    mark = looked_before(tmp_path, TEST, now)
    assert mark == {"since": read_looks(tmp_path)[0].at, "decided": decided}
    assert looked_before(tmp_path, OTHER, now) is None


def test_going_back_to_a_decision_after_seeing_another_is_a_decision(tmp_path: Path) -> None:
    look(tmp_path)
    look(tmp_path, decisions={"student_ce": "x"})
    mark = looked_before(tmp_path, TEST, BEFORE)
    assert mark is not None and mark["decided"] == ["softlabels", "student_ce"]


def test_a_set_is_known_by_its_faces(tmp_path: Path) -> None:
    """Another name, another profile, a part of it, or one face among others: looked at."""
    look(tmp_path, profile="another", decisions={"x": "y"})
    for faces in (TEST, TEST[:5], [*OTHER, TEST[0]]):
        assert looked_before(tmp_path, faces, BEFORE) is not None
    assert looked_before(tmp_path, OTHER, BEFORE) is None


def test_a_face_is_known_by_the_first_twelve_digits_of_its_hash_in_any_order() -> None:
    """Ledgers of earlier days hold them."""
    known = sorted(hashlib.sha256(text).hexdigest()[:12] for text in (b"x", b"y"))
    assert face_ids(["y", "x", "x"]) == face_ids(["x", "y"]) == known


def test_looks_at_other_faces_in_between_hide_none(tmp_path: Path) -> None:
    look(tmp_path, OTHER)
    look(tmp_path, decisions={"x": "y"})
    first = looked_before(tmp_path, TEST, {"x": "z"})
    assert first is not None and first["decided"] == ["x"]


def test_a_plan_counts_where_every_look_at_its_sets_came_after_it(tmp_path: Path) -> None:
    sets = {"test": TEST}
    assert planned_before(tmp_path, sets, "plan")
    look(tmp_path, OTHER)
    look(tmp_path, plan="plan")
    assert planned_before(tmp_path, sets, "plan")
    assert not planned_before(tmp_path, sets, "another")
    look(tmp_path, plan=None)
    assert not planned_before(tmp_path, sets, "plan")


def test_a_look_at_one_face_of_a_set_is_a_look_at_it(tmp_path: Path) -> None:
    """A set that grew or shrank by a face since is no new one."""
    look(tmp_path, [*OTHER, TEST[0]])
    assert not planned_before(tmp_path, {"test": TEST}, "plan")
    assert planned_before(tmp_path, {"test": TEST[1:]}, "plan")


def test_faces_are_written_once(tmp_path: Path) -> None:
    look(tmp_path)
    look(tmp_path, plan="p" * 64)
    first, second = read_looks(tmp_path)
    assert first.sets == second.sets and second.faces == {} and second.plan == "p" * 64
    assert next(iter(first.faces.values())) == tuple(TEST)


@pytest.mark.parametrize("whole", [0, 2])
def test_a_line_that_a_killed_process_left_half_written_is_no_look(
    tmp_path: Path, whole: int
) -> None:
    for _ in range(whole + 1):
        look(tmp_path)
    path = tmp_path / LOOKS_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:whole]) + lines[whole][:-30])
    assert len(read_looks(tmp_path)) == whole
    look(tmp_path, asset="report")
    assert [entry.asset for entry in read_looks(tmp_path)] == ["benchmark"] * whole + ["report"]


@pytest.mark.parametrize("taken", [0, 1])
def test_a_line_that_is_taken_out_or_changed_is_seen(tmp_path: Path, taken: int) -> None:
    for _ in range(3):
        look(tmp_path)
    path = tmp_path / LOOKS_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for number, line in enumerate(lines) if number != taken))
    with refused("invalid-looks-ledger") as caught:
        looked_before(tmp_path, TEST, BEFORE)
    assert caught.value.where == f"{path}:{taken + 1}"
    lines[taken] = lines[taken].replace(b'"benchmark"', b'"something"')
    path.write_bytes(b"".join(lines))
    with refused("invalid-looks-ledger"):
        look(tmp_path)
