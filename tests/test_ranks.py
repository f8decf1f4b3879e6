"""Several processes that train one model do what one process would, and share what they must."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import processes
from helpers.cli import assert_refused, ebm
from safetensors.torch import load_file

from ebm_cli import rng
from ebm_cli.device.ranks import Ranks
from ebm_cli.errors import UserError

CONSTANT = "optimizer.schedule=constant"  # a schedule would depend on the number of steps
ADAM = ["optimizer=adam", "optimizer.eps=0.1"]  # a smaller one blows rounding of a vanishing gradient up to a step
SHORT = ["steps=40", "eval_every=20", "save_every=20", "tracker=none", "evaluation=[]"]


def trained(directory, *overrides, ranks=1):
    """The tensors of the last checkpoint of a run; several ranks are processes of their own, which this one starts."""
    answer = ebm("train", *SHORT, f"device.ranks={ranks}", f"hydra.run.dir={directory}", *overrides)
    assert answer.code == 0, answer.err
    return last(directory)


def last(directory):
    return load_file(sorted(directory.glob("checkpoints/step-*/state.safetensors"))[-1])


def assert_same_run(found, expected):
    """Chains to the bit; weights up to the order of sums of some hundred float32 numbers in each of 40 steps."""
    assert torch.equal(found["chains"], expected["chains"])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.long
def test_two_ranks_train_as_one(tmp_path, capfd):
    assert_as_one(tmp_path, "objective.centered=true")
    said = capfd.readouterr().err
    assert "2 ranks, each CPU" in said
    assert said.count(f"run directory {tmp_path / 'two'}") == 2, "only rank 0 speaks"


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        ["chains=replay", "chains.size=300", "chains.steps=2", "objective.centered=true", *ADAM],
        ["chains=data", "sampler=metropolis", "optimizer.momentum=0.5", "optimizer.ema=0.5", "optimizer.ema_start=0"],
    ],
    ids=["replay", "data"],
)
def test_two_ranks_train_as_one_with_other_parts(tmp_path, overrides, monkeypatch):
    processes.keep_warm(monkeypatch)
    assert_as_one(tmp_path, *overrides)


def assert_as_one(tmp_path, *overrides):
    one = trained(tmp_path / "one", *overrides)
    assert_same_run(trained(tmp_path / "two", *overrides, ranks=2), one)


@pytest.mark.long
def test_a_run_resumes_with_another_number_of_ranks(tmp_path, monkeypatch):
    processes.keep_warm(monkeypatch)
    whole = trained(tmp_path / "whole", "steps=60", CONSTANT)
    trained(tmp_path / "parts", "steps=20", CONSTANT)
    for ranks, steps in ((2, 40), (1, 60)):
        answer = ebm("train", f"resume={tmp_path / 'parts'}", f"steps={steps}", f"device.ranks={ranks}")
        assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["steps"] == 60
    assert_same_run(last(tmp_path / "parts"), whole)


@pytest.mark.long
def test_torchrun_starts_ranks_too(tmp_path):
    one = trained(tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ebm_cli",
               "train", *SHORT]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    (directory,) = (tmp_path / "outputs").iterdir()  # ranks that only compute leave none behind
    assert_same_run(last(directory), one)


@pytest.mark.long
def test_a_signal_stops_all_ranks_with_a_checkpoint(tmp_path):
    words = ["train", "steps=1000000", "tracker=none", "evaluation=[]", "device.ranks=2", "device.compile=never",
             "log_every=10", f"hydra.run.dir={tmp_path / 'run'}"]  # fmt: skip
    process = processes.program(words, tmp_path / "said")
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    code, said = ended(process, tmp_path / "said")
    assert code == 75, said
    assert "go on with: ebm train resume=" in said
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGKILL])
def test_a_signal_that_reaches_another_rank_alone(tmp_path, number):
    """A second machine's processes are asked to stop by its own batch system, or die."""
    words = ["train", "steps=1000000", "tracker=none", "evaluation=[samples]", "device.ranks=2", "device.compile=never",
             "log_every=10", "save_every=100", f"hydra.run.dir={tmp_path / 'run'}"]  # fmt: skip
    process, ranks = with_ranks(words, tmp_path / "said")
    while not (tmp_path / "run" / "checkpoints").exists():
        assert process.exitcode is None
        time.sleep(0.02)
    os.kill(max(ranks), number)  # started last
    code, said = ended(process, tmp_path / "said")
    meta = json.loads((tmp_path / "run" / "metadata.json").read_text())
    killed = number == signal.SIGKILL
    assert (code, meta["status"]) == ((1, "failed") if killed else (75, "stopped")), said
    assert ("rank 1 was killed by SIGKILL" if killed else "go on with: ebm train resume=") in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["device.ranks=3"], "batch_size = 100: 3 ranks cannot share it equally; make it a multiple of 3"),
        (["device.ranks=2", "chains.count=33"], "chains.count = 33: 2 ranks cannot share it equally"),
        (["device.ranks=0"], "device.ranks = 0"),
    ],
)
@pytest.mark.long
def test_what_cannot_be_shared_is_refused_in_one_sentence(tmp_path, overrides, sentence):
    assert_refused(ebm("train", *SHORT, *overrides, f"hydra.run.dir={tmp_path / 'run'}"), sentence)
    assert not (tmp_path / "run").exists()


