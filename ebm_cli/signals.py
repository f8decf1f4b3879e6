"""Requests to stop: SIGINT, SIGTERM and SIGUSR1 end training after the step in progress, with a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}


class StopRequest:
    """Set by the first signal; `exit_code` is what the process will return. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def exit_code(self) -> int | None:
        """130 for Ctrl-C, 75 for a scheduler's signal, None without one."""
        return EXIT_CODES[self.signal] if self.signal else None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


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
