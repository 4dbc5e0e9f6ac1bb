"""Ctrl-C, SIGTERM and a cancelled run, taken at the next step instead of in the middle of one."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

#: On Windows, Dagster cancels a run by SIGBREAK.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


class StopSignal:
    """While inside, a signal to stop is noted; ``obey`` hands it to whoever handled it before.

    A second signal is not held back. Outside the main thread nothing can be caught, and nothing is.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        self._restore()

    def obey(self) -> None:
        """Raise the signal that was noted; ends in ``KeyboardInterrupt`` if nobody else acts."""
        self._restore()
        signal.raise_signal(self.asked or signal.SIGINT)
        raise KeyboardInterrupt
