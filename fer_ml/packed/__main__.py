"""``python -m fer_ml.packed FOLDER --out RUNS``: run a packed training.

Of this project's dependencies it needs torch, timm, numpy and pydantic alone. On several processes:
``torchrun --nproc-per-node 2 -m fer_ml.packed FOLDER --out RUNS``.
"""

import argparse
import logging
import sys
from pathlib import Path

from fer_ml.base.errors import FerError
from fer_ml.base.processor import check_processor
from fer_ml.packed.runner import run_job
from fer_ml.training.loop import SNAPSHOT_SECONDS
from fer_ml.training.ranks import join


def main() -> int:
    """Run the packed training named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_ml.packed",
        description="Run a packed training (made by: fer pack ASSET FOLDER). Started again, it "
        "goes on where it was stopped. What it leaves in --out is taken back by: fer adopt FOLDER",
    )
    parser.add_argument("folder", type=Path, help="the packed training")
    parser.add_argument("--out", type=Path, required=True, help="where run folders go")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STEP",
        help="run this step alone, such as 'teacher[RN18]'; may be given several times, and each "
        "of several processes may run other steps of one job",
    )
    parser.add_argument(
        "--snapshot-seconds",
        type=float,
        default=SNAPSHOT_SECONDS,
        help="seconds between two snapshots (default: %(default)s)",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        check_processor()
        with join(arguments.device) as ranks:
            for folder in run_job(
                arguments.folder,
                arguments.out,
                ranks,
                only=arguments.only,
                snapshot_seconds=arguments.snapshot_seconds,
            ):
                if ranks.first:
                    print(folder)
    except FerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
