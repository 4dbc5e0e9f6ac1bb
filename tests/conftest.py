"""For all tests: small faces on disk with the manifest that speaks of them, and a store."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import settings

from fer_ml.base.labels import CLASSES
from fer_ml.images.identity import photo_hash, sample_hash
from fer_ml.images.pixels import encode_png
from fer_ml.manifests.schema import SCHEMA
from fer_ml.storage.store import Store
from tests.gates import DEMANDS

# A training takes fewer threads on a busy machine, and two numbers of threads round differently:
# tests that compare bytes fix the number, before anything loads torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Examples are the same each time, and no machine is too slow or too busy for them.
settings.register_profile("anywhere", deadline=None, derandomize=True)
settings.load_profile("anywhere")

#: Windows' refusal to make a symbolic link without a privilege.
_NO_PRIVILEGE = 1314


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    return (yield from _links_or_skip())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    return (yield from _links_or_skip())


def _links_or_skip() -> Iterator[None]:
    try:
        return (yield)
    except OSError as error:
        if getattr(error, "winerror", None) == _NO_PRIVILEGE:
            pytest.skip("symbolic links need a privilege here")
        raise


def noise(seed: int, width: int = 24, height: int = 24) -> np.ndarray:
    """``[H, W, 3] uint8`` that no other seed gives."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def manifest_row(root: Path, seed: int, **changes: Any) -> dict[str, Any]:
    """Write one image below ``root`` and return its manifest row, with ``changes`` on top."""
    image = noise(seed)
    path = changes.get("image_path", f"cleaned/a/{seed}.png")
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode_png(image))
    box = tuple(changes.get(f"bbox_{side}") for side in ("left", "top", "right", "bottom"))
    photo = photo_hash(image)
    row = {
        "image_path": path,
        "label": CLASSES[seed % len(CLASSES)],
        "split": "train",
        "source": "a",
        "orig_image": f"{seed}.png",
        "sample_id": sample_hash(photo, None if box[0] is None else box),
        "group_id": photo,
        "width": image.shape[1],
        "height": image.shape[0],
    }
    return {**dict.fromkeys(SCHEMA), **row, **changes}


ManifestIn = Callable[[Path, int | Sequence[dict[str, Any]]], pl.DataFrame]


@pytest.fixture(scope="session")
def manifest_in() -> ManifestIn:
    """Write images below a folder: ``manifest_in(folder, n)``, or one dict of changes a row."""

    def make(folder: Path, rows: int | Sequence[dict[str, Any]]) -> pl.DataFrame:
        changes = [{}] * rows if isinstance(rows, int) else rows
        return pl.DataFrame(
            [manifest_row(folder, seed, **change) for seed, change in enumerate(changes)],
            schema=SCHEMA,
        )

    return make


@pytest.fixture
def make_manifest(tmp_path: Path, manifest_in: ManifestIn) -> Callable[..., pl.DataFrame]:
    """``manifest_in`` below ``tmp_path``."""
    return lambda rows: manifest_in(tmp_path, rows)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty artifact root."""
    return Store(tmp_path / "home", "test", demands=DEMANDS)
