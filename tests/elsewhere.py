"""Another operating system, as far as this one can be made to look like it.

``python -m pytest -p tests.elsewhere`` runs tests in a world that lacks what Windows lacks, and in
which files behave as they do there; processes that are started live in it too. What the project and
its tests import is changed; other libraries, which know these systems, see the real one:

- no POSIX-only modules (``resource``, ``fcntl``, ``pwd``, ...), no ``os.fork``, no signals but
  those of Windows, no ``/proc``; asking a process by ``os.kill`` fails, since it would end it;
- no inode and device numbers, as on FAT; a file that is only read cannot be synced, nor a folder;
- text is read and written in cp1252 with CR LF wherever no encoding or line end is said.

For everybody, below the folder for temporary files:

- no ``:``, no dot or blank at the end, no device such as NUL in the name of a new file, and no two
  names that differ only in case;
- what is open or mapped by this process is not renamed, replaced or deleted; nothing is renamed
  onto what is there; no links to files or folders but hard links; folders are not opened.

And child processes are spawned, never forked.
"""
# ruff: noqa: PTH100, PTH112, PTH115, SIM905

import builtins
import errno
import importlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: Set in the processes of this world.
VARIABLE = "FER_ELSEWHERE"
_START = Path(__file__).with_name("elsewhere_start")

MODULES = frozenset(
    "resource fcntl pwd grp termios tty pty posix syslog curses readline crypt spwd nis".split()
)
HIDDEN = {
    "os": frozenset(
        "fork forkpty register_at_fork killpg getpgid getpgrp setpgid setpgrp setsid getsid wait "
        "wait3 wait4 waitid getuid geteuid getgid getegid getgroups setuid setgid getresuid nice "
        "getpriority setpriority getloadavg sysconf sysconf_names confstr statvfs fstatvfs uname "
        "pread pwrite preadv pwritev readv writev sendfile mkfifo mknod chown fchown lchown fchmod "
        "lchmod chroot sync fdatasync posix_fadvise posix_fallocate posix_spawn posix_spawnp "
        "sched_getaffinity sched_setaffinity sched_yield openpty ttyname ctermid getxattr setxattr "
        "listxattr memfd_create eventfd pidfd_open copy_file_range splice O_NONBLOCK O_CLOEXEC "
        "O_NOFOLLOW O_DIRECTORY O_DSYNC O_SYNC O_NOCTTY O_ASYNC O_DIRECT O_NOATIME O_PATH "
        "O_TMPFILE O_NDELAY O_LARGEFILE O_ACCMODE WNOHANG WIFSIGNALED WTERMSIG".split()
    ),
    "signal": frozenset(
        name
        for name in dir(signal)
        if name.startswith("SIG")
        and name not in ("SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV")
        and name not in ("SIG_DFL", "SIG_IGN")
    )
    | frozenset(
        "alarm setitimer getitimer pause pthread_kill pthread_sigmask sigpending sigwait "
        "sigwaitinfo sigtimedwait siginterrupt ITIMER_REAL".split()
    ),
    "time": frozenset({"tzset"}),
    "socket": frozenset({"AF_UNIX", "socketpair_unix"}),
    "select": frozenset({"poll", "epoll", "kqueue"}),
}
#: Whose imports are changed.
_OURS = ("fer_ml", "fer_assets", "demo_app", "tests", "conftest", "benchmarks", "__main__")
#: Whose calls are those of their caller.
_BETWEEN = frozenset(
    {"pathlib", "pathlib._local", "contextlib", "shutil", "tempfile", "genericpath", __name__}
)
_DEVICES = {"con", "prn", "aux", "nul"} | {f"{n}{i}" for n in ("com", "lpt") for i in range(1, 10)}

_real = types.SimpleNamespace(
    open=io.open,
    os_open=os.open,
    **{
        name: getattr(os, name)
        for name in "mkdir replace link symlink remove stat lstat fstat scandir listdir fsync "
        "kill".split()
    },
)
_import = builtins.__import__
_below = f"{os.path.realpath(tempfile.gettempdir())}/"


class _Changed(types.ModuleType):
    """A module as the project sees it there; ``own`` are functions that others do not see."""

    def __init__(self, real: types.ModuleType, own: Mapping[str, Any]) -> None:
        super().__init__(real.__name__, real.__doc__)
        hidden = HIDDEN.get(real.__name__, ())
        seen = {name: value for name, value in vars(real).items() if name not in hidden}
        self.__dict__.update({**seen, **own, "_real_module": real, "_own": own})

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        if name not in self._own:  # A test that replaces a function means everybody's.
            setattr(self._real_module, name, value)

    def __delattr__(self, name: str) -> None:
        del self.__dict__[name]
        if name not in self._own:
            delattr(self._real_module, name)


