"""The asset ``adopted``: a foreign result as an artifact, with a list of what was not verified.

``load_checkpoint(artifact.file("best.pt"))`` returns an adopted run's network.
"""

import math
import shlex
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fer_ml.adoption import ADOPTION_FILE
from fer_ml.adoption.findings import Findings
from fer_ml.adoption.folder import (
    FILES,
    Foreign,
    describe,
    guard,
    named_hashes,
    parse_as,
    parse_json,
)
from fer_ml.adoption.run_files import Alignment
from fer_ml.adoption.runs import examine_evaluation, examine_run
from fer_ml.adoption.softlabels import examine_softlabels
from fer_ml.adoption.tables import Validation, examine_manifest, examine_validation
from fer_ml.adoption.weights import in_network_order, read_weights
from fer_ml.base.errors import FerError
from fer_ml.base.reading import open_file, regular
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.training.checkpoint import (
    CHECKPOINT_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)

ADOPTED = "adopted"


def build_foreign(
    run: RunFolder,
    job: Job[Any],
    *,
    foreign: Foreign,
    checkpoint: Path | None = None,
    roots: Sequence[Path] = (),
) -> None:
    """Copy the recognised files, examine the copies, and write ``adoption.json``.

    ``checkpoint`` replaces the folder's own weights (with a converted copy); ``roots`` are the
    folders of a manifest's images. ``job.inputs`` are the manifests that the result names by hash.
    """
    weights = None
    if foreign.kind == "run":
        foreign, weights = _take_weights(run, foreign, checkpoint)
    elif checkpoint is not None:
        raise FerError(
            f"--checkpoint needs a run folder, and this is a {foreign.kind}",
            code="options-conflict",
            fix="leave --checkpoint out",
        )
    for name, path in foreign.files.items():
        if not (run.folder / name).exists():
            shutil.copyfile(regular(path), run.path(name))
    _check_inputs(foreign, job)
    findings = _examine(run.folder, foreign, weights, job, roots)
    _write(run, foreign, findings)


def build_again(run: RunFolder, job: Job[Any]) -> None:
    """Examine an adopted result again by today's rules, from the copies in the store."""
    artifact = job.store.current(ADOPTED, job.partition)
    if artifact is None:
        raise FerError(
            f"nothing is adopted as {job.partition}",
            code="asset-not-made",
            fix=f"fer adopt FOLDER --as {job.partition}",
        )
    if damage := artifact.damage():
        raise FerError(
            f"{artifact.key} is damaged: {damage}",
            code="artifact-changed",
            where=artifact.folder,
            fix=f"fer adopt FOLDER --as {job.partition} --replace",
        )
    adoption = artifact.read_json(ADOPTION_FILE)
    foreign = Foreign(
        adoption["kind"],
        adoption["origin"],
        {name: artifact.file(name) for name in adoption["files"]},
        tuple(adoption["left_out"]),
        adoption["converted_from"],
    )
    build_foreign(run, job, foreign=foreign)


def _check_inputs(foreign: Foreign, job: Job[Any]) -> None:
    """Require that each input is a manifest that the result names by hash."""
    named = named_hashes(foreign)
    for artifact in job.inputs.values():
        if not named & {entry.sha256 for entry in artifact.record.files.values()}:
            raise FerError(
                f"{job.label} was made from another {artifact.key} than the current one",
                code="manifest-mismatch",
                allowed=f"a csv with sha256 {', '.join(sorted(named))}",
                fix=f"adopt that manifest again, or: fer adopt FOLDER --as {job.partition} "
                "--replace",
            )


def _take_weights(
    run: RunFolder, foreign: Foreign, given: Path | None
) -> tuple[Foreign, Checkpoint | None]:
    """Write a checkpoint without code into the run directory; ``None`` if there are no weights."""
    files = dict(foreign.files)
    checkpoint_file = files.get(CHECKPOINT_FILE)
    if given is not None:
        guard(given.resolve().parent, given)
        files.pop(WEIGHTS_FILE, None)
        if checkpoint_file is not None:
            foreign = replace(
                foreign,
                left_out=(*foreign.left_out, CHECKPOINT_FILE),
                converted_from=describe(checkpoint_file),
            )
    path = given or checkpoint_file or files.get(WEIGHTS_FILE)
    if path is None:
        return foreign, None
    target = run.path(CHECKPOINT_FILE)
    if path.suffix == ".safetensors":
        save_checkpoint(target, read_weights(path))
    else:
        shutil.copyfile(regular(path), target)
        _refuse_pickle(target, path, foreign)
    checkpoint = in_network_order(load_checkpoint(target), path)
    taken = [n for n in (CHECKPOINT_FILE, WEIGHTS_FILE) if (run.folder / n).is_file()]
    return replace(foreign, files={**files, **{name: run.folder / name for name in taken}}), (
        checkpoint
    )


