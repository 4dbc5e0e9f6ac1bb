"""The world of ``tests/elsewhere.py`` refuses what Windows does, and everything imports in it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.elsewhere import ROOT, environment
from tests.machine import LINUX

pytestmark = LINUX

MODULES = """
import importlib, pkgutil, sys
import demo_app, fer_assets, fer_ml
found = [
    module.name
    for package in (fer_ml, fer_assets, demo_app)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]
for name in found:
    importlib.import_module(name)
assert not {"ray", "dagster_ray"} & set(sys.modules)
print(len(found))
"""


def elsewhere(tmp_path: Path, script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        check=False,
    )


def test_every_module_imports(tmp_path: Path) -> None:
    done = elsewhere(tmp_path, MODULES)
    assert done.returncode == 0, done.stderr
    packages = ("fer_ml", "fer_assets", "demo_app")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert int(done.stdout) > 0.9 * len(files)


#: What must be refused there: a statement, and the error.
REFUSED = {
    "import resource": "ModuleNotFoundError",
    "from os import fork": "ImportError",
    "import os; os.pwrite": "AttributeError",
    "import os; os.O_NOFOLLOW": "AttributeError",
    "import signal; signal.SIGHUP": "AttributeError",
    "import os; os.kill(os.getpid(), 0)": "AssertionError",
    "open('a:b', 'w')": "OSError",
    "open('a.', 'w')": "OSError",
    "import pathlib; pathlib.Path('aux.txt').touch()": "OSError",
    "import os; os.mkdir('x '); os.mkdir('x')": "OSError",
    "import os; os.mkdir('a'); os.mkdir('A')": "FileExistsError",
    "import os; open('a', 'w').close(); open('b', 'w').close(); os.rename('a', 'b')": (
        "FileExistsError"
    ),
    "import os; f = open('a', 'w'); os.replace('a', 'b')": "PermissionError",
    "import os; f = open('a', 'w'); os.unlink('a')": "PermissionError",
    "import os; os.mkdir('d'); f = open('d/a', 'w'); os.rename('d', 'e')": "PermissionError",
    "import numpy as np; a = np.memmap('m', 'u1', 'w+', shape=9); import os; os.remove('m')": (
        "PermissionError"
    ),
    "import os; os.mkdir('d'); os.open('d', os.O_RDONLY)": "PermissionError",
    "import os; os.symlink('a', 'b')": "OSError",
    "import os; open('a', 'w').close(); os.fsync(os.open('a', os.O_RDONLY))": "OSError",
    "open('/proc/stat')": "FileNotFoundError",
    "open('a', 'w').write('\u65e5')": "UnicodeEncodeError",
    "print('\u65e5')": "UnicodeEncodeError",
}


@pytest.mark.parametrize("statement", REFUSED)
def test_it_refuses_what_windows_refuses(tmp_path: Path, statement: str) -> None:
    done = elsewhere(tmp_path, statement)
    assert done.returncode == 1, "it went through"
    assert done.stderr.splitlines()[-1].startswith(REFUSED[statement]), done.stderr


def test_it_takes_what_windows_takes(tmp_path: Path) -> None:
    script = """
import multiprocessing, os, shutil, subprocess, sys, tempfile
from pathlib import Path
assert multiprocessing.get_start_method() == "spawn"
Path("a").write_text("x\\ny")
assert Path("a").read_bytes() == b"x\\r\\ny" and Path("a").read_text() == "x\\ny"
os.replace("a", "b"), os.link("b", "c"), os.mkdir("d"), os.rename("c", "d/c")
assert os.stat("b").st_ino == 0 and os.stat("b").st_size == 4
with tempfile.TemporaryFile() as file:
    file.write(b"x")
shutil.rmtree("d")
child = "import os; print(hasattr(os, 'fork'))"
done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, env={})
assert done.stdout == "False\\n", done
"""
    done = elsewhere(tmp_path, script)
    assert done.returncode == 0, done.stderr
