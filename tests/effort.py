"""How much is done: calls of functions, which no machine, load or run changes."""

import cProfile
import pstats
from collections.abc import Callable
from typing import Any


def calls(work: Callable[[], Any]) -> int:
    """Calls of Python and C functions in this thread while ``work`` runs."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]
