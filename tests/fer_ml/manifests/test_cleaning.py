"""Cleaning a tiny source that has every fault: nothing is lost, nothing of it is touched."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fer_ml.base.names import name_fault
from fer_ml.images.identity import photo_hash
from fer_ml.images.pixels import encode_png, read_image
from fer_ml.manifests.cleaning import clean_source
from fer_ml.manifests.schema import read_manifest
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store
from tests.machine import CASE, LINKS

HEADER = "file,label,split,confidence,face_id,bbox_left,bbox_top,bbox_right,bbox_bottom"
GOOD = (
    "one/a.png,happy,train,,,,,,",
    "two/a.png,sad,train,,,,,,",
    "photo.png,anger,test,0.9,0,0,0,10,12",
    "photo.png,fear,test,0.8,1,10,2,24,20",
)
#: Line, and the rule that must take it to quarantine.
BAD = (
    ("gone.png,happy,train,,,,,,", "missing path"),
    ("one,happy,train,,,,,,", "missing path"),
    ("empty.png,happy,train,,,,,,", "undecodable"),
    ("text.png,happy,train,,,,,,", "undecodable"),
    ("cut.png,happy,train,,,,,,", "undecodable"),
    ("photo.png,happy,train,,,0,0,25,20", "bad box"),
    ("photo.png,happy,train,,,-1,0,20,20", "bad box"),
    ("photo.png,happy,train,,,5,5,5,9", "bad box"),
    ("link.png,happy,train,,,,,,", "bad path" if LINKS else "missing path"),
    ("loop.png,happy,train,,,,,,", "missing path"),
    ("../secret.png,happy,train,,,,,,", "bad path"),
    ("one/a.png,happy,train,,,,,,", "duplicate row"),
    ("photo.png,fear,test,0.8,2,10,2,24,20", "duplicate row"),
    ("one/b.png,hapy,train,,,,,,", "bad label"),
    ("one/b.png,happy,fold,,,,,,", "unknown split"),
)
EXCLUDED = ("one/b.png,contempt,train,,,,,,", "one/c.png,non-face,train,,,,,,")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The publisher's folder, without its index."""
    from_seed = {"one/a.png": 1, "two/a.png": 2, "photo.png": 3, "one/b.png": 4}
    root = tmp_path / "raw"
    for name, seed in from_seed.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode_png(_noise(seed)))
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_bytes(b"no image")
    (root / "cut.png").write_bytes((root / "photo.png").read_bytes()[:300])
    (tmp_path / "secret.png").write_bytes(encode_png(_noise(5)))
    if LINKS:
        (root / "link.png").symlink_to(tmp_path / "secret.png")
        (root / "loop.png").symlink_to(root / "loop.png")
    return root


def _noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def index(root: Path, *lines: str) -> None:
    (root / "manifest.csv").write_text("\n".join([HEADER, *lines]) + "\n")


def clean(root: Path, store: Store) -> Artifact:
    with store.begin("manifest/s") as run:
        clean_source(
            run,
            source="s",
            adapter="csv_manifest",
            root=root,
            pool_base=store.root,
            cache=store.probe_cache,
        )
    artifact = store.current("manifest/s")
    assert artifact is not None
    return artifact


def table(artifact: Artifact, name: str) -> pl.DataFrame:
    return pl.read_csv(artifact.file(name), infer_schema=False)


