"""What the paths of a foreign manifest are relative to, on files that are there."""

from pathlib import Path

import polars as pl
import pytest

from fer_ml.validation.bases import TRIED, Base, apply_bases, find_bases


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(root: Path, *paths: str | None) -> list[Base]:
    return find_bases(pl.Series(paths, dtype=pl.String), [root])


@pytest.mark.parametrize(
    ("path", "cut"),
    [
        ("a/1.png", 0),
        ("/a/1.png", 1),
        ("old/project/a/1.png", 2),
        ("/home/somebody/a/1.png", 3),
        ("C:\\data\\a\\1.png", 2),
    ],
)
def test_leading_folders_are_cut_until_the_file_is_there(
    tmp_path: Path, path: str, cut: int
) -> None:
    touch(tmp_path, "a/1.png")
    (base,) = found(tmp_path, path)
    assert (base.root, base.cut, base.rows) == (str(tmp_path), cut, 1)
    applied = apply_bases(pl.DataFrame({"image_path": [path]}), [base])
    assert applied.rows() == [("a/1.png", str(tmp_path))]


@pytest.mark.parametrize("path", ["", "/", "a", "../out.png", "C:", "a\0.png", "a" * 300])
def test_what_is_no_way_to_a_file_has_no_base(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    touch(tmp_path, "out.png", "root/1.png", "root/a/2.png")
    bases = found(root, path)
    assert [base.root for base in bases] == [None]
    applied = apply_bases(pl.DataFrame({"image_path": [path]}), bases)
    assert applied.rows() == [(path, None)]


def test_each_beginning_has_its_own_base_and_what_has_none_stays(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "set/b/2.png")
    paths = ["x/a/1.png", None, "b/2.png", "gone/3.png"]
    bases = found(tmp_path, *paths)
    assert bases == [
        Base("x/", str(tmp_path), 1, 1),
        Base("b/", str(tmp_path / "set"), 0, 1),
        Base("gone/", None, 0, 1),
    ]
    assert apply_bases(pl.DataFrame({"image_path": paths}), bases).rows() == [
        ("a/1.png", str(tmp_path)),
        (None, None),
        ("b/2.png", str(tmp_path / "set")),
        ("gone/3.png", None),
    ]


@pytest.mark.parametrize("count", [1, 2, TRIED - 1, TRIED])
def test_of_a_few_paths_each_is_tried(tmp_path: Path, count: int) -> None:
    """One that is there is enough, wherever it stands."""
    for number in range(count):
        root = tmp_path / str(number)
        touch(root, f"a/{number}.png")
        (base,) = found(root, *(f"a/{n}.png" for n in range(count)))
        assert (base.root, base.rows) == (str(root), count)


def test_the_base_of_most_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.png", "1.png", "2.png")
    (base,) = found(tmp_path, "x/1.png", "x/2.png")
    assert base.cut == 1