def is_here() -> bool:
    """Whether this process lives in it."""
    return builtins.__import__ is not _import


def enter() -> None:
    """From here on this process lives in it, and those that it starts."""
    import multiprocessing

    if is_here():
        return
    multiprocessing.set_start_method("spawn", force=True)
    builtins.open = io.open = _open  # type: ignore[assignment]
    os.open, os.mkdir, os.link, os.symlink = _os_open, _mkdir, _link, _symlink
    os.rename, os.replace, os.remove, os.unlink = _rename, _replace, _remove, _remove
    os.stat, os.listdir = _seen(_real.stat), _seen(_real.listdir)
    # Windows' own way, which opens no folders.
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    own = {"stat": _unnumbered(_real.stat), "lstat": _unnumbered(_real.lstat), "kill": _kill}
    own |= {"fstat": _unnumbered(_real.fstat), "scandir": _scandir, "fsync": _fsync}
    changed = {
        name: _Changed(importlib.import_module(name), own if name == "os" else {})
        for name in HIDDEN
    }

    def imported(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        if level == 0 and globals and _is_ours(_name(globals)):
            top = name.partition(".")[0]
            if top in MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in changed or (top in changed and not fromlist):
                return changed[top]
        return _import(name, globals, locals, fromlist, level)

    builtins.__import__ = imported
    os.environ.update(_with_start(os.environ))
    popen = subprocess.Popen.__init__

    def start(self: Any, *more: Any, env: Any = None, **named: Any) -> None:
        popen(self, *more, env=None if env is None else {**env, **_with_start(env)}, **named)

    subprocess.Popen.__init__ = start  # type: ignore[method-assign]


def environment(folder: Path) -> dict[str, str]:
    """What makes a process live in it, with ``folder`` for temporary files."""
    known = ("FER_", "DAGSTER_", "PYTHON")
    keep = {name: value for name, value in os.environ.items() if not name.startswith(known)}
    # What a pipe has there. Text goes through the default encoding, which is wrapped.
    return {**keep, **_with_start({}), "PYTHONIOENCODING": "cp1252", "TMPDIR": str(folder)}


def _with_start(env: Mapping[str, str]) -> dict[str, str]:
    """Where Python finds what lets a process live in it."""
    path = [str(_START), str(ROOT), env.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, path)), VARIABLE: "1"}


def _name(globals: dict[str, Any]) -> str:
    """The module that these belong to; of a program that runs as one, what it is called."""
    return str(getattr(globals.get("__spec__"), "name", None) or globals.get("__name__"))


def _is_ours(name: Any) -> bool:
    return isinstance(name, str) and name != __name__ and name.partition(".")[0] in _OURS


def _caller() -> str:
    """The module that asks, through whatever of the standard library."""
    frame = sys._getframe(1)
    while frame is not None:
        name = _name(frame.f_globals)
        if name not in _BETWEEN:
            return name
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _refuse(number: int, what: str, path: Any) -> OSError:
    return OSError(number, f"elsewhere: {what}", str(path))


def _governed(path: Any) -> str | None:
    """The absolute path where it lies below the folder for temporary files."""
    if isinstance(path, int):
        return None
    text = os.path.abspath(os.fsdecode(path))
    return text if text.startswith(_below) else None


def _check_name(path: Any) -> None:
    """Refuse what Windows would not create."""
    text = _governed(path)
    if text is None:
        return
    folder, name = os.path.split(text)
    if set('<>:"|?*\\') & set(name) or any(ord(c) < 32 for c in name):
        raise _refuse(errno.EINVAL, "no such character in a name", path)
    if name[-1:] in (".", " "):
        raise _refuse(errno.EINVAL, "no dot or blank at the end of a name", path)
    if name.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        raise _refuse(errno.EINVAL, "the name of a device", path)
    try:
        here = _real.listdir(folder)
    except OSError:
        return
    if name not in here and name.casefold() in {other.casefold() for other in here}:
        raise _refuse(errno.EEXIST, "a name that differs only in case", path)


def _check_use(path: Any) -> None:
    """Refuse to touch what this process has open or mapped, or what lies in such a folder."""
    text = _governed(path)
    if text is None:
        return
    wanted = (text, f"{text}/")
    for number in _real.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target == text or target.startswith(wanted[1]):
            _in_use("open", path)
    with _real.open("/proc/self/maps", "rb") as maps:
        held = maps.read()
    if os.fsencode(text) in held:
        for line in held.decode(errors="surrogateescape").splitlines():
            target = line[line.find("/") :] if "/" in line else ""
            if target == text or target.startswith(wanted[1]):
                _in_use("mapped", path)


