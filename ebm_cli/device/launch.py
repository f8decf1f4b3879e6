"""`device.ranks=N`: this command as N processes on this machine. `torchrun` does the same across machines."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from ebm_cli.device.ranks import cores
from ebm_cli.errors import RunError
from ebm_cli.signals import EXIT_CODES, StopRequest, watching

_LAST_WORDS = 10.0  # seconds the others have once one has failed, so that the cause is told before the consequences
_STOPPED = set(EXIT_CODES.values())

Main = Callable[[Any], int]


def launch(main: Main, argument: Any, count: int, stop: StopRequest) -> int:
    """Run `main(argument)` in `count` processes that know their ranks; the exit code of rank 0.

    One that dies takes the others with it. Signals to this process reach all of them, and each answers by itself.
    Raises RunError if one was killed, and KeyboardInterrupt if rank 0 was asked to stop but could not.
    """
    context = multiprocessing.get_context("spawn")
    shared = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        **threads_each(count),
    }
    own = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    ranks = [context.Process(target=_work, args=(main, argument, environment)) for environment in own]
    stop.noted()  # the ranks say what became of it
    with _passed_on(ranks, stop):
        _start(ranks, shared)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)
        codes, ended = _wait(ranks)
    return _verdict(codes, ended, stop)


@contextmanager
def _passed_on(ranks: Sequence[BaseProcess], stop: StopRequest) -> Iterator[None]:
    """Within, signals go to the processes too. They begin blocked, here and in each process until it answers them."""

    def forward(number: int, _: object) -> None:
        stop.ask(number)
        if number == signal.SIGINT and os.isatty(0):
            return  # a Ctrl-C on a terminal has reached every process already
        for process in ranks:
            if process.pid and process.exitcode is None:
                os.kill(process.pid, number)

    resource_tracker.ensure_running()  # which, started by the first process, would unblock two of them
    signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    answered = [number for number in EXIT_CODES if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in answered}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)


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
    with watching(afterwards=signal.SIG_IGN) as stop:
        try:
            stop.at_once()
            threading.Thread(target=end_with_parent, daemon=True).start()
            os.environ.update(environment)
            code = main(argument)
        except KeyboardInterrupt:
            if environment["RANK"] == "0":
                sys.stderr.write(f"ebm train: {stop.said}\n")
            code = stop.exit_code or 130
        stop.noted()
    raise SystemExit(code)


def end_with_parent() -> None:
    """End this process once its parent is gone: nobody would stop it. For a thread of its own."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _wait(ranks: Sequence[BaseProcess]) -> tuple[list[int], set[int]]:
    """The exit codes of all, and the ranks that did not end by themselves in time once another had failed."""
    ended: set[int] = set()
    deadline = None
    while alive := [process for process in ranks if process.is_alive()]:
        if deadline is None and any(process.exitcode for process in ranks):
            deadline = time.monotonic() + _LAST_WORDS
        if deadline is not None and time.monotonic() > deadline:
            ended |= {rank for rank, process in enumerate(ranks) if process.is_alive()}
            for process in alive:
                process.kill()
        wait([process.sentinel for process in alive], 0.2)
    return [process.exitcode or 0 for process in ranks], ended


def _verdict(codes: Sequence[int], ended: set[int], stop: StopRequest) -> int:
    """That of rank 0, or of the request to stop that it had no time to answer; 1 if it did well and another did not."""
    killed = {rank: -code for rank, code in enumerate(codes) if code < 0 and rank not in ended}
    for rank, number in killed.items():
        why = " (was there too little memory?)" if number == signal.SIGKILL else ""
        raise RunError(f"rank {rank} was killed by {signal.Signals(number).name}{why}; the newest checkpoint is whole")
    if codes[0] < 0:
        if stop.signal:
            raise KeyboardInterrupt
        return 1
    return codes[0] or int(any(code not in (0, *_STOPPED) for code in codes))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def threads_each(count: int) -> dict[str, str]:
    """As many CPU threads in all as one process would have."""
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores() // count))}
