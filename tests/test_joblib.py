"""Jobs of a multirun in processes of their own: stopping them all, losing one, and what they say."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.cli import TINY, ebm, facts, outcome
from hydra.core.hydra_config import HydraConfig

from ebm_cli import terminal
from ebm_cli.cli.elsewhere import Elsewhere
from ebm_cli.commands import sweep
from ebm_cli.commands.multi import Run
from ebm_cli.commands.stopping import passed_on
from ebm_cli.record import lease
from ebm_cli.record.ledger import Entry, Ledger
from ebm_cli.signals import StopRequest, watching

HOLDER = (
    "import sys, time; from pathlib import Path; from ebm_cli.record import lease\n"
    "with lease.claimed(Path(sys.argv[1]), ''): print('held', flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def heard(monkeypatch):
    """What is shown, once the terminal is shared."""
    shown = io.StringIO()
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(sweep=SimpleNamespace(subdir="h4/7")))
    monkeypatch.setattr(terminal, "_streams", {})
    with contextlib.redirect_stderr(shown):
        yield shown


def holding(home: Path) -> subprocess.Popen:
    """A process that trains the job in `home`, as far as its lease says."""
    home.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(home)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


@contextlib.contextmanager
def uninterrupted():
    """That no KeyboardInterrupt, which would end the tests, gets out."""
    try:
        yield
    except KeyboardInterrupt:
        pytest.fail("interrupted")


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_request_to_stop_reaches_the_jobs_of_this_call_alone():
    Path("sweep").mkdir()
    mine, other = holding(Path("sweep/0")), holding(Path("sweep/1"))
    try:
        stopping = passed_on(Path("sweep"), [Path("sweep/0"), Path("sweep/2")])
        with uninterrupted(), watching() as stop, stopping:
            os.kill(os.getpid(), signal.SIGINT)  # which is noted, not raised
            assert mine.wait(10) == -signal.SIGTERM
        assert stop.exit_code == 130
        assert sweep.halted(Path("sweep")) == "interrupted"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        mine.kill()


@pytest.mark.long
def test_jobs_that_begin_after_the_request_are_stopped_too():
    Path("sweep").mkdir()
    with watching() as stop, passed_on(Path("sweep"), [Path("sweep/0")]):
        stop.ask(signal.SIGTERM)
        until(lambda: sweep.halted(Path("sweep")))
        assert holding(Path("sweep/0")).wait(20) == -signal.SIGTERM


@pytest.mark.long
def test_without_a_request_nothing_is_stopped():
    Path("sweep").mkdir()
    job = holding(Path("sweep/0"))
    with passed_on(Path("sweep"), [Path("sweep/0")]):
        time.sleep(0.5)
    assert job.poll() is None
    assert sweep.halted(Path("sweep")) is None
    job.kill()
    job.wait()


def test_the_process_of_a_lease():
    Path("run").mkdir()
    assert lease.process(Path("run")) is None
    with lease.claimed(Path("run"), ""):
        assert lease.process(Path("run")) == os.getpid()
        there = Path("run", lease.NAME).read_text()
        Path("run", lease.NAME).write_text(there.replace('"namespace": "pid', '"namespace": "of another container'))
        assert lease.process(Path("run")) is None
        Path("run", lease.NAME).write_text(there)


def ledger_of(count: int) -> Ledger:
    entries = [Entry(number, str(number), (), {"seed": number}) for number in range(count)]
    Path("sweep").mkdir()
    return Ledger(Path("sweep"), [], entries)


@pytest.mark.parametrize("heals", [False, True])
def test_jobs_that_a_launcher_lost_are_launched_again_and_in_the_end_alone(heals):
    """Job 1 kills its worker at each attempt; the launcher then kills those that run beside it."""
    found, launched = ledger_of(4), []

    def launch(batch):
        numbers = [entry.number for entry in batch]
        launched.append(numbers)
        dies = 1 in numbers and not (heals and len(launched) > 1)
        for number in numbers:
            home = Path("sweep", str(number))
            home.mkdir(exist_ok=True)
            fine = number == 0 or not dies
            Run(home).write_json("metadata.json", {"status": "done" if fine else "running"})
        if dies:
            raise BrokenExecutor("a worker was killed")

    sweep.work(found, launch, sweep.Orders(one_by_one=False), StopRequest())
    states = [sweep.state(Path("sweep", str(number))) for number in range(4)]
    if heals:
        assert launched == [[0, 1, 2, 3], [1, 2, 3]]
        assert states == ["done"] * 4
    else:
        assert launched == [[0, 1, 2, 3], [1, 2, 3], [1], [2], [3]]
        assert states == ["done", "died", "done", "done"]


def test_a_launcher_that_always_loses_all_is_given_up():
    launched = []

    def launch(batch):
        launched.append(batch)
        raise BrokenExecutor("no worker lives")

    sweep.work(ledger_of(2), launch, sweep.Orders(one_by_one=False), StopRequest())
    assert len(launched) == 4  # twice both, and each alone


def test_nothing_but_an_exit_code_leaves_a_worker(heard):
    def task(config):
        if config == "stopped":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    task.outcome = SimpleNamespace(error=None)
    job = Elsewhere(task)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with uninterrupted():
            assert job("stopped") == 130
            assert job("asked at once") == 75
            for number in before:  # between jobs a signal is for nobody
                assert signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler)
                os.kill(os.getpid(), number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_lines_of_a_job_among_others_name_it(monkeypatch):
    shown = io.StringIO()
    shown.isatty = lambda: True
    stream = terminal.Lasting("stdout")
    monkeypatch.setattr(sys, "stdout", shown)
    assert stream.isatty()
    monkeypatch.setattr(terminal, "_streams", {"stdout": stream})
    terminal.among_others("h4/7")
    stream.write("one\ntwo\n")
    assert shown.getvalue() == "h4/7 | one\nh4/7 | two\n"
    assert not stream.isatty()


JOBS = (*TINY, "device.threads=1", "steps=500", "save_every=100", "log_every=100", "seed=1,2,3")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What comes of the jobs one after the other."""
    folder = tmp_path_factory.mktemp("whole")
    assert ebm("train -m", *JOBS, f"hydra.sweep.dir={folder}").code == 0
    return [outcome(folder / number) for number in "012"]


@pytest.mark.long
@pytest.mark.parametrize("how", ["INT", "KILL a worker"])
def test_joblib(how, undisturbed):
    """Stopped with checkpoints, or a worker killed: in the end all is as if nothing had happened."""
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    command = [sys.executable, "-m", "ebm_cli", "train", "-m", *JOBS, *launcher, "hydra.sweep.dir=sweep"]
    with open("said.txt", "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    until_step(Path("sweep/0"))
    if how.startswith("KILL"):
        os.kill(facts(Path("sweep/0"), lease.NAME)["pid"], signal.SIGKILL)
        assert process.wait(120) == 0
    else:
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        jobs = facts(Path("sweep"), "summary.json")["jobs"]
        seen = {job["status"] for job in jobs}
        assert "stopped" in seen
        assert seen <= {"stopped", "new", "done"}  # a job may be over before the signal comes
        assert ebm("train -m", *JOBS, "hydra.sweep.dir=sweep", "resume=auto").code == 0  # without that launcher
    assert "Traceback" not in Path("said.txt").read_text()
    assert [outcome(Path("sweep", number)) for number in "012"] == undisturbed


def until_step(home: Path) -> None:
    """Wait until a job has a checkpoint."""
    deadline = time.monotonic() + 120
    while not list(home.glob("checkpoints/step-*/MANIFEST.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