def test_processes_that_do_not_fit_are_refused_before_one_is_started(tmp_path):
    answer = ebm("train", *SHORT, "batch_size=100000", "chains.count=100000", "device.ranks=100000",
                 f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    assert_refused(answer, "not enough memory", "100000 processes 50 TB", "take fewer device.ranks")


@pytest.mark.long
def test_only_training_is_shared(tmp_path):
    trained(tmp_path / "run", "steps=2")
    for command in ("sample", "evaluate"):
        answer = ebm(command, f"run={tmp_path / 'run'}", "device.ranks=2")
        assert_refused(answer, "device.ranks = 2: only training is shared among processes")


@pytest.mark.long
def test_a_signal_while_ranks_start_ends_them_all(tmp_path):
    command = [sys.executable, "-m", "ebm_cli", "train", *SHORT, "device.ranks=2", f"hydra.run.dir={tmp_path / 'run'}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    ranks = wait_for_children(process.pid)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "ebm train: " in said
    assert all(not os.path.exists(f"/proc/{pid}") for pid in ranks)


def with_ranks(words, output):
    """The program, and the pids of its two ranks as soon as they are there."""
    processes.ready()
    before = processes.forked()
    process = processes.program(words, output)
    deadline = time.monotonic() + 60
    while len(found := processes.forked() - before - {process.pid}) < 2:
        assert time.monotonic() < deadline
        assert process.exitcode is None, output.read_text()
        time.sleep(0.01)
    return process, found


def ended(process, output):
    """Its exit code, and what it said."""
    process.join(60)
    return process.exitcode, output.read_text()


def wait_for_children(parent, count=2):
    """The pids of the ranks, as soon as they are there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        found = [pid for pid in found if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        if len(found) == count:
            return found
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.long
def test_ranks_end_when_their_parent_is_killed(tmp_path):
    words = ["train", *SHORT, "steps=1000000", "device.ranks=2", f"hydra.run.dir={tmp_path / 'run'}"]
    process, ranks = with_ranks(words, tmp_path / "said")
    process.kill()
    process.join()
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_shares_cover_everything_once():
    ranks = [Ranks(rank, 4) for rank in range(4)]
    rows = torch.arange(12)
    assert torch.equal(torch.cat([rows[each.share(12)] for each in ranks]), rows)
    with pytest.raises(UserError, match="batch_size = 10: 4 ranks"):
        ranks[0].check_shares(batch_size=10)


def test_alone_nothing_is_exchanged():
    tensors = {"a": rng.normal((3,), rng.stream(0)), "b": torch.tensor(2.0)}
    alone = Ranks()
    assert all(torch.equal(value, tensors[name]) for name, value in alone.mean(tensors).items())
    assert alone.gather(tensors["a"]) is tensors["a"]
    assert alone.highest(15, torch.device("cpu")) == 15
    alone.check_same(3, torch.device("cpu"))