def everything(root: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_every_row_ends_in_one_of_three_tables(raw: Path, store: Store) -> None:
    index(raw, *GOOD, *(line for line, _ in BAD), *EXCLUDED)
    artifact = clean(raw, store)
    kept = read_manifest(artifact.file("s.csv"))
    quarantine, excluded = table(artifact, "quarantine.csv"), table(artifact, "excluded.csv")
    assert kept.height == len(GOOD)
    assert quarantine["rule"].to_list() == [rule for _, rule in BAD]
    assert excluded["rule"].to_list() == ["contempt", "not a face"]
    # Every line of the index is in exactly one table: those left out say where they stood.
    lines = [int(where.rpartition(":")[2]) for where in [*quarantine["where"], *excluded["where"]]]
    assert sorted(lines) == list(range(2 + len(GOOD), 2 + len(GOOD) + len(BAD) + len(EXCLUDED)))
    report = artifact.read_json("clean_report.json")["reports"][0]
    assert report["rows_in"] == len(GOOD) + len(BAD) + len(EXCLUDED)
    assert report["rows_in"] == (
        report["rows_kept"] + report["rows_excluded"] + report["rows_quarantined"]
    )
    assert sum(report["quarantined"].values()) == len(BAD)
    assert report["missing_images"] == (3 if LINKS else 4)
    assert all(detail for detail in quarantine["detail"])


def test_manifest_rows_say_what_the_publisher_said(raw: Path, store: Store) -> None:
    index(raw, *GOOD)
    rows = read_manifest(clean(raw, store).file("s.csv")).sort("orig_image", "face_id")
    assert rows["label"].to_list() == ["Happy", "Angry", "Fear", "Sad"]
    assert rows["split"].to_list() == ["train", "test", "test", "train"]
    assert rows["bbox_right"].to_list() == [None, 10, 24, None]
    assert rows["bbox_frame"].to_list() == [None, "photo", "photo", None]
    assert rows["confidence"].to_list() == [None, 0.9, 0.8, None]
    for image, sample, group, path in rows.select(
        "orig_image", "sample_id", "group_id", "image_path"
    ).iter_rows():
        photo = photo_hash(read_image(raw / image))
        assert group == photo
        assert (sample == photo) == (image != "photo.png")
        assert photo_hash(read_image(store.root / path)) == photo
    assert rows["sample_id"].n_unique() == 4
    assert rows["group_id"].n_unique() == 3


def test_originals_are_untouched_and_linked(raw: Path, store: Store) -> None:
    index(raw, *GOOD, *(line for line, _ in BAD))
    before = everything(raw)
    rows = read_manifest(clean(raw, store).file("s.csv"))
    assert everything(raw) == before
    for original, path in rows.select("orig_image", "image_path").iter_rows():
        assert (store.root / path).samefile(raw / original)


def test_equal_names_do_not_collide(raw: Path, store: Store) -> None:
    index(raw, "one/a.png,happy,train,,,,,,", "two/a.png,happy,train,,,,,,")
    rows = read_manifest(clean(raw, store).file("s.csv"))
    assert rows["image_path"].n_unique() == 2
    assert all(path.startswith("cleaned/s/train/Happy/a__") for path in rows["image_path"])


def test_cleaning_twice_gives_the_same_bytes_and_no_leftovers(raw: Path, store: Store) -> None:
    index(raw, *GOOD, *(line for line, _ in BAD), *EXCLUDED)
    first = clean(raw, store)
    pool = everything(store.root / "cleaned")
    assert clean(raw, store).sha256 == first.sha256
    assert everything(store.root / "cleaned") == pool
    assert len(pool) == 3


def test_an_edited_original_gets_another_name(raw: Path, store: Store) -> None:
    """The old link shows the edit too, so its name's hash must not be believed."""
    index(raw, "one/a.png,happy,train,,,,,,")
    old = read_manifest(clean(raw, store).file("s.csv"))
    (raw / "one/a.png").write_bytes(encode_png(_noise(9)))
    new = read_manifest(clean(raw, store).file("s.csv"))
    assert new["image_path"][0] != old["image_path"][0]
    assert new["sample_id"][0] != old["sample_id"][0]


def test_across_disks_images_are_copied(
    raw: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, os.strerror(18))  # EXDEV

    monkeypatch.setattr(os, "link", refuse)
    index(raw, *GOOD)
    for _ in range(2):
        rows = read_manifest(clean(raw, store).file("s.csv"))
    for original, path in rows.select("orig_image", "image_path").iter_rows():
        assert (store.root / path).read_bytes() == (raw / original).read_bytes()
        assert not (store.root / path).samefile(raw / original)


def test_inline_pixels_are_written_and_identified(tmp_path: Path, store: Store) -> None:
    root = tmp_path / "fer2013"
    root.mkdir()
    pixels = [" ".join(str((i * k) % 256) for i in range(2304)) for k in (3, 7)]
    (root / "fer2013.csv").write_text(
        "emotion,pixels,Usage\n"
        + "".join(f"{i},{p},Training\n" for i, p in enumerate([*pixels, pixels[0]]))
    )
    with store.begin("manifest/s") as run:
        clean_source(
            run,
            source="s",
            adapter="fer2013_csv",
            root=root,
            pool_base=store.root,
            cache=store.probe_cache,
        )
    artifact = store.current("manifest/s")
    assert artifact is not None
    rows = read_manifest(artifact.file("s.csv"))
    assert rows.height == 3
    assert rows["group_id"].n_unique() == 2
    for path, width in rows.select("image_path", "width").iter_rows():
        assert read_image(store.root / path).shape == (48, 48, 3)
        assert width == 48


def test_a_source_without_a_usable_row_tells_of_each(raw: Path, store: Store) -> None:
    """The gates refuse it; the rows and their reasons are there to be read."""
    index(raw, *(line for line, _ in BAD[:5]), *EXCLUDED)
    artifact = clean(raw, store)
    assert read_manifest(artifact.file("s.csv")).height == 0
    assert table(artifact, "quarantine.csv")["rule"].to_list() == [rule for _, rule in BAD[:5]]
    assert table(artifact, "excluded.csv").height == 2


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (("a.png,happy,train", "a.png,sad,train"), "label Happy, Sad"),
        (("a.png,happy,train", "a.png,happy,test"), "split train, test"),
        (("a.png,happy,train", "a.png,contempt,train"), "label Happy, contempt"),
        (("a.png,happy,train", "./a.png,sad,val"), "label Happy, Sad; split train, val"),
        (("x/a.png,happy,train", "x//a.png,sad,train", "x/./a.png,fear,train"), "label Happy, Sad"),
        (("x/a.png,happy,train", "x\\a.png,sad,train"), "label Happy, Sad"),
        (("a.png,happy,train,0.5", "a.png,happy,train,0.9"), "confidence 0.5, 0.9"),
    ],
)
def test_lines_that_contradict_each_other_are_all_refused(
    raw: Path, store: Store, lines: tuple[str, ...], found: str
) -> None:
    put(raw, "a.png", 7)
    put(raw, "x/a.png", 8)
    full = [line + "," * (8 - line.count(",")) for line in lines]
    index(raw, full[0], GOOD[0], *full[1:], GOOD[0])
    artifact = clean(raw, store)
    rows = read_manifest(artifact.file("s.csv"))
    assert rows["orig_image"].to_list() == ["one/a.png"]
    told = table(artifact, "quarantine.csv")
    assert told["rule"].to_list() == ["conflicting rows"] * len(lines) + ["duplicate row"]
    assert found in told["detail"][0]
    assert "manifest.csv:2, manifest.csv:4" in told["detail"][0]
    report = artifact.read_json("clean_report.json")["reports"][0]
    assert report["rows_in"] == report["rows_kept"] + report["rows_quarantined"]