def _in_use(how: str, path: Any) -> None:
    frame = sys._getframe(1)
    while frame is not None:
        # pytest clears away when everything is over.
        if str(frame.f_globals.get("__name__")).startswith("_pytest.pathlib"):
            return
        frame = frame.f_back  # type: ignore[assignment]
    raise PermissionError(errno.EACCES, f"elsewhere: it is {how}", str(path))


def _open(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
    if not isinstance(file, int):
        _hide_proc(file)
        if set("wax+") & set(mode) and not os.path.lexists(file):
            _check_name(file)
        given = dict(
            zip(("encoding", "errors", "newline", "closefd", "opener"), more, strict=False)
        )
        given |= named
        if "b" not in mode and _is_ours(_caller()):
            if given.get("encoding") in (None, "locale"):
                given["encoding"] = "cp1252"
            if given.get("newline") is None and not set("r+") & set(mode) and _governed(file):
                given["newline"] = "\r\n"
        return _real.open(file, mode, buffering, **given)
    return _real.open(file, mode, buffering, *more, **named)


def _hide_proc(path: Any) -> None:
    text = os.fsdecode(path)
    if (text == "/proc" or text.startswith("/proc/")) and _is_ours(_caller()):
        raise FileNotFoundError(errno.ENOENT, "elsewhere: no /proc", text)


def _seen(function: Callable[..., Any]) -> Callable[..., Any]:
    def seen(path: Any = ".", *more: Any, **named: Any) -> Any:
        if not isinstance(path, int):
            _hide_proc(path)
        return function(path, *more, **named)

    return seen


def _unnumbered(function: Callable[..., Any]) -> Callable[..., Any]:
    def unnumbered(path: Any, *more: Any, **named: Any) -> Any:
        if not isinstance(path, int):
            _hide_proc(path)
        return _without_numbers(function(path, *more, **named))

    return unnumbered


def _without_numbers(found: os.stat_result) -> os.stat_result:
    kind, (fields, more) = found.__reduce__()  # type: ignore[misc]
    return kind((fields[0], 0, 0, *fields[3:]), more)  # type: ignore[operator]


class _Entry:
    def __init__(self, entry: os.DirEntry[str]) -> None:
        self._entry = entry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def __fspath__(self) -> str:
        return self._entry.path

    def stat(self, **named: Any) -> os.stat_result:
        return _without_numbers(self._entry.stat(**named))

    def inode(self) -> int:
        return 0


@contextmanager
def _scandir(path: Any = ".") -> Iterator[Iterator[_Entry]]:
    _hide_proc(path)
    with _real.scandir(path) as entries:
        yield map(_Entry, entries)


def _fsync(descriptor: int) -> None:
    import fcntl

    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "elsewhere: only read")
    _real.fsync(descriptor)


def _kill(pid: int, number: int) -> None:
    if number not in (signal.SIGTERM, signal.SIGINT):
        raise AssertionError(f"os.kill({pid}, {number}) would end that process elsewhere")
    _real.kill(pid, number)


def _os_open(path: Any, how: int, *more: Any, **named: Any) -> int:
    unnamed = how & os.O_TMPFILE == os.O_TMPFILE
    if _governed(path) and os.path.isdir(path) and not unnamed:
        raise PermissionError(errno.EACCES, "elsewhere: a folder", str(path))
    if how & os.O_CREAT and not os.path.lexists(path):
        _check_name(path)
    return _real.os_open(path, how, *more, **named)


def _mkdir(path: Any, *more: Any, **named: Any) -> None:
    if not os.path.lexists(path):
        _check_name(path)
    _real.mkdir(path, *more, **named)


def _link(source: Any, target: Any, **named: Any) -> None:
    _check_name(target)
    _real.link(source, target, **named)


def _symlink(source: Any, target: Any, *more: Any, **named: Any) -> None:
    if _governed(target):
        refused = _refuse(errno.EINVAL, "links need a privilege", target)
        refused.winerror = 1314  # type: ignore[attr-defined]
        raise refused
    _real.symlink(source, target, *more, **named)


def _rename(source: Any, target: Any, **named: Any) -> None:
    if _governed(target) and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "elsewhere: it is there", str(target))
    _replace(source, target, **named)


def _replace(source: Any, target: Any, **named: Any) -> None:
    _check_name(target)
    _check_use(source)
    if os.path.lexists(target):
        _check_use(target)
        if _governed(target) and os.path.isdir(target):
            raise PermissionError(errno.EACCES, "elsewhere: a folder is there", str(target))
    _real.replace(source, target, **named)


def _remove(path: Any, **named: Any) -> None:
    if named.get("dir_fd") is None:
        _check_use(path)
    _real.remove(path, **named)


# As a plugin of pytest: before anything else is imported.
if VARIABLE in os.environ or "tests.elsewhere" in sys.argv:
    enter()
