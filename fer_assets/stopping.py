"""Handle Ctrl-C and SIGTERM: remember which signal came, and obey it wherever it arrives."""

import _thread
import signal
import socket
import sys
import threading
from contextlib import suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds after which a signal is given again that came where no exception can be raised.
AGAIN = 0.1


class Stopping:
    """Context manager: a stop signal raises ``KeyboardInterrupt``; ``signal`` is its number.

    Dagster and trainings install signal handlers of their own, which report nothing. The signal is
    therefore also read from a socket that Python writes to. Dagster drops a signal that comes at
    the end of a run; ``obey`` raises for it afterwards. Python reports a signal within a destructor
    as an ignored exception; it is sent again.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        #: The command that goes on, where it is another one than was stopped.
        self.go_on: str | None = None
        self._came: list[int] = []

    def __enter__(self) -> "Stopping":
        self._reading, self._writing = socket.socketpair()
        for end in (self._reading, self._writing):
            end.setblocking(False)
        self._before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        self._told, sys.unraisablehook = sys.unraisablehook, self._ignored
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        return self

    def obey(self) -> None:
        """Stop if a signal came that nothing has obeyed yet."""
        if self._asked():
            raise KeyboardInterrupt

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        stopped = isinstance(error, KeyboardInterrupt)
        for number, handler in self._before.items():
            # What is left to do is soon done, and a second signal does not tear it.
            signal.signal(number, signal.SIG_IGN if stopped else handler)
        signal.set_wakeup_fd(-1)
        sys.unraisablehook = self._told
        if stopped:
            self.signal = (self._asked() or [signal.SIGINT])[0]
        for end in (self._reading, self._writing):
            end.close()
        return stopped

    def _stop(self, number: int, frame: object) -> None:
        self._came.append(number)
        raise KeyboardInterrupt

    def _asked(self) -> list[int]:
        with suppress(BlockingIOError):
            self._came += [number for number in self._reading.recv(64) if number in SIGNALS]
        return self._came

    def _ignored(self, hook_args: "sys.UnraisableHookArgs") -> None:
        if issubclass(hook_args.exc_type, Exception) or not self._asked():
            self._told(hook_args)
        else:
            threading.Timer(AGAIN, _interrupt, (self._came[-1],)).start()


def _interrupt(number: int) -> None:
    """Send a signal to the main thread, also while that waits in a system call."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(signal.Signals(number))
