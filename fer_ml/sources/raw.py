"""Raw datasets and models on this machine: their locations and their fingerprints."""

import hashlib
import os
from pathlib import Path
from typing import Literal

from fer_ml.base.errors import FerError
from fer_ml.base.files import private_folder
from fer_ml.base.settings import CONFIG_FILE, Settings
from fer_ml.recipes.profile import Profile
from fer_ml.storage.store import Store

SAMPLE_FOLDER = "drawn"

ModelKind = Literal["bundle", "checkpoint", "onnx"]


def ensure_raw(profile: Profile, store: Store) -> None:
    """Draw the sample's sources if the profile needs them and they do not exist yet."""
    if profile.drawn:
        from fer_ml.sample import ensure_sample

        private_folder(store.root)
        ensure_sample(store.root / SAMPLE_FOLDER, profile.seed)


def raw_root(settings: Settings, profile: Profile, store: Store, source: str) -> Path:
    """Return the folder of a raw source; ``FerError`` if it does not exist."""
    spec = profile.source(source)
    if profile.drawn:
        root = store.root / SAMPLE_FOLDER / "raw" / source
    else:
        named = settings.config.roots.get(source) or spec.root or f"data/{source}"
        root = (settings.project / Path(named).expanduser()).resolve()
    if not root.is_dir():
        raise FerError(
            f"source {source} ({spec.title or spec.adapter}) has no data root",
            code="missing-folder",
            where=root,
            fix=f"put the publisher's files there, or set {source} under [roots] in {CONFIG_FILE}",
        )
    return root


def fingerprint(root: Path) -> str:
    """Return a sha256 over the path, size and modification time of every file below ``root``.

    No file is opened, so 466,284 files take about two seconds. An edit that keeps both size and
    time is not detected here, but by the hashes of pixels when the manifest is checked.
    """
    digest = hashlib.sha256()
    for path, size, mtime in sorted(_files(str(root), "")):
        digest.update(f"{path}\0{size}\0{mtime}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(folder: str, prefix: str) -> list[tuple[str, int, int]]:
    files = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    files += _files(entry.path, f"{prefix}{entry.name}/")
                else:
                    stat = entry.stat(follow_symlinks=False)
                    files.append((prefix + entry.name, stat.st_size, stat.st_mtime_ns))
    except PermissionError as error:
        raise FerError(
            "folder cannot be read", code="unreadable-folder", where=folder, fix="grant read access"
        ) from error
    return files


def model_files(path: Path) -> tuple[ModelKind, dict[str, Path]]:
    """Return the kind of the model at ``path``, and its files by the names to store them under."""
    if path.is_dir():
        files = {name: path / name for name in ("model.onnx", "card.json")}
        if all(file.is_file() for file in files.values()):
            return "bundle", files
    elif path.is_file() and path.suffix == ".pt":
        return "checkpoint", {"best.pt": path}
    elif path.is_file() and path.suffix == ".onnx":
        return "onnx", {"model.onnx": path}
    raise FerError(
        "no model here" if path.exists() else "the model is not there",
        code="missing-model",
        where=path,
        allowed="a folder with model.onnx and card.json, a checkpoint .pt, or an .onnx file",
        fix="correct its path under models in the profile",
    )
