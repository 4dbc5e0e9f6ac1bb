"""Files that fuzzing by coverage kept, read again: a result or a ``FerError``, in little time."""

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from fer_ml.base.errors import FerError
from tests.fer_ml.doors import doors
from tests.fer_ml.test_fuzz import watched
from tests.machine import POSIX

KEPT = Path(__file__).with_name("corpus.zip")
pytestmark = POSIX


with zipfile.ZipFile(KEPT) as archive:
    FILES = {name: archive.read(name) for name in archive.namelist()}
DOORS = sorted({name.partition("/")[0] for name in FILES})


def test_each_door_has_some(tmp_path: Path) -> None:
    assert sorted(doors(tmp_path)) == DOORS


@pytest.mark.parametrize("door", DOORS)
def test_what_was_kept_is_read_or_refused(door: str, tmp_path: Path) -> None:
    read, seeds = doors(tmp_path)[door]
    files = [data for name, data in FILES.items() if name.startswith(f"{door}/")]
    ended: Counter[bool] = Counter()
    read(seeds()[0])  # What is imported and allocated once does not count.
    for data in files:
        with watched(tmp_path):
            try:
                read(data)
                ended[True] += 1
            except FerError:
                ended[False] += 1
    assert ended.total() == len(files) > 0
