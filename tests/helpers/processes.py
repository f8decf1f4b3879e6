"""Processes that have torch in memory when they begin: a start of Python with torch takes seconds of CPU time."""

import multiprocessing
import os
import sys
from multiprocessing import context as contexts
from multiprocessing import forkserver
from pathlib import Path

from ebm_cli.__main__ import main

_SERVER = forkserver._forkserver
_CONTEXT = multiprocessing.get_context


def context():
    """Forks of a process of its own, which share nothing with this one."""
    found = _CONTEXT("forkserver")
    found.set_forkserver_preload(["ebm_cli.commands.train", "hydra", "helpers.cli"])
    return found


def keep_warm(monkeypatch) -> None:
    """What this process starts as a new Python is forked too: given its work in the same way, as bytes."""
    ready()  # begun later, it would take over what is set for one start alone
    monkeypatch.setattr(multiprocessing, "get_context", _warm)


def _warm(method=None):
    return _Context() if method == "spawn" else _CONTEXT(method)


class _Process(contexts.ForkServerProcess):
    """One that writes where the program writes that starts it."""

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self.output = _OUTPUT

    def run(self) -> None:
        _write_to(self.output)
        super().run()


class _Context(contexts.ForkServerContext):
    Process = _Process


_OUTPUT: str | None = None


def _write_to(output: str | None) -> None:
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)


def program(words: list[str], output: Path, first=None) -> multiprocessing.Process:
    """`ebm WORDS` in a session of its own, which writes to `output`; `first` is called there before it begins."""
    found = context()
    _SERVER.ensure_running()
    place = (str(output), os.getcwd(), dict(os.environ), _SERVER._forkserver_address)
    process = found.Process(target=_run, args=(words, *place, first))
    process.start()
    return process


def _run(words: list[str], output: str, folder: str, environment: dict, server: str, first) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.setsid()
    global _OUTPUT
    _OUTPUT = output
    _write_to(output)
    _SERVER._forkserver_address, _SERVER.ensure_running = server, lambda: None  # not one more, without torch
    multiprocessing.get_context = _warm
    sys.argv = ["ebm", *words]
    if first is not None:
        first()
    sys.exit(main())


def ready() -> None:
    """Have the process that is forked."""
    context()
    _SERVER.ensure_running()


def forked() -> set[int]:
    """The processes that were forked and live."""
    server = _SERVER._forkserver_pid
    return set(map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split()))
