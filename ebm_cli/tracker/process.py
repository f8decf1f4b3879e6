"""A tracker in a process of its own, so that what it imports and computes does not hold up the run.

`start` may be called long before there is anything to show: the process then imports the tracker's library while this
one imports torch and reads the data.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import Pipe
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli.tracker.base import ElsewhereError, End, RunInfo, Tracker, TrackerSpec
from ebm_cli.tracker.worker import Opening

APART = ("wandb", "mlflow", "trackio")  # trackers whose library takes long to import, or prints what is not ours
_WORK = "import sys; fd, name, *sys.path = sys.argv[1:]; from ebm_cli.tracker.worker import main; main(int(fd), name)"

_waiting: dict[str, "_Process"] = {}  # by the name of the tracker


def start(name: str) -> None:
    """Start the process of the tracker of this name, if it is one that runs apart and none waits for it already."""
    if name in APART and name not in _waiting:
        _waiting[name] = _Process(name)


def apart(spec: TrackerSpec, name: str) -> TrackerSpec:
    """The tracker of this name as it is to be opened: here, or in a process of its own."""
    return Apart(spec, name) if name in APART else spec


class Apart(TrackerSpec):
    """The same tracker, opened and called in another process; exceptions there are raised here as ElsewhereError."""

    def __init__(self, spec: TrackerSpec, name: str) -> None:
        self._spec = spec
        self._name = name
        self.shows_histograms = spec.shows_histograms

    @override
    def check(self) -> None:
        self._spec.check()

    @override
    def open(self, run: RunInfo) -> Tracker:
        """In the process that waits, or in a new one."""
        process = _waiting.pop(self._name, None) or _Process(self._name)
        try:
            process.ask("open", Opening(self._spec, run, sys.argv, os.getcwd(), dict(os.environ)))
        except ElsewhereError:
            process.end()
            raise
        return _Remote(process)


class _Process:
    """The other process, and the connection to it: one question, one answer."""

    def __init__(self, name: str) -> None:
        self._connection, theirs = Pipe()
        self._running = subprocess.Popen(
            [sys.executable, "-P", "-c", _WORK, str(theirs.fileno()), name, *sys.path],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, which closes its tracker
        )
        theirs.close()

    def ask(self, method: str, *arguments: object) -> Any:
        """Have the tracker's method called; what it returns. Raises ElsewhereError if that failed."""
        try:
            self._connection.send((method, arguments))
            trouble, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise ElsewhereError(f"its process ended with exit code {self._running.wait()}") from error
        if trouble is not None:
            raise ElsewhereError(trouble)
        return answer

    def end(self) -> None:
        """Nothing more will be asked; returns when all of it is gone."""
        self._connection.close()
        self._running.wait()


class _Remote(Tracker):
    """Passes every call on."""

    def __init__(self, process: _Process) -> None:
        self._process = process

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._process.ask("log", step, metrics)

    @override
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        self._process.ask("images", step, images)

    @override
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        self._process.ask("histograms", step, values)

    @override
    def ended(self, end: End) -> None:
        self._process.ask("ended", end)

    @override
    def close(self, summary: Mapping[str, float]) -> str | None:
        """There, and wait for the end of the process."""
        line: str | None = self._process.ask("close", summary)
        self._process.end()
        return line
