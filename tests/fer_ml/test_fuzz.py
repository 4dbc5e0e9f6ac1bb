"""Mutated files of every kind that comes from elsewhere: a result or a ``FerError``, and no harm.

The full counts run on demand: ``pytest -m proof tests/fer_ml/test_fuzz.py -s``. Each file must be
dealt with in ``SECONDS`` of computing and within ``MEMORY`` beyond what was held before;
nothing outside the test's own folder may be written, made or removed, nor read.
"""

import io
import json
import os
import random
import signal
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.npz import read_npz
from fer_ml.bundles.bundle import CARD_FILE, Card, read_card
from fer_ml.bundles.network import open_network, read_network
from fer_ml.claims.model import read_claims
from fer_ml.images.inspection import Shard, look_at
from fer_ml.images.pixels import MAX_PIXELS, read_image
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.sources.affectnet_yolo import class_names
from fer_ml.storage.store import Store
from fer_ml.validation.report import validate_file
from tests.machine import POSIX
from tests.refusals import refused

resource = pytest.importorskip("resource", reason="time and memory are limited as POSIX does")
pytestmark = POSIX
SECONDS = 5
#: The largest image that is let in decodes to three bytes a pixel, and is held twice while its
#: colours are put in order.
MEMORY = 2 * 3 * MAX_PIXELS
SEED = 8

#: What breaks parsers: ends, paths that climb, numbers at their limits, words of other formats.
NASTY = (
    b"../../../etc/passwd",
    b"/etc/passwd",
    b"\0",
    b'"',
    b"\r\n",
    b"\xff\xfe",
    b"\xf0\x9f\x98\x80",
    b"NaN",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"&a [*a, *a]",
    b"!!python/object/apply:os.system [id]",
    b"<script>",
    b"=cmd|'/c calc'!A0",
    b"," * 50,
)


def mutate(data: bytes, chosen: random.Random) -> bytes:
    """``data`` with one to four changes: bits, bytes, pieces cut, doubled, moved or put in."""
    held = bytearray(data)
    for _ in range(chosen.choice((1, 1, 2, 4))):
        at = chosen.randrange(len(held) + 1)
        size = chosen.choice((1, 2, 4, 16, 200))
        how = chosen.randrange(7)
        if how == 0 and at < len(held):
            held[at] ^= 1 << chosen.randrange(8)
        elif how == 1:
            held[at : at + size] = chosen.randbytes(size)
        elif how == 2:
            del held[at : at + size]
        elif how == 3:
            held[at:at] = held[at : at + size] * chosen.choice((1, 3, 50))
        elif how == 4:
            held[at:at] = chosen.choice(NASTY)
        elif how == 5:
            held[at : at + size] = chosen.choice(NASTY)
        else:
            del held[at:]
    return bytes(held)


def mutate_inside(data: bytes, chosen: random.Random) -> bytes:
    """An archive whose members are mutated half of the time: a checksum guards the whole."""
    if chosen.random() < 0.5:
        return mutate(data, chosen)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        hit = chosen.choice(old.namelist())
        for name in old.namelist():
            held = old.read(name)
            # The header, which says type and shape, is the first 128 bytes.
            cut = chosen.choice((128, len(held)))
            changed = mutate(held[:cut], chosen) + held[cut:]
            new.writestr(name, changed if name == hit else held)
    return buffer.getvalue()


class _Audit:
    """Notes what Python opens, makes and removes outside ``own``; hooks cannot be taken away."""

    CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink")

    def __init__(self) -> None:
        self.own: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.own is None or (event != "open" and event not in self.CHANGES):
            return
        path = arguments[0]
        if not isinstance(path, str | bytes):
            return
        name = os.path.realpath(os.fsdecode(path))
        code = name.endswith((".py", ".pyc", ".so", ".pem", ".json")) and "/lib/" in name
        # From Python 3.13 on a warning looks for the line of code that it came from.
        code |= os.fsdecode(path) == "<string>"
        harmless = event == "open" and (code or name.startswith(("/proc/", "/sys/", "/dev/")))
        if not harmless and not name.startswith(f"{self.own}/") and name != str(self.own):
            self.seen.append(f"{event} {name}")


