"""Fuzzing by coverage, on demand: files that reach new code of a reader are changed further.

    pip install atheris            # Linux, Python 3.11 to 3.13
    python -m benchmarks.fuzzing checkpoint --seconds 300
    python -m benchmarks.fuzzing image --seconds 300 --corpus corpus/image

A reader may give a result or a ``FerError``. Anything else, 5 seconds for one file, or 2 GB of
memory ends the run; the file is kept as ``crash-*``, ``timeout-*`` or ``oom-*``. A run begins with
what earlier ones kept (``tests/fer_ml/corpus.zip``, which the tests read again); ``--corpus`` keeps
what reached new code in this one.
"""

import argparse
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import atheris

ROOMS = ("base", "bundles", "claims", "images", "packed", "sources", "storage", "training")
with atheris.instrument_imports(include=[*(f"fer_ml.{room}" for room in ROOMS), "pickletools"]):
    from fer_ml.base.errors import FerError
    from tests.fer_ml.doors import doors

KEPT = Path(__file__).parents[1] / "tests" / "fer_ml" / "corpus.zip"


def main() -> None:
    """Fuzz one reader; libFuzzer ends the process and prints the result."""
    here = Path(tempfile.mkdtemp(prefix="fuzzing-"))
    known = doors(here)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("door", choices=known)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--corpus", type=Path, default=here / "corpus")
    given = parser.parse_args()
    read, seeds = known[given.door]
    given.corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (given.corpus / f"seed-{number}").write_bytes(seed)
    with zipfile.ZipFile(KEPT) as archive:
        for name in archive.namelist():
            if name.startswith(f"{given.door}/"):
                (given.corpus / Path(name).name).write_bytes(archive.read(name))

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
