"""`device.ranks=N`: this command as N processes on this machine. `torchrun` does the same across machines."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

_LAST_WORDS = 10.0  # seconds the others have once one has failed, so that the cause is told before the consequences

Main = Callable[[Any], int]


def launch(main: Main, argument: Any, count: int) -> int:
    """Run `main(argument)` in `count` processes that know their ranks; the exit code of rank 0.

    Signals to this process reach all of them. One that dies takes the others with it.
    """
    context = multiprocessing.get_context("spawn")
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), **_threads(count)}
    ranks: list[BaseProcess] = []
    for rank in range(count):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(context.Process(target=_work, args=(main, argument, own)))
    before = {number: signal.signal(number, lambda n, _: _forward(ranks, n)) for number in _FORWARDED}
    try:
        _start(ranks, shared)
        return _wait(ranks)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def _forward(ranks: Sequence[BaseProcess], number: int) -> None:
    """Ctrl-C on a terminal has reached every process already."""
    if number == signal.SIGINT and os.isatty(0):
        return
    for process in ranks:
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


def _work(main: Main, argument: Any, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    raise SystemExit(main(argument))


def _wait(ranks: Sequence[BaseProcess]) -> int:
    """The exit code of rank 0; 1 if it did well and another did not."""
    deadline = None
    while any(process.is_alive() for process in ranks):
        if deadline is None and any(process.exitcode for process in ranks):
            deadline = time.monotonic() + _LAST_WORDS
        if deadline is not None and time.monotonic() > deadline:
            for process in ranks:
                process.kill()
        time.sleep(0.05)
    codes = [process.exitcode or 0 for process in ranks]
    return abs(codes[0]) or int(any(codes))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _threads(count: int) -> dict[str, str]:
    """As many CPU threads in all as one process would have."""
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
