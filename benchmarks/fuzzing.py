"""Fuzzing by coverage, on demand: files that reach new code of a reader are changed further.

    pip install atheris            # Linux, Python 3.11 to 3.13
    python -m benchmarks.fuzzing checkpoint --seconds 300
    python -m benchmarks.fuzzing image --seconds 300 --corpus corpus/image

A reader may give a result or a ``FerError``. Anything else, 5 seconds for one file, or 2 GB of
memory ends the run; the file is kept as ``crash-*``, ``timeout-*`` or ``oom-*``. Seeds are made
here, synthetic ones. ``--corpus`` keeps what reached new code, for the next run.
"""

import argparse
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np
import torch
from PIL import Image

ROOMS = ("base", "bundles", "claims", "images", "packed", "sources", "storage", "training")
READERS = [*(f"fer_ml.{room}" for room in ROOMS), "pickletools"]
with atheris.instrument_imports(include=READERS):
    from fer_ml.adoption.folder import recognise
    from fer_ml.base.errors import FerError
    from fer_ml.base.npz import read_npz
    from fer_ml.base.plain_yaml import read_plain
    from fer_ml.bundles.bundle import CARD_FILE
    from fer_ml.bundles.network import check_network
    from fer_ml.claims.formulas import parse
    from fer_ml.claims.model import read_claims
    from fer_ml.images.pixels import decode
    from fer_ml.sources import get_adapter
    from fer_ml.training.archive import read_archive

from tests.fer_ml.test_fuzz import JSON, networks  # noqa: E402 - after what is instrumented

HERE = Path(tempfile.mkdtemp(prefix="fuzzing-"))
ANY = HERE / "any"
Door = tuple[Callable[[bytes], object], Callable[[], list[bytes]]]


def through_file(read: Callable[[Path], object], name: str = "any") -> Callable[[bytes], object]:
    """``read`` of a file that holds the bytes."""

    def once(data: bytes) -> object:
        path = HERE / name
        path.write_bytes(data)
        return read(path)

    return once


def pickle_of(read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """``read`` of an archive of torch whose pickle is the bytes: a checksum guards the whole."""

    def once(data: bytes) -> object:
        with zipfile.ZipFile(ANY, "w") as archive:
            for name, held in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n")):
                archive.writestr(f"archive/{name}", held)
            archive.writestr("archive/data/0", bytes(64))
        return read(ANY)

    return once


def checkpoints() -> list[bytes]:
    """Files of torch.save."""
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.zeros(3)}, "args": {"a": [1, 2.5, None, "x"]}}, buffer)
    return [buffer.getvalue()]


def pickles() -> list[bytes]:
    """The pickle of each."""
    return [zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl") for data in checkpoints()]


def pictures() -> list[bytes]:
    """A small picture in each format, and a phone's of two."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10, 3), np.uint8)
    image, found = Image.fromarray(pixels), []
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "MPO"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def arrays() -> list[bytes]:
    """An npz."""
    buffer = io.BytesIO()
    np.savez(buffer, logits=np.zeros((3, 7), np.float32), y=np.arange(3))
    return [buffer.getvalue()]


def yaml(data: bytes) -> object:
    """The YAML reader says ``ValueError``, and its callers where."""
    with suppress(ValueError):
        return read_plain(data)
    return None


def formula(data: bytes) -> object:
    """A text's formula, as a report has it; its reader says ``ValueError`` too."""
    with suppress(ValueError, ZeroDivisionError, OverflowError):
        return parse(data.decode(errors="replace"), {"a", "T"}).at({"a": 0.5, "T": 2.0})
    return None


def kept(name: str) -> Door:
    """A JSON file of an artifact, a bundle or a packed training."""
    folder = HERE / name
    folder.mkdir()
    seed, read = JSON[name](folder)
    return through_file(read, f"{name}/{CARD_FILE if name == 'card' else 'any'}"), lambda: [seed]


def index_of(adapter: str, file: str, seed: bytes, images: str) -> Door:
    """The index file of a dataset."""
    root = HERE / adapter
    (root / images).mkdir(parents=True)
    return through_file(lambda path: get_adapter(adapter).listing(root), f"{adapter}/{file}"), (
        lambda: [seed]
    )


def placeholders(path: Path) -> object:
    """As ``fer convert`` reads it."""
    return read_archive(path, inert=True)


DOORS: dict[str, Door] = {
    "checkpoint": (through_file(read_archive), checkpoints),
    "pickle": (pickle_of(placeholders), pickles),
    "network": (lambda data: check_network(data, ANY, 16), networks),
    "image": (lambda data: decode(data, where="x"), pictures),
    "arrays": (through_file(read_npz), arrays),
    "yaml": (yaml, lambda: [b"version: 2\nclaims:\n  - {id: a, text: '{value}', n: 0.740}\n"]),
    "claims": (
        through_file(read_claims),
        lambda: [(Path("claims") / f"{name}.yaml").read_bytes() for name in ("sample", "paper")],
    ),
    "formula": (formula, lambda: [b"(1 - a) * exp(-a / T) + a * T^2", b"log(a) + sqrt(0.5)"]),
    **{name: kept(name) for name in ("card", "record", "current", "job")},
    "fer2013": index_of(
        "fer2013_csv",
        "fer2013.csv",
        b"emotion,pixels,Usage\n3," + b" ".join([b"7"] * 2304) + b",Training\n9,1 2,PublicTest\n",
        "",
    ),
    "ferplus": index_of(
        "ferplus_votes",
        "fer2013new.csv",
        b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,"
        b"NF\nTraining,fer0000000.png,4,0,0,1,3,2,0,0,0,0\nPublicTest,a.png,0,9,1,0,0,0,0,0,0,0\n",
        "data/FER2013Train",
    ),
    "expw": index_of(
        "expw", "label.lst", b"a.jpg 0 28 113 226 141 22.9 3\nb.jpg 1 1 2 9 8 70 6\n", "origin"
    ),
    "report": (
        through_file(recognise, "manifest_validation.json"),
        lambda: [json.dumps({"rows_total": 3, "manifest": "a.csv"}).encode()],
    ),
}


def main() -> None:
    """Fuzz one door; libFuzzer ends the process and prints what it did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("door", choices=DOORS)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--corpus", type=Path, default=HERE / "corpus")
    given = parser.parse_args()
    read, seeds = DOORS[given.door]
    given.corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (given.corpus / f"seed-{number}").write_bytes(seed)

    def once(data: bytes) -> None:
        with suppress(FerError):
            read(data)

    limits = [
        "-timeout=5",
        "-rss_limit_mb=2048",
        "-max_len=8192",
        f"-max_total_time={given.seconds}",
    ]
    atheris.Setup([sys.argv[0], *limits, str(given.corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
