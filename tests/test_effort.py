"""No stage does more for each row, file or frame than it did: counted in calls, not in seconds.

Calls of Python and C functions are the same on every machine and in every run, so a loop over rows
that slipped into a stage shows at once. Each limit leaves a little room above what was counted.
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fer_ml.images.inspection import Shard, look_at
from fer_ml.storage.store import Store
from tests.conftest import noise
from tests.effort import calls

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def growth() -> ModuleType:
    """``benchmarks/growth.py``: the data stages over synthetic rows."""
    spec = importlib.util.spec_from_file_location("growth", ROOT / "benchmarks" / "growth.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["growth"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def counted(growth: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Calls of each data stage by rows; a first run warms up what is made once.

    Above 17,000 rows every source has the hundred faces whose colour is looked at.
    """
    found: dict[int, Any] = {}
    for rows in (500, 20_000, 24_000):
        store = Store(tmp_path_factory.mktemp("growth"), "paper")
        growth.write_sources(store, rows)
        found[rows] = {}
        for stage in growth.STAGES:
            growth.prepare(stage, store, rows)
            work = partial(growth.run_stage, stage, store, rows)
            found[rows][stage] = calls(work)
    return found


# One row in fifty is a photo of two sources, which unify joins one by one. Looks come in parts of a
# picture each, far smaller than those of a manifest.
@pytest.mark.parametrize(
    ("stage", "limit"), [("unify", 9), ("curate", 0.3), ("judge", 0.1), ("look", 1)]
)
def test_a_row_of_a_data_stage(stage: str, limit: float, counted: dict[int, Any]) -> None:
    assert (counted[24_000][stage] - counted[20_000][stage]) / 4000 < limit


def test_a_look_at_a_file(tmp_path: Path) -> None:
    import cv2

    for index in range(60):
        cv2.imwrite(str(tmp_path / f"{index}.png"), noise(index, 48, 48))

    def look(count: int) -> int:
        thumbs = tmp_path / f"thumbs-{count}.bin"
        thumbs.write_bytes(bytes(24 * 24 * count))
        names = [f"{i}.png" for i in range(count)]
        return calls(lambda: look_at(Shard(str(tmp_path), names, {}, str(thumbs), 0)))

    look(2)
    assert (look(60) - look(20)) / 40 < 55
