"""Cleaning a tiny source that has every fault: nothing is lost, nothing of it is touched."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fer_ml.errors import FerError
from fer_ml.images import encode_png, read_image
from fer_ml.manifests.cleaning import clean_source
from fer_ml.manifests.identity import photo_hash
from fer_ml.manifests.schema import read_manifest
from fer_ml.store import Artifact, Store
from tests.machine import LINKS

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
    ("one/b.png,happy,dev,,,,,,", "unknown split"),
)
EXCLUDED = ("one/b.png,contempt,train,,,,,,", "one/b.png,non-face,train,,,,,,")


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

    monkeypatch.setattr("os.link", refuse)
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


def test_a_source_without_a_usable_row_is_an_error_and_leaves_nothing(
    raw: Path, store: Store
) -> None:
    index(raw, *(line for line, _ in BAD[:5]), *EXCLUDED)
    with pytest.raises(FerError, match="none of its 7 rows") as caught:
        clean(raw, store)
    assert "3 undecodable" in caught.value.fix
    assert store.current("manifest/s") is None
    assert not list((store.root / ".partial").iterdir())


def test_a_name_too_long_for_a_file_is_quarantined(raw: Path, store: Store) -> None:
    index(raw, GOOD[0], "a" * 5000 + ".png,happy,train,,,,,,")
    assert table(clean(raw, store), "quarantine.csv")["rule"].to_list() == ["missing path"]


def test_the_longest_name_that_a_file_can_have_is_cleaned(raw: Path, store: Store) -> None:
    name = "a" * 251 + ".png"
    (raw / "one/a.png").rename(raw / name)
    index(raw, f"{name},happy,train,,,,,,")
    assert read_manifest(clean(raw, store).file("s.csv")).height == 1


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
