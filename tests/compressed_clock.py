"""A clock that runs faster, for processes that tests start. Only the time of day is another one:
waits are as long as always, so an answer that is late by a second is not late by minutes."""

import os
import shutil
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long fast(void) {  /* ns since 1970: FROM + PACE * (now - SINCE) */
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    long long since = atoll(getenv("TEST_CLOCK_SINCE")), from = atoll(getenv("TEST_CLOCK_FROM"));
    long long passed = now.tv_sec * 1000000000LL + now.tv_nsec - since;
    return from + atoll(getenv("TEST_CLOCK_PACE")) * passed;
}

int clock_gettime(clockid_t clock, struct timespec *told) {
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
        return syscall(SYS_clock_gettime, clock, told);
    long long ns = fast();
    told->tv_sec = ns / 1000000000LL;
    told->tv_nsec = ns % 1000000000LL;
    return 0;
}

int gettimeofday(struct timeval *restrict told, void *restrict zone) {
    long long ns = fast();
    told->tv_sec = ns / 1000000000LL;
    told->tv_usec = ns % 1000000000LL / 1000;
    return 0;
}

time_t time(time_t *told) {
    time_t seconds = fast() / 1000000000LL;
    if (told) *told = seconds;
    return seconds;
}
"""


class CompressedClock:
    """Begins at ``begin`` when it is made, and runs ``pace`` times as fast."""

    def __init__(self, folder: Path, begin: datetime, pace: int) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler on this machine")
        (folder / "clock.c").write_text(SOURCE)
        library = folder / "clock.so"
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", library, folder / "clock.c"], check=True
        )
        self.begin, self.pace, self.since = begin, pace, time.time_ns()
        #: What a process that follows this clock has in its environment.
        self.environment = {
            "LD_PRELOAD": str(library),
            "TEST_CLOCK_SINCE": str(self.since),
            "TEST_CLOCK_FROM": str(int(begin.timestamp()) * 10**9),
            "TEST_CLOCK_PACE": str(pace),
            "TZ": "UTC",
        }

    def now(self) -> datetime:
        """What such a process reads."""
        return self.begin + timedelta(seconds=self.pace * (time.time_ns() - self.since) / 1e9)

    def start(self, log: Path, *command: str) -> "subprocess.Popen[bytes]":
        """A process that follows it, in a session of its own, with output in ``log``."""
        with log.open("ab") as out:
            return subprocess.Popen(
                command,
                cwd=log.parent,
                env={**os.environ, **self.environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
