"""Signals at random moments of every command: the exit code, the status and the checkpoint are as documented.

The number of moments for each command is EBM_MOMENTS (1 unless set).
"""

import contextlib
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import processes
from helpers.cli import facts, last_step, trained

from ebm_cli.record import checkpoint, lease
from ebm_cli.signals import EXIT_CODES

MOMENTS = int(os.environ.get("EBM_MOMENTS", "1"))
RUN = [
    "model.hidden=8", "steps=200", "log_every=10", "save_every=50", "eval_every=100", "tracker=none", "device=cpu",
    "device.threads=1", "device.compile=never", "evaluation=[samples,pseudo_likelihood,ais]",
    "evaluation.ais.temperatures=200",
]  # fmt: skip
COMMANDS = {
    "train": ["train", *RUN, "hydra.run.dir=run"],
    "ranks": ["train", *RUN, "device.ranks=2", "hydra.run.dir=run"],
    "sample": ["sample", "run=trained", "n=50", "steps=1000"],
    "multirun": ["train", "-m", *RUN, "steps=120,160", "hydra.sweep.dir=run"],
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def program(words: list[str], output: Path) -> subprocess.Popen:
    """A process of its own, which imports torch first."""
    command = [sys.executable, "-m", "ebm_cli", *words]
    heard = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731  a shell may ignore it
    with output.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, preexec_fn=heard)


def ended(process: subprocess.Popen | multiprocessing.Process) -> int | None:
    """Its exit code once it has ended."""
    if isinstance(process, subprocess.Popen):
        return process.poll()
    return process.exitcode


def listens(process: subprocess.Popen | multiprocessing.Process) -> None:
    """Wait until it answers signals: the interpreter alone takes some hundredths of a second to begin."""
    mask = sum(1 << (number - 1) for number in EXIT_CODES)
    while ended(process) is None and _caught(process.pid) & mask != mask:
        time.sleep(0.002)


def _caught(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), 0)


def result(begin, words: list[str], output: Path, seconds: float | None = None, number: int = 0) -> tuple[int, str]:
    """Exit code and output of a command that got a signal after so many seconds, if it took as long."""
    process = begin(words, output)
    listens(process)
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # it had ended
            os.kill(process.pid, number)
    deadline = time.monotonic() + 200
    while ended(process) is None:
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.01)
    return ended(process), output.read_text()


def assert_whole(run: Path, code: int, expected: int, said: str) -> None:
    """A run directory agrees with the exit code; where there is none, nothing was begun."""
    if not (run / "config.yaml").exists():
        assert code == expected, said
        assert not run.exists() or not list(run.iterdir()), said
        return
    assert code == (0 if facts(run)["status"] == "done" else expected), said
    assert facts(run)["status"] == facts(run, "summary.json")["status"] in ("done", "stopped"), said
    assert checkpoint.newest(run / "checkpoints")[0].step == facts(run)["step"] == int(last_step(run).name[5:])
    assert not [path.name for path in run.iterdir() if "lease" in path.name or "writing" in path.name]
    assert code == 0 or "go on with: ebm train resume=run" in said, said


@pytest.mark.long
@pytest.mark.timeout(200 + 100 * MOMENTS)
@pytest.mark.parametrize(
    ("name", "begin"),
    [*((name, processes.program) for name in COMMANDS), ("train", program)],  # all commands begin alike
    ids=lambda value: {processes.program: "torch in memory", program: "from the start"}.get(value, value),
)
def test_at_any_moment(name, begin, tmp_path):
    trained("steps=20 device.threads=1", "trained")
    words, times = COMMANDS[name], random.Random(name)
    began = time.monotonic()
    code, said = result(begin, words, tmp_path / "whole")
    assert code == 0, said
    whole = time.monotonic() - began
    for moment in range(MOMENTS):
        number, place = times.choice(list(EXIT_CODES)), tmp_path / str(moment)
        place.mkdir()
        os.chdir(place)
        (place / "trained").symlink_to(tmp_path / "trained")
        code, said = result(begin, words, place / "output", times.uniform(0, 1.05 * whole), number)
        assert_answered(name, code, number, said, place)


def assert_answered(name: str, code: int, number: signal.Signals, said: str, place: Path) -> None:
    expected = EXIT_CODES[number]
    print(name, number.name, code, said.splitlines()[-3:])  # noqa: T201
    assert code in (0, expected), (number.name, code, said)
    assert "Traceback" not in said, said
    assert code == 0 or "stopped" in said or "interrupted" in said, (number.name, said)
    if name in ("train", "ranks"):
        assert_whole(place / "run", code, expected, said)
    for job in sorted(place.glob("run/?")) if name == "multirun" else []:
        if (job / "config.yaml").exists():
            assert facts(job)["status"] in ("done", "stopped"), said
            assert checkpoint.newest(job / "checkpoints")[0].step == facts(job)["step"]


def _timed_claim() -> None:
    """Have the seconds said that it took to get the lease, from the asking."""
    original = lease.Lease.__init__

    def timed(self: lease.Lease, *arguments: object) -> None:
        began = time.perf_counter()
        original(self, *arguments)
        print(f"claimed in {time.perf_counter() - began:.3f} s", flush=True)  # noqa: T201

    lease.Lease.__init__ = timed


def holder_of(run: Path) -> int | None:
    """The process that its lease names."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((run / lease.NAME).read_text())["pid"]
    return None


def logged_once(run: Path) -> bool:
    """Whether no step stands twice in metrics.jsonl, but for a last line that a killed process left."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if line.endswith("}") and "loss" in line]
    return steps == sorted(set(steps))


@pytest.mark.long
@pytest.mark.timeout(60 * MOMENTS)
def test_two_that_resume_one_run_and_one_that_is_killed(tmp_path):
    """Again and again: one gets it, the other is refused with its process id; killed, the next takes over at once."""
    words = ["train", *RUN, "eval_every=0"]
    assert result(processes.program, [*words, "steps=20", "hydra.run.dir=run"], tmp_path / "first")[0] == 0
    again, times, run = ["train", "resume=run", "steps=10000000"], random.Random(0), tmp_path / "run"
    claimed, since = [], []
    for _ in range(MOMENTS):
        began, outputs = time.monotonic(), [tmp_path / "one", tmp_path / "two"]
        both = [processes.program(again, outputs[0], _timed_claim)]
        time.sleep(times.uniform(0, 1))
        both.append(processes.program(again, outputs[1], _timed_claim))
        while all(process.exitcode is None for process in both):
            time.sleep(0.01)
        winner = int(both[0].exitcode is not None)
        assert_refused(both[1 - winner], outputs[1 - winner], both[winner].pid)
        while "resuming run at step" not in outputs[winner].read_text():
            assert both[winner].exitcode is None, outputs[winner].read_text()
            time.sleep(0.01)
        since.append(time.monotonic() - began)
        claimed.append(float(re.search(r"claimed in ([\d.]+) s", outputs[winner].read_text())[1]))
        assert holder_of(run) == both[winner].pid
        assert logged_once(run)
        both[winner].kill()
        both[winner].join()
        assert logged_once(run)
        for output in outputs:
            output.unlink()
    print(f"{MOMENTS} times: claimed within {max(claimed)} s, training within {max(since):.1f} s")  # noqa: T201
    assert max(claimed) < 2


def assert_refused(process: multiprocessing.Process, output: Path, holder: int) -> None:
    said = output.read_text()
    assert process.exitcode == 2, said
    assert f"process {holder} on" in said
    assert "Traceback" not in said
