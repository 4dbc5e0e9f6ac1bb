"""Fuzzing by coverage, on demand: files that reach new code of a reader are changed further.

    pip install atheris            # Linux, Python 3.11 to 3.13
    python benchmarks/fuzzing.py checkpoint --seconds 300
    python benchmarks/fuzzing.py image --seconds 300 --corpus corpus/image

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

READERS = ["fer_ml.base", "fer_ml.bundles", "fer_ml.images", "fer_ml.training", "pickletools"]
with atheris.instrument_imports(include=READERS):
    from fer_ml.adoption.folder import recognise
    from fer_ml.base.errors import FerError
    from fer_ml.base.npz import read_npz
    from fer_ml.base.plain_yaml import read_plain
    from fer_ml.bundles.network import check_network
    from fer_ml.images.pixels import decode
    from fer_ml.training.archive import read_archive

from tests.fer_ml.test_fuzz import networks  # noqa: E402 - after what is instrumented

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
