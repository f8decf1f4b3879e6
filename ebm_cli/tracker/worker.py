"""The other side of `process.py`: the process that a tracker runs in."""

import importlib
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn

from ebm_cli.tracker.base import RunInfo, Tracker, TrackerSpec, described

_NICENESS = 5  # training goes first where both want the same core
_GRACE = 30.0  # seconds that the process has to end in once the run is gone


class Opening(NamedTuple):
    """What is needed in order to open the tracker as the run would."""

    spec: TrackerSpec
    run: RunInfo
    argv: list[str]
    folder: str  # the working directory, from which paths are counted
    environment: dict[str, str]


def main(descriptor: int, name: str) -> None:
    """Import, open, answer until the run closes the tracker or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # batch systems send them to every process of a job
    os.nice(_NICENESS)
    threading.Thread(target=_outlive, args=(os.getppid(),), daemon=True).start()
    importlib.import_module(f"ebm_cli.tracker.{name}").load()
    _serve(Connection(descriptor))


def _serve(connection: Connection) -> None:
    tracker: Any = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            _broken_off(tracker)
        try:
            if method == "open":
                tracker, answer = _opened(*arguments), None
            else:
                answer = getattr(tracker, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - told to the run, which has a rule for what its tracker raises
            connection.send((described(error), None))
        else:
            connection.send((None, answer))
            if method == "close":
                return


def _broken_off(tracker: Tracker | None) -> NoReturn:
    """The run is gone. A record that is closed without having seen the end keeps what waits, and says so."""
    if tracker is None:
        sys.exit(0)
    tracker.close({})
    sys.exit(1)


def _opened(opening: Opening) -> Tracker:
    """As if in the process of the run, which may have changed since this one was started."""
    sys.argv = opening.argv
    os.chdir(opening.folder)
    os.environ.clear()
    os.environ.update(opening.environment)
    return opening.spec.open(opening.run)


def _outlive(parent: int) -> None:
    """End the process by force if the run has been gone for a while, whatever the tracker still waits for."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(_GRACE)
    os._exit(1)
