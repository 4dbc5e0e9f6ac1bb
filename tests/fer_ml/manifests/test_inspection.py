"""Looks at images: complete, contained, the same in one process and in several, and remembered."""

import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_ml.base.files import PATIENCE
from fer_ml.images.identity import photo_hash, sample_hash
from fer_ml.images.inspection import NO_KEY, THUMB_SIDE, Shard, file_key, look_at
from fer_ml.images.pixels import encode_png, read_image
from fer_ml.manifests import inspection as probe_module
from fer_ml.manifests import segments as segments_module
from fer_ml.manifests.inspection import Probe, how_checked, join_probes, path_fault, probe
from fer_ml.manifests.schema import BOX
from fer_ml.manifests.segments import NO_EDGE, RECORD, SUFFIX, SegmentWriter
from tests.machine import NUMBERED, pipe

Box = tuple[int | None, ...]


def face(seed: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def rows(*named: tuple[str | None, Box | None]) -> pl.DataFrame:
    return pl.DataFrame(
        [(name, *(box or (None,) * 4)) for name, box in named],
        schema={"image_path": pl.String, **dict.fromkeys(BOX, pl.Int64)},
        orient="row",
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "a").mkdir(parents=True)
    for seed in range(5):
        (folder / f"a/{seed}.png").write_bytes(encode_png(face(seed)))
    return folder


def look(frame: pl.DataFrame, root: Path, since: float = 0.0) -> Probe:
    return probe(lambda: [frame], root, root.parent / "cache", rows=frame.height, since=since)


def test_facts_of_a_face_and_of_two_faces_in_a_photo(root: Path) -> None:
    box = (4, 8, 40, 44)
    found = look(rows(("a/0.png", None), ("a/1.png", box), ("a/1.png", (0, 0, 9, 9))), root)
    image = face(1)
    photo = photo_hash(image)
    assert found.looks()["state"].to_list() == ["ok"] * 3
    assert found.looks()["format"].to_list() == ["PNG"] * 3
    assert found.looks()["image_width"].to_list() == [48] * 3
    assert found.looks()["photo"].to_list() == [photo_hash(face(0)), photo, photo]
    assert found.looks()["face"][1] == sample_hash(photo, box)
    wanted = cv2.resize(image[8:44, 4:40], (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA)
    assert np.array_equal(found.thumbs(np.array([1]))[0], wanted.ravel())
    assert found.looks()["brightness"][1] == pytest.approx(wanted.mean())


def test_the_hash_is_that_of_what_training_decodes(root: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    (root / "a/c.png").write_bytes(encode_png(colour))
    found = look(rows(("a/c.png", None), ("a/0.png", None)), root)
    for name, photo in zip(("a/c.png", "a/0.png"), found.looks()["photo"], strict=True):
        assert photo_hash(read_image(root / name)) == photo


def test_a_photo_that_must_be_turned_has_the_size_that_training_sees(root: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: a quarter turn.
    Image.new("RGB", (40, 20)).save(root / "a/t.jpg", exif=exif)
    found = look(rows(("a/t.jpg", None)), root)
    assert found.looks().select("image_width", "image_height").row(0) == (20, 40)
    assert read_image(root / "a/t.jpg").shape == (40, 20, 3)


def test_every_row_gets_an_answer(root: Path) -> None:
    (root / "a/empty.png").write_bytes(b"")
    found = look(
        rows(
            ("a/0.png", None),
            (None, None),
            ("", None),
            ("gone.png", None),
            ("../x.png", None),
            ("/etc/hosts", None),
            ("a/empty.png", None),
            ("a/0.png", (40, 40, 60, 60)),
        ),
        root,
    )
    assert found.looks()["state"].to_list() == [
        "ok",
        "missing",
        "missing",
        "missing",
        "escapes",
        "escapes",
        "undecodable",
        "ok",
    ]
    assert found.looks().filter(pl.col("state") != "ok")["detail"].null_count() == 0
    assert not found.thumbs(np.arange(1, 8)).any(), "no face, or a box outside: a black thumb"


def test_a_header_of_any_size_is_a_finding(root: Path) -> None:
    png = bytearray(encode_png(face(0)))
    png[16:20] = (2**31).to_bytes(4)
    (root / "a/wide.png").write_bytes(png)
    found = look(rows(("a/wide.png", None), ("a/0.png", None)), root)
    assert found.looks()["state"].to_list()[1] == "ok"
    assert found.looks()["state"][0] in ("oversized", "undecodable")


def test_several_processes_see_what_one_sees(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = rows(*((f"a/{i % 5}.png", (0, 0, 10 + i, 20)) for i in range(12)), ("gone", None))
    one = look(frame, root)
    monkeypatch.setattr(probe_module, "PARALLEL_FROM", 1)
    monkeypatch.setattr(probe_module, "SHARD_FILES", 2)
    several = look(frame, root, since=time.time())
    assert several.looks().equals(one.looks())
    every = np.arange(frame.height)
    assert np.array_equal(several.thumbs(every), one.thumbs(every))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_in_parts_is_seen_as_a_whole_one(root: Path, data: st.DataObject) -> None:
    """Whatever the parts and the buckets are, and however much of it is known already."""
    odd = ["bad.png", "gone", "../x", "/x", None]
    names = st.sampled_from(["a/0.png", "a/1.png", "a/2.png", *odd])
    box = st.sampled_from([None, (0, 0, 9, 9), (4, 8, 40, 44), (40, 40, 60, 60)])
    frame = rows(*data.draw(st.lists(st.tuples(names, box), max_size=12)))
    ends = data.draw(st.lists(st.integers(0, frame.height), max_size=3).map(sorted))
    parts = [frame[a:b] for a, b in pairwise([0, *ends, frame.height])]
    (root / "bad.png").write_bytes(b"text")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        whole = probe(lambda: [frame], root, Path(folder) / "whole", rows=frame.height)
        patch.setattr("fer_ml.base.buckets.ROWS_A_BUCKET", data.draw(st.integers(1, 9)))
        cache = Path(folder) / "parts"
        known = data.draw(st.integers(0, frame.height))
        probe(lambda: [frame[:known]], root, cache, rows=known)
        seen = probe(lambda: parts, root, cache, rows=frame.height)
        again = probe(lambda: parts, root, cache, rows=frame.height)
    for found in (seen, again):
        assert found.looks().drop("checked").equals(whole.looks().drop("checked"))
        by_part = [found.looks(a, b - a) for a, b in pairwise([0, *ends, frame.height])]
        assert pl.concat(by_part).equals(found.looks())
        faces = [face for part in found.faces() for face in part]
        assert faces == found.looks()["face"].to_list()
        rows_of = np.arange(frame.height)
        assert np.array_equal(found.thumbs(rows_of), whole.thumbs(rows_of))
    fresh = frame["image_path"].is_in(odd[1:-1]).fill_null(True)
    assert (again.looks()["checked"] == "decoded").equals(fresh, check_names=False)


class TestMemory:
    @NUMBERED
    def test_an_unchanged_file_is_known_under_any_name(self, root: Path) -> None:
        look(rows(("a/0.png", None)), root)
        os.link(root / "a/0.png", root / "b.png")
        found = look(rows(("b.png", None), ("a/0.png", None)), root)
        assert found.looks()["checked"].to_list() == ["unchanged", "unchanged"]
        assert found.looks()["photo"].to_list() == [photo_hash(face(0))] * 2

    def test_a_new_face_of_a_known_photo_is_decoded(self, root: Path) -> None:
        look(rows(("a/0.png", None)), root)
        found = look(rows(("a/0.png", (0, 0, 9, 9)), ("a/0.png", None)), root)
        assert found.looks()["checked"].to_list() == ["decoded", "unchanged"]
        again = look(rows(("a/0.png", (0, 0, 9, 9))), root)
        assert again.looks()["checked"].to_list() == ["unchanged"]
        assert np.array_equal(again.thumbs(np.array([0])), found.thumbs(np.array([0])))

    @pytest.mark.parametrize(
        "how", ["content", "time", pytest.param("replaced", marks=NUMBERED), "link"]
    )
    def test_what_changed_is_decoded(self, root: Path, how: str) -> None:
        path = root / "a/0.png"
        frame = rows(("a/0.png", None), ("a/1.png", None))
        look(frame, root)
        if how == "content":
            path.write_bytes(encode_png(face(9)))
        elif how == "time":
            os.utime(path, ns=(1, 1))
        elif how == "replaced":
            status = path.stat()
            path.rename(root / "old.png")
            path.write_bytes((root / "old.png").read_bytes())
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        else:
            path.unlink()
            path.symlink_to(root / "a/2.png")
        found = look(frame, root)
        assert found.looks()["checked"].to_list() == ["decoded", "unchanged"]

    def test_a_file_that_vanished_is_missing(self, root: Path) -> None:
        look(rows(("a/0.png", None)), root)
        (root / "a/0.png").unlink()
        assert look(rows(("a/0.png", None)), root).looks()["state"].to_list() == ["missing"]

    def test_a_failure_is_remembered_with_its_reason(self, root: Path) -> None:
        (root / "a/0.png").write_bytes(b"text")
        first, second = (look(rows(("a/0.png", None)), root) for _ in range(2))
        assert second.looks()["checked"].to_list() == ["unchanged"]
        assert second.looks()["detail"].to_list() == first.looks()["detail"].to_list()

    def test_looks_before_a_time_do_not_count(self, root: Path) -> None:
        frame = rows(("a/0.png", None))
        look(frame, root)
        start = time.time()
        assert look(frame, root, since=start).looks()["checked"].to_list() == ["decoded"]
        assert look(frame, root, since=start).looks()["checked"].to_list() == ["unchanged"]

    def test_a_damaged_or_deleted_memory_is_only_slower(self, root: Path) -> None:
        frame = rows(("a/0.png", None), ("a/1.png", None))
        look(frame, root)
        for file in (root.parent / "cache").glob("*.*"):
            file.write_bytes(b"damage")
        assert look(frame, root).looks()["checked"].to_list() == ["decoded", "decoded"]

    def test_many_segments_become_one(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segments_module, "MAX_SEGMENTS", 3)
        (root / "a/0.png").write_bytes(b"text")
        why = look(rows(("a/0.png", None)), root).looks()["detail"][0]
        for seed in range(5):
            look(rows((f"a/{seed}.png", None)), root)
        frame = rows(*((f"a/{seed}.png", None) for seed in range(5)))
        found = look(frame, root)
        assert found.looks()["checked"].to_list() == ["unchanged"] * 5
        assert found.looks()["detail"].to_list() == [why, None, None, None, None]
        assert len(list((root.parent / "cache").glob(f"*{SUFFIX}"))) <= 3
        small = [cv2.resize(face(s), (24, 24), interpolation=cv2.INTER_AREA) for s in range(1, 5)]
        assert np.array_equal(found.thumbs(np.arange(1, 5)), np.reshape(small, (4, -1)))

    def test_a_full_pass_replaces_what_it_looked_at_again(self, root: Path) -> None:
        cache = root.parent / "cache"
        look(rows(("a/0.png", None)), root)
        look(rows(("a/1.png", None), ("a/2.png", (0, 0, 9, 9))), root)
        frame = rows(("a/0.png", None), ("a/1.png", None))
        look(frame, root, since=time.time())
        assert len(list(cache.glob(f"*{SUFFIX}"))) == 2, "a/2.png is known from the second only"
        left = [f for f in cache.glob("*.thumbs") if not any(cache.glob(f"{f.stem}-*{SUFFIX}"))]
        assert len(list(cache.glob("*.thumbs"))) == 2 + len(left)
        assert not left or PATIENCE, "what is mapped is left on Windows alone"
        for file in left:
            os.utime(file, (0, 0))
        again = look(rows(("a/2.png", (0, 0, 9, 9)), ("a/0.png", None)), root)
        assert again.looks()["checked"].to_list() == ["unchanged"] * 2
        assert len(list(cache.glob("*.thumbs"))) == 2

    @pytest.mark.parametrize("suffix", ["thumbs", SUFFIX[1:]])
    def test_what_was_seen_is_looked_at_again_when_its_bytes_are_others(
        self, root: Path, suffix: str
    ) -> None:
        """A thumb decides which faces are near-identical, and so which split they are in."""
        frame = rows(("a/0.png", None), ("a/1.png", None))
        first = look(frame, root)
        thumbs = first.thumbs(np.arange(2)).copy()
        (file,) = (root.parent / "cache").glob(f"*.{suffix}")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        again = look(frame, root)
        assert again.looks()["checked"].to_list() == ["decoded"] * 2
        assert np.array_equal(again.thumbs(np.arange(2)), thumbs)
        assert look(frame, root).looks()["checked"].to_list() == ["unchanged"] * 2

    def test_no_cell_of_a_box_passes_for_an_empty_one(self, root: Path) -> None:
        """A manifest with odd boxes would spoil what is known of the face that has none."""
        odd = [(NO_EDGE,) * 4, (None, 8, 40, 44), (2**63 - 1,) * 4]
        look(rows(*(("a/0.png", box) for box in odd)), root)
        found = look(rows(("a/0.png", None), *(("a/0.png", box) for box in odd)), root)
        assert found.looks()["checked"].to_list() == ["decoded"] + ["unchanged"] * 3
        photo = photo_hash(face(0))
        assert found.looks()["face"][0] == photo
        assert photo not in found.looks()["face"][1:].to_list()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
    def test_a_full_disk_leaves_nothing(self, root: Path) -> None:
        with pytest.raises(OSError, match="No space"), SegmentWriter(root) as writer:
            writer._file.close()
            writer._file = Path("/dev/full").open("wb")  # noqa: SIM115
            writer.add(np.zeros(1, RECORD), {})
        assert [path.name for path in root.iterdir()] == ["a"]

    def test_a_killed_look_leaves_nothing_that_counts(self, root: Path) -> None:
        cache = root.parent / "cache"
        cache.mkdir()
        (cache / "1-abc.partial").write_bytes(b"half")
        (cache / "2-abc.thumbs").write_bytes(b"thumbs without their table")
        (cache / "0-abc.thumbs").write_bytes(b"the same, of yesterday")
        os.utime(cache / "0-abc.thumbs", (0, 0))
        assert look(rows(("a/0.png", None)), root).looks()["checked"].to_list() == ["decoded"]
        assert not (cache / "0-abc.thumbs").exists()


@pytest.mark.parametrize("number", [1, 2**63 - 1, 2**63, 2**64 - 1, 2**127 + 5, 2**128 - 1])
def test_files_are_known_by_numbers_of_any_size(number: int) -> None:
    """Windows gives 64 bits for a disk, and up to 128 for a file."""
    status = numbered(number, number)
    key = file_key(status, "a")
    assert np.array([key], np.int64).tolist() == [list(key)]
    assert key == file_key(status, "b"), "the same file under another name"
    assert file_key(numbered(number - 1 or 7, number), "a") != key


def test_a_file_of_any_time_has_a_key() -> None:
    times = (2**63 - 1, 2**63, -(2**40), 2**70)
    keys = [file_key(numbered(1, 1, time), "a") for time in times]
    assert len({tuple(key) for key in np.array(keys, np.int64)}) == len(times)


def numbered(inode: int, device: int, time: int = 10**9) -> os.stat_result:
    fields = (0o100644, inode, device, 1, 0, 0, 9, 1, 1, 1)
    return os.stat_result(fields, {"st_mtime_ns": time})


def test_a_file_without_a_number_is_known_by_its_path() -> None:
    status = numbered(0, 0)
    assert file_key(status, "/r/a") == file_key(status, "/r/a") != file_key(status, "/r/b")
    assert file_key(status, "/r/a")[0] != NO_KEY[0]
    assert file_key(status, "/r/\udcff")


def test_probes_are_joined_in_the_manifests_order(root: Path) -> None:
    one = look(rows(("a/0.png", None), ("a/1.png", None)), root)
    two = look(rows(("a/2.png", None)), root)
    both = join_probes([one, two], [np.array([0, 2]), np.array([1])])
    wanted = [photo_hash(face(seed)) for seed in (0, 2, 1)]
    assert both.looks()["photo"].to_list() == wanted
    small = [cv2.resize(face(s), (24, 24), interpolation=cv2.INTER_AREA) for s in (0, 2, 1)]
    assert np.array_equal(both.thumbs(np.arange(3)), np.reshape(small, (3, -1)))


def test_how_rows_were_checked_is_a_sentence(root: Path) -> None:
    look(rows(("a/0.png", None)), root)
    how = look(rows(("a/0.png", None), ("a/1.png", None)), root).how()
    assert (how["decoded"], how["unchanged"]) == (1, 1)
    assert how_checked(how) == (
        "1 rows read and decoded now, 1 unchanged on disk (size, time, inode) since a look on "
        + how["unchanged_since"]
    )


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a.png", None),
        ("a/b..c.png", None),
        ("a/...png", None),
        (".hidden", None),
        ("ä/é.png", None),
        (None, "no path"),
        ("", "no path"),
        ("a\0b", "NUL in the path"),
        ("/a", "absolute path"),
        ("\\a", "absolute path"),
        ("C:a", "absolute path"),
        ("a/..", "'..' in the path"),
        ("..\\a", "'..' in the path"),
    ],
)
def test_paths_below_a_folder(name: str | None, fault: str | None) -> None:
    frame = pl.DataFrame({"path": pl.Series([name], dtype=pl.String)})
    assert frame.select(path_fault("path").alias("fault"))["fault"].to_list() == [fault]


def test_a_pipe_does_not_wait_for_a_writer(root: Path) -> None:
    pipe(root / "pipe.png")
    (root / "thumbs").touch()
    found = look_at(Shard(str(root), ["pipe.png"], {}, str(root / "thumbs"), 0))
    assert found.details == {0: "not a regular file"}
