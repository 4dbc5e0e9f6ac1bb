"""Write the artifact root of this version, for the tests of later ones.

Run in a checkout of the version, when it is released::

    python tests/compatibility/write_fixture.py 0.1.0

It makes the lineage of the tests' tiny profile on drawn faces, with networks of three thousand
weights, and packs it without raw data, images and caches as ``tests/compatibility/0.1.0.tar.xz``.
With ``PYTHONPATH=OLD`` and ``OLD`` as a second argument it does so for an earlier checkout.
"""

import importlib.util
import logging
import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
#: What is packed of a project; below ``outputs`` all but what may be deleted, and raw data.
LEFT_OUT = {"drawn", "cleaned", "cache", "unfinished", ".partial", "report"}
#: An asset with one of these in its run folder holds drawn faces.
SHOW_FACES = ("thumbs.npy", "review.html", "error_analysis.html")
#: One pixel: charts are not what is kept.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def load(path: Path) -> ModuleType:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # timm looks a network's module up.
    spec.loader.exec_module(module)
    return module


def write(name: str, checkout: Path) -> Path:
    """Make the lineage with the code of ``checkout``; returns the archive."""
    load(HERE / "tiny_network.py")
    held = load(checkout / "tests" / "fer_assets" / "conftest.py")
    tiny = 'architecture = "fer_tiny"'
    teacher = "[profiles.tiny.teachers.RN18]"
    profile = re.sub(r'architecture = "\w+"', tiny, held.TINY)
    profile = profile.replace(teacher, f"{teacher}\n{tiny}\nlr = 0.01")
    # So few weights learn nothing in two epochs, and what learned nothing cannot be calibrated.
    profile = profile.replace("epochs = 2", "epochs = 6")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        for part in ("dagster_home", "claims"):
            (project / part).mkdir(parents=True)
        shutil.copy(checkout / "workspace.yaml", project)
        shutil.copy(checkout / "dagster_home" / "dagster.yaml", project / "dagster_home")
        (project / "claims" / "tiny.yaml").write_text(held.TINY_CLAIMS)
        (project / "fer.toml").write_text(profile)
        os.environ |= {
            "FER_PROJECT": str(project),
            "FER_HOME": str(project / "outputs"),
            "FER_PROFILE": "tiny",
            "DAGSTER_HOME": str(project / "dagster_home"),
        }
        import fer_ml
        from fer_ml.figures import charts as plots
        from fer_ml.sample import ensure_sample

        assert Path(str(fer_ml.__file__)).is_relative_to(checkout), fer_ml.__file__
        vars(plots)["_png"] = lambda figure: PIXEL
        ensure_sample(project / "outputs" / "tiny" / "drawn", held.SEED)
        import dagster as dg

        from fer_assets.pipeline import Pipeline
        from fer_assets.running import materialize

        logging.basicConfig(level=logging.INFO)
        with dg.DagsterInstance.get() as instance:
            done = materialize(Pipeline.open(), instance)
        print(f"{len(done)} targets")
        archive = HERE / f"{name}.tar.xz"
        pack(project, archive)
        return archive


def pack(project: Path, archive: Path) -> None:
    """Pack what later versions must be able to read, without any face."""
    faces = {path.parent.parent for name in SHOW_FACES for path in project.rglob(name)}
    with tarfile.open(archive, "w:xz", preset=9) as out:
        for path in sorted(project.rglob("*")):
            below = path.relative_to(project)
            left_out = LEFT_OUT & set(below.parts) or faces & set(path.parents)
            if path.is_file() and not left_out and _kept(below):
                out.add(path, below.as_posix(), filter=_nobody)


def _kept(below: Path) -> bool:
    """Dagster's own events are not: they are Dagster's to bring along, and large."""
    hidden = below.name.startswith(".")
    return not hidden and (below.parts[0] != "dagster_home" or below.name == "dagster.yaml")


def _nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    where = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else HERE.parent.parent
    print(write(sys.argv[1], where))