def test_names_that_the_disk_takes_for_one_are_one(raw: Path, store: Store) -> None:
    """A second name of the file stands for a disk without upper and lower case."""
    put(raw, "a.png", 7)
    if not (raw / "A.png").exists():
        os.link(raw / "a.png", raw / "A.png")
    index(raw, "a.png,happy,train,,,,,,", "A.png,sad,train,,,,,,", GOOD[0])
    assert table(clean(raw, store), "quarantine.csv")["rule"].to_list() == ["conflicting rows"] * 2


def test_notes_steer_no_terminal(raw: Path, store: Store) -> None:
    index(raw, GOOD[0], "b.png,\x1b[2KFit\u202e,train,,,,,,")
    artifact = clean(raw, store)
    for name in ("quarantine.csv", "labels.csv"):
        text = artifact.file(name).read_text("utf-8")
        assert r"\x1b[2KFit\u202e" in text
        assert not {"\x1b", "\u202e"} & set(text)


def test_a_name_too_long_for_a_file_is_quarantined(raw: Path, store: Store) -> None:
    index(raw, GOOD[0], "a" * 5000 + ".png,happy,train,,,,,,")
    assert table(clean(raw, store), "quarantine.csv")["rule"].to_list() == ["missing path"]


def test_the_longest_name_that_a_file_can_have_is_cleaned(raw: Path, store: Store) -> None:
    name = "a" * 251 + ".png"
    (raw / "one/a.png").rename(raw / name)
    index(raw, f"{name},happy,train,,,,,,")
    assert read_manifest(clean(raw, store).file("s.csv")).height == 1


