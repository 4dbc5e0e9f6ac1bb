"""Readers of what comes from elsewhere, each with seeds: for fuzzing by coverage and its corpus.

A reader may give a result or a ``FerError``. Seeds are made here, synthetic ones.
"""

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fer_ml.adoption.folder import recognise
from fer_ml.base.npz import read_npz
from fer_ml.base.plain_yaml import read_plain
from fer_ml.bundles.bundle import CARD_FILE
from fer_ml.bundles.network import check_network
from fer_ml.claims.formulas import parse
from fer_ml.claims.model import read_claims
from fer_ml.images.pixels import decode
from fer_ml.sources import get_adapter
from fer_ml.training.archive import read_archive
from tests.fer_ml.test_fuzz import JSON, networks

CLAIMS = Path(__file__).parents[2] / "claims"
Door = tuple[Callable[[bytes], object], Callable[[], list[bytes]]]


def through_file(read: Callable[[Path], object], path: Path) -> Callable[[bytes], object]:
    """``read`` of the file ``path``, which holds the bytes."""

    def once(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return once


def pickle_of(read: Callable[[Path], object], path: Path) -> Callable[[bytes], object]:
    """``read`` of an archive of torch whose pickle is the bytes: a checksum guards the whole."""

    def once(data: bytes) -> object:
        with zipfile.ZipFile(path, "w") as archive:
            for name, held in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n")):
                archive.writestr(f"archive/{name}", held)
            archive.writestr("archive/data/0", bytes(12))  # The three numbers of the seed.
        return read(path)

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
    with suppress(ValueError):
        return parse(data.decode(errors="replace"), {"a", "T"}).at({"a": 0.5, "T": 2.0})
    return None


def kept(folder: Path, name: str) -> Door:
    """A JSON file of an artifact, a bundle or a packed training."""
    folder.mkdir()
    seed, read = JSON[name](folder)
    return through_file(read, folder / (CARD_FILE if name == "card" else "any")), lambda: [seed]


def index_of(adapter: str, path: Path, seed: bytes, images: str) -> Door:
    """The index file of a dataset, beside its images."""
    (path.parent / images).mkdir(parents=True)
    reader = get_adapter(adapter)
    return through_file(lambda path: reader.listing(path.parent), path), lambda: [seed]


def doors(here: Path) -> dict[str, Door]:
    """Each reader of bytes, by name; what must be a file is written below ``here``."""
    any_file = here / "any"
    return {
        "checkpoint": (through_file(read_archive, any_file), checkpoints),
        # As fer convert reads it.
        "pickle": (pickle_of(lambda path: read_archive(path, inert=True), any_file), pickles),
        "network": (lambda data: check_network(data, any_file, 16), networks),
        "image": (lambda data: decode(data, where="x"), pictures),
        "arrays": (through_file(read_npz, any_file), arrays),
        "yaml": (
            yaml,
            lambda: [b"version: 2\nclaims:\n  - {id: a, text: '{value}', n: 0.740}\n"],
        ),
        "claims": (
            through_file(read_claims, any_file),
            lambda: [(CLAIMS / f"{name}.yaml").read_bytes() for name in ("sample", "paper")],
        ),
        "formula": (formula, lambda: [b"(1 - a) * exp(-a / T) + a * T^2", b"log(a) + sqrt(0.5)"]),
        **{name: kept(here / name, name) for name in ("card", "record", "current", "job")},
        "fer2013": index_of(
            "fer2013_csv",
            here / "fer2013" / "fer2013.csv",
            b"emotion,pixels,Usage\n3," + b" ".join([b"7"] * 2304) + b",Training\n9,1 2,Private\n",
            "",
        ),
        "ferplus": index_of(
            "ferplus_votes",
            here / "ferplus" / "fer2013new.csv",
            b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,"
            b"unknown,NF\nTraining,a.png,4,0,0,1,3,2,0,0,0,0\nPublicTest,b.png,0,9,1,0,0,0,0,0,0,0",
            "data/FER2013Train",
        ),
        "expw": index_of(
            "expw",
            here / "expw" / "label.lst",
            b"a.jpg 0 28 113 226 141 22.9 3\nb.jpg 1 1 2 9 8 70 6\n",
            "origin",
        ),
        "report": (
            through_file(recognise, here / "manifest_validation.json"),
            lambda: [json.dumps({"rows_total": 3, "manifest": "a.csv"}).encode()],
        ),
    }
