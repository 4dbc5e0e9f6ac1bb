"""``fer materialize``, and the tables that it prints at the end."""

import gc
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fer_assets.commands.common import (
    ProfileOption,
    console,
    open_pipeline,
    show_progress,
    styled,
    table,
)
from fer_assets.stopping import Stopping

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text
    from rich.tree import Tree

    from fer_assets.lineage import Target
    from fer_assets.pipeline import Pipeline
    from fer_assets.planning import Failures, Made, Work
    from fer_ml.storage.artifact import Artifact

#: The file of an asset that people look at first.
MAIN_FILES = (
    "best.pt",
    "softlabels.npz",
    "benchmark.csv",
    "comparison.json",
    "error_analysis.html",
    "model.onnx",
    "report.md",
    "claims.json",
    "candidate_sessions.json",
    "selection.json",
    "ensemble.json",
    "logits.npz",
    "demo_kpis.json",
    "per_frame.csv",
    "manifest_validation_all.json",
)


def materialize(
    profile: ProfileOption = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="Assets, partitions or groups, comma-separated, or Dagster's selection syntax: "
            "+NAME makes what NAME needs too; default: all"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also make what is up to date")] = False,
) -> None:
    """Make every missing or stale asset in order of dependency, and judge all gates.

    A failure skips only the assets that depend on it. After Ctrl-C the same command continues.

    Example: fer materialize --profile sample --select "manifests,teacher[RN18]"

    Example: fer materialize --select "+teacher[B3]"
    """
    with Stopping() as stopping:
        _materialize(profile, select, force, stopping)
    if stopping.signal is not None:
        command = stopping.go_on or shlex.join(["fer", *sys.argv[1:]])
        print(
            "stopped: what was finished stays, and a training goes on from its last snapshot\n"
            f"  go on: {command}",
            file=sys.stderr,
        )
        raise typer.Exit(128 + stopping.signal)


def _materialize(profile: str | None, select: str | None, force: bool, stopping: Stopping) -> None:
    started, began = time.monotonic(), datetime.now(UTC).replace(microsecond=0)
    # What is imported stays; to look for garbage in it would take a tenth of a run without work.
    gc.disable()
    from fer_ml.base.processor import check_processor

    check_processor()
    pipeline = open_pipeline(profile)
    selection = None if select is None else pipeline.named(select)
    if selection is not None:
        from fer_assets.selection import require_inputs

        require_inputs(pipeline, selection, force=force)
    from fer_assets.planning import StageFailed
    from fer_assets.running import materialize
    from fer_assets.storage import dagster_instance

    show_progress()

    def on_work(work: "Work") -> None:
        gc.enable()
        stopping.obey()
        for target, reason in work.make.items():
            console.print(styled(("make", "bold"), f"  {target.label} ", (f"({reason})", "dim")))
        for target in work.judge:
            why = ("(no verdict by today's limits)", "dim")
            console.print(styled(("judge", "bold"), f" {target.label} ", why))

    failed = None
    with dagster_instance() as instance:
        try:
            done = materialize(pipeline, instance, select=selection, force=force, on_work=on_work)
        except StageFailed as error:
            failed, done = error, error.done
        except KeyboardInterrupt:
            pipeline.store.sweep_own()
            stopping.go_on = _rest(pipeline, selection or pipeline.standard, force, began)
            raise
    total = sum(map(selection or pipeline.standard, pipeline.targets()))
    seconds = time.monotonic() - started
    look = "Look at it: fer ui" + ("" if profile is None else f" --profile {profile}")
    if not done and failed is None:
        console.print(f"All {total} targets are up to date; nothing to do ({seconds:.1f} s).")
        console.print(look)
        return
    _print_made(done)
    console.print(f"{len(done)} of {total} targets made or judged in {seconds:.0f} s.")
    if failed is not None:
        left = (*failed.failures.faults, *failed.failures.lost)
        # What was made is not to be forced again.
        again = ",".join(target.label for target in left) if force else select
        command = pipeline.command(select=again, force=force)
        print(_failures(failed.failures, command), file=sys.stderr)
        raise typer.Exit(1)
    for part in _closing(pipeline):
        console.print(part, soft_wrap=isinstance(part, str))
    console.print(look)


def _rest(
    pipeline: "Pipeline", chosen: "Callable[[Target], bool]", force: bool, began: datetime
) -> str | None:
    """Return the command that forces what was not made since ``began``; ``None``: the same one."""
    if not force:
        return None
    left = [
        target.label
        for target in pipeline.targets()
        if chosen(target)
        and (
            (artifact := pipeline.store.current(target.asset, target.partition)) is None
            or artifact.record.made_at < began
        )
    ]
    return pipeline.command(select=",".join(left) or None, force=bool(left))


def _print_made(done: "list[Made]") -> None:
    if done:
        console.print(_made_table(done))
    for line in _warnings(done):
        console.print(line)


