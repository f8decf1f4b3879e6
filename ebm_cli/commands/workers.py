"""Where work is done: one piece after the other in this process, or several at a time in others."""

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from ebm_cli import terminal
from ebm_cli.commands import multi
from ebm_cli.commands.configuration import Request
from ebm_cli.device.launch import end_with_parent, threads_each
from ebm_cli.signals import EXIT_CODES, StopRequest, watching

_LOOK = 0.2  # seconds between looks at whether this process was asked to stop


class Workers(Protocol):
    """So many jobs at a time."""

    @property
    def free(self) -> bool:
        """Whether another job can begin."""

    @property
    def busy(self) -> bool:
        """Whether a job was begun that `ended` has not named."""

    def begin(self, name: int, request: Request) -> None:
        """Begin a job."""

    def ended(self) -> list[int]:
        """The names of jobs that ended; waits until there is one."""


class Here:
    """One job at a time in this process, which `begin` waits for."""

    def __init__(self) -> None:
        self._done: list[int] = []

    @property
    def free(self) -> bool:
        """Unless what a job left is still to be looked at."""
        return not self._done

    @property
    def busy(self) -> bool:
        """The opposite."""
        return bool(self._done)

    def begin(self, name: int, request: Request) -> None:
        """Do it."""
        self._done.append(name)
        multi.job(request)

    def ended(self) -> list[int]:
        """The one that was done."""
        found, self._done = self._done, []
        return found


class Processes:
    """`count` pieces of work at a time, each `do(argument)` in a process of its own.

    Each request to stop is passed on to all. `killed` has the names of those that a signal ended.
    """

    def __init__(self, count: int, stop: StopRequest, do: Callable[[Any], int]) -> None:
        self.count, self.stop, self.do = count, stop, do
        self.killed: list[int] = []
        self._running: dict[int, BaseProcess] = {}
        self._told = 0

    @property
    def free(self) -> bool:
        """Whether fewer than `count` run."""
        return len(self._running) < self.count

    @property
    def busy(self) -> bool:
        """Whether one runs."""
        return bool(self._running)

    def begin(self, name: int, argument: Any) -> None:
        """Start a process, in which signals wait until it answers them."""
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(self.do, argument))
        with _signals_wait(), _environment(threads_each(self.count)):
            process.start()
        self._running[name] = process

    def ended(self) -> list[int]:
        """Waits in short turns, to see whether this process is asked to stop."""
        while True:
            self._pass_on()
            wait([process.sentinel for process in self._running.values()], _LOOK)
            found = {name: process for name, process in self._running.items() if not process.is_alive()}
            for name, process in found.items():
                self._running.pop(name).join()
                if (process.exitcode or 0) < 0:
                    self.killed.append(name)
            if found:
                return [*found]

    def _pass_on(self) -> None:
        if self.stop.signal is None or self._told == self.stop.times:
            return
        self._told = self.stop.times
        if self.stop.signal == signal.SIGINT and os.isatty(0):
            return  # a Ctrl-C on a terminal has reached every process already
        for process in self._running.values():
            if process.pid and process.exitcode is None:
                os.kill(process.pid, self.stop.signal)


def in_silence(request: Request) -> int:
    """The exit code of one job, which shows nothing."""
    terminal.silence()
    return multi.job(request)


def _work(do: Callable[[Any], int], argument: Any) -> None:
    """What such a process does."""
    with watching(afterwards=signal.SIG_IGN) as stop:
        try:
            stop.at_once()
            threading.Thread(target=end_with_parent, daemon=True).start()
            code = do(argument)
        except KeyboardInterrupt:
            code = stop.exit_code or 130
        stop.noted()
    gc.freeze()  # as `__main__.py` does
    raise SystemExit(code)


@contextmanager
def _signals_wait() -> Any:
    resource_tracker.ensure_running()  # which, started with the process, would let them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(more: Mapping[str, str]) -> Any:
    """Within, for the process that starts, which loads torch while it does."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
