"""Stopping jobs of a multirun that other processes of this machine do, each with a checkpoint."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ebm_cli.commands import sweep
from ebm_cli.record import lease
from ebm_cli.signals import StopRequest, watching

_LOOK = 0.2  # seconds


@contextmanager
def passed_on(path: Path, homes: Sequence[Path]) -> Iterator[None]:
    """Within, a request to stop reaches all jobs in `homes`, of the multirun in `path`; those not begun do not begin.

    The launcher itself is left in peace until its jobs have ended: one that is interrupted kills them.
    """
    ended = threading.Event()
    with watching() as stop:
        stop.noted()
        passing = threading.Thread(target=_pass_on, args=(path, homes, stop, ended), daemon=True)
        passing.start()
        try:
            yield
        finally:
            ended.set()
            passing.join()


def _pass_on(path: Path, homes: Sequence[Path], stop: StopRequest, ended: threading.Event) -> None:
    """Jobs that were beginning when the request came have no process yet that is known: it is looked for again."""
    told = set[tuple[Path, int]]()
    while not ended.wait(_LOOK):
        if not stop.signal:
            continue
        if sweep.halted(path) is None:
            sweep.halt(path, stop.said)
        for home in homes:
            process = lease.process(home)
            if process is not None and (home, process) not in told:
                told.add((home, process))
                with suppress(ProcessLookupError):
                    os.kill(
                        process, signal.SIGTERM
                    )  # which, unlike a second Ctrl-C, hurries nobody that heard the first
