"""Requests to stop: SIGINT, SIGTERM and SIGUSR1 end training after the step in progress, with a checkpoint.

Once training is over, and its checkpoint is there, they stop at once what is still going on.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}


class StopRequest:
    """Set by the first signal; `exit_code` is what the process will return. A Ctrl-C after it stops at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._prompt = False

    @property
    def exit_code(self) -> int | None:
        """130 for Ctrl-C, 75 for a scheduler's signal, None without one."""
        return EXIT_CODES[self.signal] if self.signal else None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = self.signal or signal.Signals(number)
        if self._prompt or (again and number == signal.SIGINT):
            raise KeyboardInterrupt

    @contextmanager
    def promptly(self) -> Iterator[None]:
        """Within, any of the signals raises KeyboardInterrupt, also one that came just before."""
        self._prompt = True
        try:
            if self.signal:
                raise KeyboardInterrupt
            yield
        finally:
            self._prompt = False


@contextmanager
def watching() -> Iterator[StopRequest]:
    """Collect signals in a StopRequest instead of dying from them."""
    request = StopRequest()
    before = {number: signal.signal(number, request._receive) for number in EXIT_CODES}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
