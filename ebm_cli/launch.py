"""`device.ranks=N`: this command as N processes on this machine. `torchrun` does the same across machines."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any

_LAST_WORDS = 10.0  # seconds the others have once one has failed, so that the cause is told before the consequences

Main = Callable[[Any], int]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_started: Any = None  # in one of the processes: set once it answers signals itself


def launch(main: Main, argument: Any, count: int) -> int:
    """Run `main(argument)` in `count` processes that know their ranks; the exit code of rank 0.

    One that dies takes the others with it. Signals to this process reach all of them once they have started; before,
    they end all. Raises KeyboardInterrupt for a Ctrl-C that came so early.
    """
    context = multiprocessing.get_context("spawn")
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), **_threads(count)}
    ranks: list[tuple[BaseProcess, Event]] = []
    for rank in range(count):
        own, ready = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, context.Event()
        ranks.append((context.Process(target=_work, args=(main, argument, own, ready, os.getpid())), ready))
    early: list[int] = []
    # What is blocked here stays so in the processes until they have said what is to become of it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    before = {number: signal.signal(number, lambda n, _: _forward(ranks, n, early)) for number in _SIGNALS}
    try:
        _start([process for process, _ in ranks], shared)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return _wait([process for process, _ in ranks], early)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def started() -> Iterator[None]:
    """Entered by one of the processes when it answers signals itself; in any other it does nothing."""
    if _started is not None:
        _started.set()
    yield


def _forward(ranks: Sequence[tuple[BaseProcess, Event]], number: int, early: list[int]) -> None:
    """Ctrl-C on a terminal has reached every process already."""
    if not all(ready.is_set() for _, ready in ranks):
        early.append(number)
        return
    if number == signal.SIGINT and os.isatty(0):
        return
    for process, _ in ranks:
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _start(ranks: Sequence[BaseProcess], shared: Mapping[str, str]) -> None:
    """Threads must be limited before torch is loaded, which the children do while they start."""
    before = dict(os.environ)
    os.environ.update(shared)
    try:
        for process in ranks:
            process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _work(main: Main, argument: Any, environment: Mapping[str, str], ready: Event, parent: int) -> None:
    global _started
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # until `started`, they are the parent's to answer
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    _started = ready
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ.update(environment)
    raise SystemExit(main(argument))


def _end_with(parent: int) -> None:
    """Nobody would stop a rank whose parent was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _wait(ranks: Sequence[BaseProcess], early: Sequence[int]) -> int:
    """The exit code of rank 0; 1 if it did well and another did not."""
    deadline = None
    while any(process.is_alive() for process in ranks):
        if early:
            _kill(ranks)
            if early[0] == signal.SIGINT:
                raise KeyboardInterrupt
            return 128 + early[0]
        if deadline is None and any(process.exitcode for process in ranks):
            deadline = time.monotonic() + _LAST_WORDS
        if deadline is not None and time.monotonic() > deadline:
            _kill(ranks)
        time.sleep(0.05)
    codes = [process.exitcode or 0 for process in ranks]
    return abs(codes[0]) or int(any(codes))


def _kill(ranks: Sequence[BaseProcess]) -> None:
    for process in ranks:
        process.kill()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _threads(count: int) -> dict[str, str]:
    """As many CPU threads in all as one process would have."""
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