AUDIT = _Audit()


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Time, memory and places of what happens inside."""

    def late(number: int, _: Any) -> None:
        raise TimeoutError(f"{signal.Signals(number).name}: it hangs")

    # Time of computing, since on a busy machine the clock goes on while nothing is done here; by
    # the clock only what waits for ever is found.
    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, SECONDS),
        signal.SIGALRM: (signal.ITIMER_REAL, 60 * SECONDS),
    }
    before = {number: signal.signal(number, late) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    AUDIT.own, AUDIT.seen = folder.resolve(), []
    try:
        yield
    finally:
        AUDIT.own = None
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
    assert AUDIT.seen == []


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attack(
    folder: Path,
    seeds: list[bytes],
    name: str,
    read: Callable[[Path], object],
    count: int,
    change: Callable[[bytes, random.Random], bytes] = mutate,
) -> Counter[str]:
    """Read ``count`` mutations of ``seeds``; how many were read, and how many refused."""
    chosen = random.Random(SEED)
    ended: Counter[str] = Counter()
    path = folder / name
    path.write_bytes(seeds[0])
    read(path)  # What is imported and allocated once does not count.
    peak = _peak()
    for number in range(count):
        data = change(chosen.choice(seeds), chosen)
        path.write_bytes(data)
        with watched(folder):
            try:
                read(path)
                ended["read"] += 1
            except FerError:
                ended["refused"] += 1
            except BaseException:
                kept = Path(os.environ.get("FER_FUZZ_KEEP", folder)) / f"{number}-{name}"
                kept.write_bytes(data)
                raise
    grown = _peak() - peak
    assert grown < MEMORY, f"{grown:,} bytes more than before"
    print(f"\n{name}: {dict(ended)}, {grown / 2**20:.0f} MiB more than before")
    return ended


def counts(few: int, many: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "count", [few, pytest.param(many, marks=pytest.mark.proof, id=str(many))]
    )


@counts(40, 10_000)
@pytest.mark.threat(
    "any other damage",
    "Mutated files give a result or one clear error, within bounded time and memory. A changed "
    "artifact root grounds no claim.",
)
def test_manifests(tmp_path: Path, manifest_in: Callable[..., pl.DataFrame], count: int) -> None:
    root = tmp_path / "root"
    plain = manifest_in(root, 6)
    boxed = plain.with_columns(
        pl.lit(2).alias("bbox_left"),
        pl.lit(3).alias("bbox_top"),
        pl.lit(20).alias("bbox_right"),
        pl.lit(21).alias("bbox_bottom"),
        pl.lit("photo").alias("bbox_frame"),
    )
    four = plain.select("image_path", "label", "split", "source")
    seeds = [frame.write_csv().encode() for frame in (plain, boxed, four)]
    ended = attack(
        tmp_path,
        seeds,
        "any.csv",
        lambda path: validate_file(path, [root], tmp_path / "cache"),
        count,
    )
    assert min(ended["read"], ended["refused"]) > 0


def pictures() -> list[bytes]:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    found = [cv2.imencode(end, pixels)[1].tobytes() for end in (".png", ".jpg", ".bmp", ".webp")]
    found += [cv2.imencode(end, pixels[..., 0])[1].tobytes() for end in (".png", ".tif", ".jpg")]
    from PIL import Image

    for kind in ("GIF", "TIFF", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).quantize(16).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def look_and_read(path: Path) -> None:
    """Both ways in: the look of cleaning and validation, and what training decodes."""
    thumbs = path.with_name("thumbs")
    thumbs.write_bytes(bytes(2 * 576))
    shard = Shard(str(path.parent), [path.name], {0: [None, (1, 1, 20, 20)]}, str(thumbs), 0)
    state = int(look_at(shard).state[0])
    image = read_image(path)
    if state == 0:
        assert image.shape[2] == 3


@counts(150, 2_000)
@pytest.mark.threat("any other damage")
def test_images(tmp_path: Path, count: int) -> None:
    ended = attack(tmp_path, pictures(), "any.png", look_and_read, count)
    assert min(ended["read"], ended["refused"]) > 0


def card() -> bytes:
    made = Card(
        name="s",
        profile="p",
        architecture="a",
        classes=CLASSES,
        preprocess=Preprocess(size=16),
        temperature=2.0,
        unsure_below=0.5,
        model_sha256="0" * 64,
        checkpoint_sha256="0" * 64,
        data="d",
        licence="l",
        intended_use="i",
    )
    return json.dumps(made.model_dump(mode="json")).encode()


def run_folder(folder: Path, name: str) -> tuple[bytes, Callable[[Path], object]]:
    """One of the store's own files, and reading it as every consumer does."""
    store = Store(folder / "home", "test")
    with store.begin("thing") as run:
        run.write_text("a.txt", "hello")
    artifact = store.current("thing")
    assert artifact is not None
    target = artifact.folder / name if name == "record.json" else store.home("thing") / name
    seed = target.read_bytes()

    def read(path: Path) -> object:
        target.write_bytes(path.read_bytes())
        return store.verified("thing")

    return seed, read


def packed_job(folder: Path) -> tuple[bytes, Callable[[Path], object]]:
    from fer_ml.packed.format import Step, read_about, read_job, write_job
    from fer_ml.recipes.training import CE, Training

    held = folder / "job"
    held.mkdir()
    (held / "rows.npz").write_bytes(b"rows")
    recipe = Training(architecture="resnet18", task=CE(), init="none", epochs=1)
    write_job(
        held,
        steps=[Step("student_ce", recipe), Step("teacher[RN18]", recipe, previous="student_ce")],
        seed=1,
        preprocess=Preprocess(size=16),
        manifest_sha256="0" * 64,
        about={"student_ce": {"asset": "student_ce", "partition": None}},
    )
    target = held / "job.json"

    def read(path: Path) -> object:
        target.write_bytes(path.read_bytes())
        job = read_job(held)
        for step in job.steps:
            assert (folder / step.folder).resolve().parent == folder.resolve()
        return read_about(target)

    return target.read_bytes(), read


