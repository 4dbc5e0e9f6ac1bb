"""Ctrl-C and SIGTERM: which signal came, and that it is obeyed wherever it comes."""

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
    """While inside, a signal to stop raises; it ends here, and ``signal`` says which one it was.

    Dagster and trainings put handlers of their own in place, which tell nobody what they got: so
    it is read from a socket that Python writes to as well. Dagster drops a signal that comes at the
    end of a run, which ``obey`` makes good; and one that comes within a destructor is told as an
    exception that is ignored, and is given again.
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
        """Stop if a signal came that nobody obeyed."""
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
    """Give a signal to the main thread, also where it waits for the system."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(signal.Signals(number))
