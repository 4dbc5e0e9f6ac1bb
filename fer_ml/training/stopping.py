"""Deferral of Ctrl-C and SIGTERM to the end of the current training step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

#: On Windows, Dagster cancels a run by SIGBREAK.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


class StopSignal:
    """A context that records a signal to stop; ``obey`` passes it to the previous handler.

    A second signal takes effect at once. Outside the main thread no signal can be caught.
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
        """Raise the recorded signal, if any; by default that is ``KeyboardInterrupt``."""
        self._restore()
        signal.raise_signal(self.asked or signal.SIGINT)
        raise KeyboardInterrupt
