"""Make and judge single targets of the lineage, from gated inputs. Imports no Dagster."""

import contextlib
import logging
import math
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fer_assets.lineage import Lineage, Target
from fer_assets.stage import Stage
from fer_assets.staleness import stale_reason
from fer_assets.tracing import span
from fer_ml.base.cost import COSTS
from fer_ml.base.errors import FerError
from fer_ml.base.files import owned_name, readable_os_errors
from fer_ml.base.logs import belongs_to
from fer_ml.base.reading import read_json, sha256_file
from fer_ml.base.settings import settings
from fer_ml.recipes.loading import load_profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome, word_of
from fer_ml.storage.job import Job
from fer_ml.storage.looks import SETS_FILE, note_look
from fer_ml.storage.mirror import open_store
from fer_ml.storage.record import Input, Receipt
from fer_ml.storage.store import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pipeline(Lineage):
    """A lineage whose targets can be made and judged."""

    @classmethod
    def open(cls, profile: str | None = None) -> "Pipeline":
        """Open the pipeline that the environment and ``fer.toml`` describe."""
        current_settings = settings()
        loaded = load_profile(current_settings, profile)
        return cls(current_settings, loaded, open_store(current_settings, loaded.name))

    def looking_again(self, since: float) -> "Pipeline":
        """Return a pipeline that ignores image checks remembered from before ``since`` (s)."""
        return replace(self, store=replace(self.store, looked_since=since))

    def job(
        self,
        target: Target,
        without: Collection[Target] = (),
        needs: Collection[Target] | None = None,
    ) -> tuple[Job[Any], list[Input]]:
        """Return the job for a target's build function, and its inputs, which passed their gates.

        Inputs in ``without`` are left out because they are still to be made. ``needs`` replaces the
        inputs that the stage declares.
        """
        stage = self.stage(target.asset)
        self.store.fetch_log()
        # A partition that the profile does not train is refused before its inputs are looked at.
        recorded = self.recipe(target)
        self._require_partition(stage, target)
        inputs = {
            need.label: self.store.require(need.asset, need.partition)
            for need in (self.needed(target) if needs is None else needs)
            if need not in without
        }
        declared = [artifact.as_input() for artifact in inputs.values()]
        paths = {
            "video": self.demo_video(),
            "claims": self.claims_file(),
            "report": self.report_template(),
        }
        if self.plan_file().is_file():
            paths["plan"] = self.plan_file()
        session = self.demo_session()
        if session is not None:
            paths["session"] = session
        if stage.partitions == "models":
            paths["model"] = self.model_path(str(target.partition))
        if stage.raw is not None:
            raw = self.raw_input(stage.raw)
            declared.append(raw)
            paths[raw.asset] = Path(str(raw.root))
        job = Job(
            asset=target.asset,
            partition=target.partition,
            store=self.store,
            recipe=stage.recipe(self.profile, target.partition),
            inputs=inputs,
            paths=paths,
            device=self.settings.device,
            processes=self.settings.processes,
            code_version=stage.code_version,
            recorded=recorded,
            decisions=self.decisions() if stage.looks else {},
            looked_at=self.profile.looked_at,
        )
        return job, declared

    def _require_partition(self, stage: Stage, target: Target) -> None:
        """Raise ``FerError`` for a partition that the profile lacks; adopted ones may be new."""
        table = stage.partitions
        if table in (None, "adopted") or target.partition in self.partitions(stage):
            return
        raise FerError(
            f"profile {self.profile.name} has no {table}.{target.partition}",
            code="not-in-profile",
            allowed=", ".join(self.partitions(stage)),
            fix=f"add {table}.{target.partition} to the profile",
        )

    def make(
        self,
        target: Target,
        run_id: str | None = None,
        build: Callable[[RunFolder, Job[Any]], None] | None = None,
        needs: Collection[Target] | None = None,
    ) -> Artifact:
        """Materialize one target from gated inputs, and return the new current artifact.

        For results made elsewhere, ``build`` replaces the stage's own function, and ``needs`` its
        declared inputs.
        """
        stage = self.stage(target.asset)
        with self._step("make", target, run_id) as known:
            log.info("%s: started", target.label)
            job, declared = self.job(target, needs=needs)
            with self.store.begin(
                target.asset,
                target.partition,
                inputs=declared,
                recipe=dict(job.recorded),
                code_version=stage.code_version,
                run_id=run_id,
            ) as run:
                (build or stage.build)(run, job)
                if stage.looks:
                    self._note_look(run, job, run_id)
            artifact = self.store.current(target.asset, target.partition)
            assert artifact is not None
            cost = {key: artifact.record.summary[key] for key in COSTS}
            known |= {"sha256": artifact.sha256, **cost}
            log.info("%s: done in %.1f s", target.label, artifact.record.seconds)
        return artifact

    def _note_look(self, run: RunFolder, job: Job[Any], run_id: str | None) -> None:
        """Record in the ledger the evaluation sets that the numbers of ``run`` belong to."""
        files = [a.read_json(SETS_FILE) for a in job.inputs.values() if SETS_FILE in a.record.files]
        sets_file = run.folder / SETS_FILE
        if not sets_file.is_file():
            run.write_json(SETS_FILE, {name: ids for sets in files for name, ids in sets.items()})
        plan = self.plan_file()
        note_look(
            self.store.root.parent,
            read_json(sets_file),
            profile=self.profile.name,
            asset=job.label,
            run_id=run_id,
            decisions=job.decisions,
            plan=sha256_file(plan) if plan.is_file() else None,
        )
        self.store.share_log()

    def place_images(self, raw: dict[str, str]) -> None:
        """Link images of manifests made on another machine, from this machine's raw folders."""
        for source in self.profile.sources:
            target = Target(f"manifest/{source.name}")
            is_placed = (self.store.root / "cleaned" / source.name).is_dir()
            if is_placed or source.name not in raw or stale_reason(self, target, raw) is not None:
                continue
            log.info("placing the images of %s", source.name)
            again = RunFolder(self.store.partial / owned_name())
            try:
                self.stage(target.asset).build(again, self.job(target)[0])
            finally:
                shutil.rmtree(again.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _step(self, what: str, target: Target, run_id: str | None) -> Iterator[dict[str, Any]]:
        """Run one step: log lines inside carry its names, and it is exported as a span."""
        names = {
            "profile": self.profile.name,
            "run": run_id,
            "asset": target.asset,
            "partition": target.partition,
        }
        with belongs_to(**names, step=what), span(f"{what} {target.label}", run_id, names) as known:
            try:
                with readable_os_errors(self.store.root):
                    yield known
            except Exception:
                log.exception("%s: failed", target.label)
                raise

    def judge(self, target: Target, run_id: str | None = None) -> list[Outcome]:
        """Run the gates of a target's current artifact, write receipts, return the outcomes."""
        with self._step("judge", target, run_id) as known:
            outcomes, sha256 = self._judge(target, run_id)
            known |= {"sha256": sha256, **{f"gate.{o.rule}": word_of(o.passed) for o in outcomes}}
            asked = [outcome for outcome in outcomes if outcome.passed is not None]
            passed = f"{sum(map(bool, (o.passed for o in asked)))} of {len(asked)} gates passed"
            for word in (False, None):
                if rules := ", ".join(o.rule for o in outcomes if o.passed is word):
                    passed += f"; {word_of(word)}: {rules}"
            log.info("%s: %s", target.label, passed)
        return outcomes

    def _judge(self, target: Target, run_id: str | None) -> tuple[list[Outcome], str]:
        stage = self.stage(target.asset)
        artifact = self.store.verified(target.asset, target.partition)
        limits = stage.limits(self.profile)
        outcomes = stage.judge(artifact, self.store, limits)
        gates = {gate.rule: gate for gate in stage.gates_by(self.profile)}
        if sorted(gates) != sorted(outcome.rule for outcome in outcomes):
            raise FerError(
                f"the stage of {target.label} judged other gates than it declares: "
                f"{sorted(o.rule for o in outcomes)}",
                code="gates-mismatch",
                allowed=", ".join(sorted(gates)),
            )
        for outcome in outcomes:
            self.store.write_receipt(
                artifact,
                Receipt(
                    asset=target.asset,
                    partition=target.partition,
                    artifact_sha256=artifact.sha256,
                    rule=outcome.rule,
                    blocking=gates[outcome.rule].blocking,
                    passed=outcome.passed,
                    value=_finite_or_text(outcome.value),
                    limit=_finite_or_text(outcome.limit),
                    detail=outcome.detail,
                    examples=outcome.examples,
                    checked_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    run_id=run_id,
                    judged_by=limits.recorded(),
                    seal=artifact.record.seal,
                ),
            )
        return outcomes, artifact.sha256


def _finite_or_text(value: float | str) -> float | str:
    """Replace NaN and infinity by text, because JSON has neither."""
    return value if isinstance(value, str) or math.isfinite(value) else str(value)
