"""SIGKILL at random moments of a whole run: nothing is lost, torn, or made twice.

Two hundred kills over every stage run on demand:
``pytest -m proof tests/fer_assets/test_kills.py -s``.
"""

import logging
import multiprocessing
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from fer_assets.abandoned import fail_abandoned
from fer_assets.doctor import examine
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from tests.fer_assets.conftest import TINY

#: One asset of each kind of stage, each a matter of seconds: no folds, and one view.
PROFILE = TINY.replace("tiny", "short").replace("folds = 2, views = 2", "folds = 0, views = 1")
CLAIMS = """
version: 2
title: A short run
claims:
  - id: rows
    kind: number
    sentence: "There are {value} rows."
    asset: classification_manifest
    file: clean_report.json
    pointer: /manifest/rows
  - id: teacher
    kind: number
    sentence: "The teacher has {value}."
    asset: teacher
    partition: RN18
    file: reliabilitymetrics.json
    pointer: /raw/macro_f1
    decimals: 3
"""
TEMPLATE = """# A short run

{{ claim("rows") }} {{ claim("teacher") }}
"""
STAGES = (
    "manifests,teacher[RN18],teacher_logits[RN18],ensemble,softlabels,teacher_bundle[RN18],"
    "report_claims,report"
)
#: These name runs, times, or which images were decoded anew, beside what they say; the file that
#: says it is compared instead.
SAYS = {
    "manifest_validation": "findings.csv",
    "report_claims": "claims.csv",
    "report": "report.md",
}
#: What stands in the environment of every run, and must stand nowhere else.
SECRET = "s3cret-5f2b9c"
#: What a run imports, once: a kill then lands in its work, and not in its start.
PRELOAD = [
    "fer_assets.running",
    "fer_assets.repository",
    "fer_ml.manifests.cleaning",
    "fer_ml.manifests.unify",
    "fer_ml.validation.manifests",
    "fer_ml.figures.charts",
    "fer_ml.runs.trainings",
    "fer_ml.runs.ensemble",
    "fer_ml.runs.softlabels",
    "fer_ml.bundles.cards",
    "fer_ml.claims.verify",
    "fer_ml.report.document",
]


def run(environment: dict[str, str], select: str, log: str) -> None:
    """What ``fer materialize`` does, in a process of its own that notes where it is in ``log``."""
    os.environ.update(environment)
    handler = logging.FileHandler(log)
    logger = logging.getLogger("fer_assets.pipeline")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    noise = os.open(os.devnull, os.O_WRONLY)
    os.dup2(noise, 1)
    os.dup2(noise, 2)
    pipeline = Pipeline.open()
    with dg.DagsterInstance.get() as instance:
        materialize(pipeline, instance, select=pipeline.named(select))


@dataclass
class Killer:
    """Starts runs of ``pipeline`` and kills them.

    ``seconds`` is what each asset took undisturbed; ``pace`` how many assets a run may begin before
    it is killed, at most; ``hits`` where the kills landed.
    """

    pipeline: Pipeline
    select: str
    seconds: dict[str, float]
    pace: int
    chosen: random.Random
    log: Path
    hits: Counter[str] = field(default_factory=Counter)

    def start(self) -> multiprocessing.process.BaseProcess:
        self.log.write_text("")
        names = ("FER_PROJECT", "FER_HOME", "FER_PROFILE", "DAGSTER_HOME")
        environment = {name: os.environ[name] for name in names}
        environment |= {"AWS_SECRET_ACCESS_KEY": SECRET, "FER_SMTP_PASSWORD": SECRET}
        process = multiprocessing.get_context("forkserver").Process(
            target=run, args=(environment, self.select, self.log)
        )
        process.start()
        return process

    def lines(self, word: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if word in line]

    def attempt(self) -> bool:
        """One run; whether it was killed before it had done everything."""
        process = self.start()
        where = self.chosen.choices(("making", "after", "planning"), (8, 1, 1))[0]
        if where == "planning":
            time.sleep(self.chosen.uniform(0, 2))
        else:
            word = ": started" if where == "making" else ": done"
            begun = 1 + self.chosen.randrange(self.pace)
            while len(self.lines(word)) < begun and process.is_alive():
                time.sleep(0.005)
            if lines := self.lines(word):
                asset = lines[-1].partition(": ")[0]
                span = 1.2 * self.seconds[asset] if where == "making" else 0.5
                time.sleep(self.chosen.uniform(0, span))
        process.kill()
        process.join()
        if process.exitcode == 0:
            return False
        assert process.exitcode == -9, f"it failed after {self.log.read_text()}"
        last = (self.lines(": ") or ["nothing: planning"])[-1]
        asset, _, what = last.partition(": ")
        self.hits[f"{'making' if what == 'started' else 'after'} {asset}"] += 1
        return True

    def finish(self) -> None:
        process = self.start()
        process.join()
        assert process.exitcode == 0, self.log.read_text()