def put(root: Path, name: str, seed: int) -> None:
    """An image of the publisher's, or a skipped test where it cannot be called so."""
    try:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode_png(_noise(seed)))
    except OSError:
        pytest.skip("nothing can be called so here")


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("a:b?c.png", "a_b_c__{}.png"),
        ('12" <x>|*.PNG', "12_ _x_____{}.png"),
        ("con.x.png", "_con.x__{}.png"),
        ("NUL.png", "NUL__{}.png"),
        ("a.p?g", "a__{}.p_g"),
        ("a.png ", "a__{}.png"),
        ("e\u0301.png", "\u00e9__{}.png"),
        ("a b-(1).jpeg", "a b-(1)__{}.jpeg"),
    ],
)
def test_cleaned_names_are_names_on_every_system(
    tmp_path: Path, store: Store, name: str, cleaned: str
) -> None:
    root = tmp_path / "raw"
    put(root, f"Happy/{name}", 1)
    with store.begin("manifest/s") as run:
        clean_source(
            run,
            source="s",
            adapter="class_folders",
            root=root,
            pool_base=store.root,
            cache=store.probe_cache,
        )
    artifact = store.current("manifest/s")
    assert artifact is not None
    row = read_manifest(artifact.file("s.csv")).row(0, named=True)
    wanted = cleaned.format(row["group_id"][:10])
    assert row["image_path"] == f"cleaned/s/unassigned/Happy/{wanted}"
    assert row["orig_image"] == f"Happy/{name}", "the publisher's name is kept as it is"
    assert name_fault(wanted) is None
    assert (store.root / row["image_path"]).read_bytes() == (root / "Happy" / name).read_bytes()


@CASE
def test_two_names_of_the_same_pixels_that_differ_in_case_are_one_file(
    tmp_path: Path, store: Store
) -> None:
    root = tmp_path / "raw"
    for name in ("A.png", "a.PNG", "b.png"):
        put(root, name, 1)
    put(root, "B.png", 2)
    index(root, *(f"{name},happy,train,,,,,," for name in ("A.png", "a.PNG", "b.png", "B.png")))
    rows = read_manifest(clean(root, store).file("s.csv")).sort("orig_image")
    assert rows["orig_image"].to_list() == ["A.png", "B.png", "a.PNG", "b.png"]
    assert rows["image_path"].str.to_lowercase().n_unique() == rows["image_path"].n_unique() == 3
    assert rows["image_path"][0] == rows["image_path"][2]
    assert len(everything(store.root / "cleaned")) == 3


def test_where_files_have_no_numbers_a_copy_is_known_and_nothing_else(
    raw: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on FAT: every inode is 0, and there are no hard links."""
    for name in ("stat", "lstat", "fstat"):
        monkeypatch.setattr(os, name, unnumbered(getattr(os, name)))
    monkeypatch.setattr("fer_ml.manifests.cleaning.linked", lambda *_: False)
    index(raw, *GOOD)
    first = clean(raw, store)
    assert first.record.summary["images_copied"] == 3
    rows = read_manifest(first.file("s.csv"))
    for image, path in rows.select("orig_image", "image_path").iter_rows():
        assert (store.root / path).read_bytes() == (raw / image).read_bytes()
    assert clean(raw, store).sha256 == first.sha256
    # Another file of the same size and time is another one, since it is not known by its number.
    time = (raw / "one/a.png").stat().st_mtime_ns
    data = bytearray((raw / "two/a.png").read_bytes())
    old = (raw / "one/a.png").stat().st_size
    data += bytes(old - len(data)) if len(data) < old else b""
    (raw / "one/c.png").write_bytes(bytes(data))
    os.utime(raw / "one/c.png", ns=(time, time))
    index(raw, GOOD[0], "one/c.png,happy,train,,,,,,")
    found = read_manifest(clean(raw, store).file("s.csv"))
    assert found["sample_id"].n_unique() == 2


def unnumbered(function: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
    def seen(*arguments: Any, **named: Any) -> os.stat_result:
        kind, (fields, more) = function(*arguments, **named).__reduce__()  # type: ignore[misc]
        return kind((fields[0], 0, 0, *fields[3:]), more)  # type: ignore[operator]

    return seen


def test_what_is_linked_from_outside_the_root_is_quarantined_not_followed(
    tmp_path: Path, store: Store
) -> None:
    root, disk = tmp_path / "raw", tmp_path / "disk/Happy"
    (root / "train/Sad").mkdir(parents=True)
    disk.mkdir(parents=True)
    (root / "train/Sad/a.png").write_bytes(encode_png(_noise(1)))
    (disk / "b.png").write_bytes(encode_png(_noise(2)))
    (root / "train/Happy").symlink_to(disk)
    with store.begin("manifest/s") as run:
        clean_source(
            run,
            source="s",
            adapter="split_folders",
            root=root,
            pool_base=store.root,
            cache=store.probe_cache,
        )
    artifact = store.current("manifest/s")
    assert artifact is not None
    assert table(artifact, "quarantine.csv")["rule"].to_list() == ["bad path"]