def _refuse_pickle(target: Path, path: Path, foreign: Foreign) -> None:
    """Refuse a foreign checkpoint: it is a pickle, converted only on request and not opened."""
    try:
        load_checkpoint(target)
    except FerError as error:
        with open_file(path) as file:
            first = file.read(1)
        if not zipfile.is_zipfile(regular(path)) and first != b"\x80":
            raise FerError(
                f"{path.name} is damaged: it is not a checkpoint of any program",
                code="damaged-checkpoint",
                where=path,
                fix="copy the folder again",
            ) from error
        folder, new = path.parent, f"{foreign.origin}.pt"
        raise FerError(
            f"{path.name} is a checkpoint of the first pipeline: a pickle, which can run code "
            "when it is opened",
            code="pickled-checkpoint",
            where=path,
            fix=f"{_convert(path, new, foreign)}\n"
            f"  then: fer adopt {shlex.quote(str(folder))} --checkpoint {shlex.quote(new)}",
        ) from error


def _convert(path: Path, new: str, foreign: Foreign) -> str:
    """Return the command that converts this run's checkpoint, with its report's options."""
    words = ["fer", "convert", shlex.quote(str(path)), shlex.quote(new), "--architecture"]
    if "alignmentreport.json" not in foreign.files:
        return " ".join([*words, "mobilenetv3_large_100 (or its own; --teacher for a teacher)"])
    model = parse_as(foreign.files["alignmentreport.json"], Alignment).model
    words.append(shlex.quote(str(model.get("name", "NAME"))))
    if "embed_dim" in model:
        words.append("--teacher")
    if isinstance(model.get("image_size"), int):
        words += ["--size", str(model["image_size"])]
    return " ".join(words)


def _examine(
    folder: Path, foreign: Foreign, weights: Checkpoint | None, job: Job[Any], roots: Sequence[Path]
) -> Findings:
    findings = Findings()
    known = bool(job.inputs)
    if roots and foreign.kind != "manifest":
        raise FerError(
            f"--root needs a manifest, and this is a {foreign.kind}",
            code="options-conflict",
            fix="leave --root out",
        )
    if foreign.kind == "run":
        examine_run(folder, findings, weights, manifest_known=known)
        if foreign.converted_from is not None:
            findings.cannot(
                f"that best.pt holds the weights of the file that was converted "
                f"(sha256 {foreign.converted_from['sha256'][:12]}), which is not opened here"
            )
    elif foreign.kind == "evaluation":
        examine_evaluation(folder, findings)
    elif foreign.kind == "softlabels":
        examine_softlabels(folder, findings, manifest_known=known)
    elif foreign.kind == "manifest":
        csv = next(name for name in foreign.files if name.endswith(".csv"))
        reports = [folder / name for name in foreign.files if name.endswith(".json")]
        cache = job.store.root / "cache" / "adopted"
        examine_manifest(folder / csv, reports, roots, cache, findings)
    else:
        (name,) = foreign.files
        examine_validation(parse_as(folder / name, Validation), findings)
    return findings


def _missing(foreign: Foreign, folder: Path) -> list[str]:
    """Return the files of checklist A.4 that are absent; only teachers need an alignment report."""
    wanted = list(FILES[foreign.kind][0])
    if foreign.kind == "run" and not _of_student(folder):
        wanted.append("alignmentreport.json")
    return [name for name in wanted if name not in foreign.files]


def _of_student(folder: Path) -> bool:
    path = folder / "history.json"
    history = parse_json(path) if path.is_file() else []
    return bool(history) and "train_loss" in history[0]


def _write(run: RunFolder, foreign: Foreign, findings: Findings) -> None:
    missing = _missing(foreign, run.folder)
    taken = sorted(path.name for path in run.folder.iterdir())
    facts = {
        key: value
        for key, value in findings.facts.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
    run.write_json(
        ADOPTION_FILE,
        {
            "schema_version": 1,
            "adopted": True,
            "kind": foreign.kind,
            "origin": foreign.origin,
            "files": {
                name: {k: v for k, v in describe(run.folder / name).items() if k != "file"}
                for name in taken
            },
            "missing": missing,
            "left_out": list(foreign.left_out),
            "converted_from": foreign.converted_from,
            "checks": findings.checks,
            "unverified": findings.unverified,
            "facts": facts,
        },
    )
    run.summary.update(
        adopted=foreign.kind,
        origin=foreign.origin,
        files=len(taken),
        checks=len(findings.checks),
        contradictions=len(findings.contradictions),
        unverified=len(findings.unverified),
        **facts,
    )