def _made_table(done: "list[Made]") -> "Table":
    """Return a table, a row per target: rows or steps, time, peak memory, file, hash, checks."""
    from fer_assets.show import checks_text

    made_table = table()
    made_table.add_column("asset")
    for name in ("rows", "steps", "s", "MB"):
        made_table.add_column(name, justify="right", no_wrap=True)
    made_table.add_column("file")
    for name in ("sha256", "checks"):
        made_table.add_column(name, no_wrap=True)
    for made in done:
        record = made.artifact.record
        made_table.add_row(
            made.target.label,
            _cell(record.summary.get("rows", record.summary.get("frames"))),
            _cell(record.summary.get("steps")),
            f"{record.seconds:.1f}",
            _cell(record.summary.get("peak_memory_mb")),
            _main_file(made.artifact),
            made.artifact.sha256[:10],
            checks_text(made.artifact),
        )
    return made_table


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def _main_file(artifact: "Artifact") -> str:
    """Return the file of an artifact that readers open first."""
    for name in MAIN_FILES:
        if name in artifact.record.files:
            return name
    manifests = [
        name
        for name in artifact.record.files
        if name.endswith(".csv") and not name.startswith(("quarantine", "excluded", "labels"))
    ]
    return (manifests or list(artifact.record.files))[0]


def _warnings(done: "list[Made]") -> "Iterator[Text]":
    """Yield a line for each failed non-blocking gate; a blocking one stops the run earlier."""
    for made in done:
        for receipt in made.artifact.receipts().values():
            if receipt.passed is False:
                yield styled(
                    ("note", "yellow"),
                    f" {made.target.label}: {receipt.rule} is {receipt.value}, "
                    f"limit {receipt.limit}. {receipt.detail}",
                )


def _failures(failed: "Failures", command: str) -> str:
    """Return text: what failed and why, what was skipped because of it, and how to continue."""
    faults: dict[str, list[str]] = {}
    for target, fault in failed.faults.items():
        faults.setdefault(str(fault), []).append(target.label)
    lines = [f"error: {fault}\n  failed: {', '.join(labels)}" for fault, labels in faults.items()]
    lost: dict[str, list[str]] = {}
    for target, below in failed.lost.items():
        lost.setdefault(", ".join(t.label for t in below), []).append(target.label)
    lines += [
        f"not made, since it rests on {on}: {', '.join(labels)}" for on, labels in lost.items()
    ]
    return "\n".join([*lines, f"When that is mended, go on with: {command}"])


def _closing(pipeline: "Pipeline") -> "Iterator[Table | Tree | str]":
    """Yield the benchmark, one traced claim, and where the evidence and the report are."""
    from fer_assets.evidence import refresh
    from fer_assets.show import trace_of, trace_tree

    benchmark = pipeline.store.current("benchmark")
    if benchmark is not None:
        yield _benchmark_table(benchmark, synthetic=pipeline.profile.drawn)
    claims = pipeline.store.current("report_claims")
    if claims is not None:
        document = claims.read_json("claims.json")
        yield (
            f"{document['counts']['grounded']} of {len(document['claims'])} claims grounded. One "
            "of them, traced:"
        )
        yield trace_tree(trace_of(pipeline, document["claims"][-1]["id"]))
        yield f"The rows behind each claim: {refresh(pipeline).as_uri()}"
    report = pipeline.store.current("report")
    if report is not None:
        yield f"The report: {report.file('report.html').as_uri()}"


def _benchmark_table(benchmark: "Artifact", *, synthetic: bool) -> "Table":
    """Return macro-F1 by model and evaluation set; the header states n and split."""
    from fer_ml.metrics.comparability import look_note, unequal_budgets

    document = benchmark.read_json("benchmark.json")
    entries = document["entries"]
    kind = " (drawn faces: synthetic, never a result)" if synthetic else ""
    scores = table("model", title=styled("macro-F1, raw", (kind, "yellow")))
    apart: dict[tuple[str, str], str] = {}
    first = next(iter(entries.values()))
    sets = {name: entry for name, entry in first.items() if name not in document["same_rows"]}
    for name, entry in sets.items():
        chosen = ", selects" if entry["selection_split"] else ""
        header = _lines([name, f"{entry['split']}{chosen}, n={entry['n']}"])
        scores.add_column(header, justify="right")
        for other in document["tables"][name][1:]:
            apart |= {(model, name): ", ".join(other["why_apart"]) for model in other["names"]}
    alone = "test_all_sources.deduplicated"
    lead = alone if alone in first else "test_all_sources"
    scores.add_column(_lines(["ECE scaled (by chance)", lead]), justify="right")
    for model, cells in entries.items():
        scores.add_row(
            model,
            *(
                f"{cells[name]['raw']['macro_f1']:.3f}{'*' * ((model, name) in apart)}"
                for name in sets
            ),
            f"{cells[lead]['temperature_scaled']['ece']:.3f} "
            f"({cells[lead]['ece_by_chance']['high']:.3f})",
        )
    notes: list[str] = []
    if apart:
        first_line, *more = dict.fromkeys(f"{name}: {why}" for (_, name), why in apart.items())
        notes += [f"* not to be compared with the first row. {first_line}", *more]
    budgets = unequal_budgets({model: next(iter(c.values())) for model, c in entries.items()})
    notes += [budgets] if budgets else []
    notes += [f"{name}: {looked}" for name, entry in sets.items() if (looked := look_note(entry))]
    if notes:
        scores.caption = _lines(notes)
        scores.caption_justify = "left"
    return scores


def _lines(lines: "list[str]") -> "Text":
    from rich.text import Text

    return Text("\n").join(map(styled, lines))
