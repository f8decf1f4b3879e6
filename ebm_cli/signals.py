"""Requests to stop: SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, answered from the program's first line to its last.

What a signal does depends on what would be lost: where nothing is to be saved it ends the work at once, in training
after the step in progress, and while the end is being recorded it is only noted. A signal that was ignored when the
program started, as SIGHUP is under nohup, stays ignored.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from enum import Enum
from types import FrameType

EXIT_CODES = {
    signal.SIGINT: 130,
    signal.SIGTERM: 75,
    signal.SIGHUP: 75,  # the terminal is gone
    signal.SIGUSR1: 75,
    signal.SIGUSR2: 75,  # of batch systems, before the time is up
}


class _Answer(Enum):
    AT_ONCE = "by KeyboardInterrupt"
    AFTER_STEP = "noted; a Ctrl-C after it raises KeyboardInterrupt"
    NOTED = "noted"


class StopRequest:
    """The first signal, and what becomes of those that come."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.times = 0  # that one came
        self.raised = False  # a KeyboardInterrupt was, in whatever disguise it arrives
        self.loses = False  # whether work is done that an interruption would lose
        self._answer = _Answer.NOTED  # until somebody is ready for a KeyboardInterrupt
        self.of_one: Callable[[int], bool] = lambda _: False
        """Whether it is a KeyboardInterrupt for the one of several pieces of work that goes on at the moment."""

    @property
    def exit_code(self) -> int | None:
        """130 for Ctrl-C, 75 for another signal, None without one."""
        return EXIT_CODES[self.signal] if self.signal else None

    def code(self, answer: int) -> int:
        """The exit code of work that came to this answer; 0 stays 0: all was done before, or in spite of, a signal."""
        return answer and (self.exit_code or answer)

    @property
    def said(self) -> str:
        """The signal in words."""
        return "interrupted" if self.signal in (None, signal.SIGINT) else f"stopped by {self.signal.name}"

    def ask(self, number: int) -> None:
        """Note a signal that reached another process of this run."""
        self.signal = self.signal or signal.Signals(number)

    def at_once(self) -> None:
        """From here on a signal raises KeyboardInterrupt; so does this, if one has come already."""
        self._answer = _Answer.AT_ONCE
        if self.signal:
            self.raised = True
            raise KeyboardInterrupt

    def broke(self, error: BaseException) -> bool:
        """Whether it is what ended the work: a KeyboardInterrupt, whatever a library made of it, or a compiler that
        the signal ended, for a Ctrl-C reaches every process of the terminal's group."""
        compiling = type(error).__module__.startswith(("torch._inductor", "torch._dynamo"))
        return self.raised or isinstance(error, KeyboardInterrupt) or (self.signal is not None and compiling)

    def interrupted(self) -> KeyboardInterrupt:
        """What to raise in work that cannot come to the end of its step."""
        self.raised = True
        return KeyboardInterrupt()

    def after_step(self) -> None:
        """From here on a signal is noted, and somebody looks; a Ctrl-C after it raises KeyboardInterrupt."""
        self._answer = _Answer.AFTER_STEP

    def noted(self) -> None:
        """From here on a signal changes nothing: the work is done and is being written down."""
        self._answer = _Answer.NOTED

    @contextmanager
    def not_waited_for(self) -> Iterator[None]:
        """Within, what takes long and can be done again: a signal raises KeyboardInterrupt if no work would be lost."""
        before = self._answer
        if not self.loses:
            self.at_once()
        try:
            yield
        finally:
            self._answer = before

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler of all of them."""
        interrupts = self.reached(number)
        if self.of_one(number) or interrupts:
            raise KeyboardInterrupt

    def reached(self, number: int) -> bool:
        """Take note of one; whether it is a KeyboardInterrupt."""
        again = self.signal is not None
        self.ask(number)
        self.times += 1
        first = self._answer is _Answer.AT_ONCE and not again
        impatient = self._answer is not _Answer.NOTED and again and number == signal.SIGINT
        self.raised = self.raised or first or impatient
        return first or impatient


_current: ContextVar[StopRequest | None] = ContextVar("stop", default=None)


@contextmanager
def watching(afterwards: signal.Handlers | None = None) -> Iterator[StopRequest]:
    """Collect signals in a StopRequest instead of dying from them; within itself it yields the same one again.

    Handlers are then put back or, for a program that ends there, replaced by `afterwards`. Outside the main thread,
    where Python sets no handlers, nothing is collected.
    """
    there = _current.get()
    if there is not None:
        yield there
        return
    request = StopRequest()
    _current.set(request)
    before = _installed(request.receive) if threading.current_thread() is threading.main_thread() else {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if afterwards is None else afterwards)
        _current.set(None)


def asked_by(request: StopRequest) -> None:
    """From here on this piece of work, one of several in this thread, is asked to stop by that request alone."""
    _current.set(request)


@contextmanager
def not_waited_for() -> Iterator[None]:
    """The same of the request that is watched here, if one is."""
    request = _current.get()
    with request.not_waited_for() if request is not None else nullcontext():
        yield


def finishing() -> None:
    """All is computed and is now written: a request to stop that comes later changes nothing.

    Raises KeyboardInterrupt for one that came before.
    """
    request = _current.get()
    if request is not None:
        request.at_once()
        request.noted()


def unheard() -> None:
    """Between the jobs of a process that does many: a request to stop that comes just then must not kill it."""
    if threading.current_thread() is threading.main_thread():
        for number in EXIT_CODES:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _nothing)


def _nothing(number: int, frame: FrameType | None) -> None:
    """The handler of what is not answered; one that is ignored would stay so."""


Handler = Callable[[int, FrameType | None], object] | int


def _installed(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Handler]:
    """The handlers that were there; those of ignored signals stay. What was held back until now arrives."""
    there = {number: signal.getsignal(number) for number in EXIT_CODES}
    before = {number: found or signal.SIG_DFL for number, found in there.items() if found is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)
    return before