def adopted_report(folder: Path) -> tuple[bytes, Callable[[Path], object]]:
    from fer_ml.adoption.folder import named_hashes, recognise

    held = folder / "run"
    held.mkdir()
    (held / "eval_meta.json").write_text("{}")
    target = held / "alignmentreport.json"
    report = {"rows_total": 3, "manifest": "a.csv", "manifest_sha256": "0" * 64}

    def read(path: Path) -> object:
        data = path.read_bytes()
        target.write_bytes(data)
        (held / "manifest_validation.json").write_bytes(data)
        return named_hashes(recognise(held)), recognise(held / "manifest_validation.json")

    return json.dumps({**report, "paths": report}).encode(), read


JSON: dict[str, Callable[[Path], tuple[bytes, Callable[[Path], object]]]] = {
    "card": lambda folder: (card(), lambda path: read_card(path.parent)),
    "record": lambda folder: run_folder(folder, "record.json"),
    "current": lambda folder: run_folder(folder, "current.json"),
    "job": packed_job,
    "adopted": adopted_report,
}


@pytest.mark.parametrize("kind", JSON)
@counts(40, 500)
def test_json(tmp_path: Path, kind: str, count: int) -> None:
    seed, read = JSON[kind](tmp_path)
    ended = attack(tmp_path, [seed], CARD_FILE if kind == "card" else f"{kind}.json", read, count)
    assert ended["refused"] > 0


@counts(60, 500)
def test_yaml(tmp_path: Path, count: int) -> None:
    root = Path(__file__).parents[2]
    claims = [(root / "claims" / f"{name}.yaml").read_bytes() for name in ("sample", "paper")]
    attack(tmp_path, claims, "claims.yaml", read_claims, count)
    index = b"path: ../x\nnames: [Happy, Sad]\nnc: 2\nroboflow:\n  project: a\n  version: 1\n"
    attack(tmp_path, [index], "data.yaml", class_names, count)


def networks() -> list[bytes]:
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    head = np.random.default_rng(1).normal(size=(4, 7)).astype(np.float32)
    size = numpy_helper.from_array(np.array([1, 4, 14, 14]), "size")

    def made(extra: list[onnx.NodeProto], last: str) -> bytes:
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["input", "w"], ["c"], kernel_shape=[3, 3]),
                *extra,
                helper.make_node("GlobalAveragePool", [last], ["p"]),
                helper.make_node("Flatten", ["p"], ["f"]),
                helper.make_node("MatMul", ["f", "h"], ["logits"]),
            ],
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 16, 16])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 7])],
            [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(head, "h"), size],
        )
        opset = [helper.make_opsetid("", 18)]
        return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()

    return [
        made([helper.make_node("Relu", ["c"], ["r"])], "r"),
        made([helper.make_node("Expand", ["c", "size"], ["e"])], "e"),
    ]


def run_network(path: Path) -> None:
    session = open_network(read_network(path, 16), path)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        return
    try:
        session.run(None, {inputs[0].name: np.zeros((1, 3, 16, 16), np.float32)})
    except Exception as error:  # Whoever runs one says what it fails on: see external.
        raise FerError(str(error), code="network-failed") from error


@counts(60, 500)
def test_onnx(tmp_path: Path, count: int) -> None:
    ended = attack(tmp_path, networks(), "model.onnx", run_network, count)
    assert min(ended["read"], ended["refused"]) > 0


@counts(60, 500)
def test_npz(tmp_path: Path, count: int) -> None:
    arrays = {
        "logits": np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32),
        "y": np.arange(9),
        "names": np.array(["a", "b"]),
    }
    seeds = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **arrays)
        seeds.append(buffer.getvalue())
    ended = attack(tmp_path, seeds, "any.npz", read_npz, count, mutate_inside)
    assert min(ended["read"], ended["refused"]) > 0


@pytest.mark.threat("a small file unpacks to a huge one")
def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", logits=np.zeros(10_000_000, np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    with refused("archive-too-large"):
        read_npz(tmp_path / "bomb.npz")


def test_a_header_that_numpy_only_warns_of_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3, np.float32))
    header = buffer.getvalue().replace(b"(3,), }  ", b"(3L,), } ")
    with zipfile.ZipFile(tmp_path / "any.npz", "w") as archive:
        archive.writestr("logits.npy", header)
    with refused("damaged-npz"):
        read_npz(tmp_path / "any.npz")


def test_objects_in_an_archive_are_not_made(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    np.savez(tmp_path / "any.npz", logits=np.array([Attack()], dtype=object))
    with refused("damaged-npz"):
        read_npz(tmp_path / "any.npz")
    assert not (tmp_path / "ran").exists()
