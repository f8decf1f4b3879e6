"""Completion in the shells themselves, where they are installed."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.cli import assert_refused, ebm
from helpers.components import ROOT

from ebm_cli.cli.completion import SHELLS

STUB = """#!/bin/sh
if [ "$1" = -sc ]; then exec {python} -m ebm_cli "$@"; fi
echo "GOT $*"
"""


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A home without settings and an `ebm` on the path that completes, and else repeats what it was told."""
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "ebm"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)
    for name, script in SHELLS.items():
        (tmp_path / name).write_text(script)
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TERM", "dumb")
    return tmp_path


def needs(name):
    return pytest.mark.skipif(not shutil.which(name), reason=f"{name} is not installed")


@pytest.mark.quick("ebm list*", "ebm trai*")
@needs("fish")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ebm trai", ["train"]),
        ("ebm list sampler gwg", ["gwg"]),
        ("ebm watch on", ["once="]),
        ("ebm compare format=m", ["format=md"]),
        ("ebm watch outp", ["outputs/"]),
    ],
)
def test_fish(shell, line, words):
    command = ["fish", "--no-config", "-c", f"source fish; complete -C '{line}'"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == words


@pytest.mark.long
@pytest.mark.quick("ebm list sampler*")
@needs("zsh")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ebm trai", "train"),
        ("ebm list sampler gw", "list sampler gwg"),
        ("ebm watch outp", "watch outputs"),
        ("ebm compare format=m", "compare format=md"),
    ],
)
def test_zsh(shell, line, found):
    assert f"GOT {found}" in typed(["zsh", "-f", "-i"], "PS1='READY''> '; source ./zsh\n", f"{line}\t\n")


@needs("bash")
@pytest.mark.parametrize(("line", "found"), [("ebm trai", "train"), ("ebm compare format=m", "compare format=md")])
def test_bash(shell, line, found):
    command = ["bash", "--norc", "-i"]
    assert f"GOT {found}" in typed(command, "PS1='READY''> '; source ./bash\n", f"{line}\t\n")


def typed(command, first, then):
    """What a shell shows on a terminal of its own: `first` is typed at once, `then` at its prompt."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        os.write(ours, first.encode())
        read(ours, "READY> ")
        os.write(ours, then.encode())
        return read(ours, "GOT ", "\n")
    finally:
        running.kill()
        running.wait()
        os.close(ours)


def read(file, *sought):
    """All that comes until each of the texts has come, one after the other."""
    seen, deadline = "", time.monotonic() + 60
    while True:
        place = 0
        for text in sought:
            place = seen.find(text, place) if place >= 0 else -1
        if place >= 0:
            return seen
        assert time.monotonic() < deadline, seen
        if select.select([file], [], [], 1)[0]:
            seen += os.read(file, 4096).decode(errors="replace")


def test_a_shell_that_is_not_known():
    assert_refused(ebm("completion fihs"), "completion fihs: name one shell, bash, zsh or fish; did you mean fish?")
    assert ebm("completion").out == ebm("completion bash").out == SHELLS["bash"]
    assert Path(ROOT, "README.md").read_text().count("ebm completion") == 3