def check_sound(pipeline: Pipeline) -> None:
    """What a kill left is cleared away, and all that stands is whole."""
    pipeline.store.sweep()
    with dg.DagsterInstance.get() as instance:
        fail_abandoned(instance)
        assert not instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    assert pipeline.store.faults() == []
    for artifact in pipeline.store.every():
        assert artifact.damage() is None, artifact.key


def hashes(pipeline: Pipeline, targets: list[Target]) -> dict[str, str]:
    """Content hashes of gated artifacts that were made once."""
    found = {}
    for target in targets:
        held = pipeline.store.require(target.asset, target.partition)
        assert len(list(pipeline.store.all(target.asset, target.partition))) == 1, target.label
        file = SAYS.get(target.asset)
        found[target.label] = held.record.files[file].sha256 if file else held.sha256
    return found


def wipe(pipeline: Pipeline) -> None:
    """Back to the raw folders."""
    for path in pipeline.store.root.iterdir():
        if path.name != "drawn":
            shutil.rmtree(path)
    home = Path(os.environ["DAGSTER_HOME"])
    for path in home.iterdir():
        if path.name != "dagster.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("kills", "select", "pace"),
    [
        pytest.param(6, "manifests", 4, id="6"),
        pytest.param(200, STAGES, 1, id="200", marks=pytest.mark.proof),
    ],
)
@pytest.mark.threat(
    "a secret appears in metadata, logs or run configuration",
    "Secrets are read from the environment where they are used, and written nowhere.",
)
@pytest.mark.fault(
    "a run is killed at any moment",
    "The next `fer materialize` continues: finished assets stay, and missing ones are made "
    "once, with the same hash.",
)
def test_kills_leave_no_trace(
    project: Callable[[str], Pipeline],
    tmp_path: Path,
    kills: int,
    select: str,
    pace: int,
) -> None:
    multiprocessing.set_forkserver_preload(PRELOAD)
    folder = Path(os.environ["FER_PROJECT"])
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "short.md.j2").write_text(TEMPLATE)
    (folder / "claims" / "short.yaml").write_text(CLAIMS)
    (folder / "fer.toml").write_text(PROFILE)
    pipeline = project("short")
    wanted = pipeline.named(select)
    targets = [target for target in pipeline.targets() if wanted(target)]
    killer = Killer(pipeline, select, {}, pace, random.Random(8), tmp_path / "log")
    wipe(pipeline)
    killer.finish()
    undisturbed = hashes(pipeline, targets)
    for target in targets:
        held = pipeline.store.current(target.asset, target.partition)
        assert held
        killer.seconds[target.label] = held.record.seconds
    rounds = 0
    while killer.hits.total() < kills:
        wipe(pipeline)
        rounds += 1
        while killer.hits.total() < kills and killer.attempt():
            check_sound(pipeline)
        killer.finish()
        assert hashes(pipeline, targets) == undisturbed
        with dg.DagsterInstance.get() as instance:
            assert materialize(pipeline, instance, select=wanted) == []
        check_sound(pipeline)
        told = {finding.what: finding for finding in examine(pipeline)}
        assert told["half-written runs"].found == "none"
        assert told["artifacts"].state == "ok"
        left = [path.name for path in pipeline.store.unfinished.glob("[!.]*")]
        assert left == [], "what was gone on with is cleared away"
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    print(f"\n{killer.hits.total()} kills in {rounds} rounds over {len(targets)} assets")
    for where, count in sorted(killer.hits.items()):
        print(f"  {count:3} {where}")
