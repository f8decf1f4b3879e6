"""Nothing that a run recorded is wiped, and whatever fails says so in the run's own record."""

import csv
import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from helpers.cli import TINY, assert_refused, ebm, facts, snapshot, train, trained
from test_resume import Killed, at_step, die

from ebm_cli import terminal
from ebm_cli.cli.arguments import prepared
from ebm_cli.errors import UserError
from ebm_cli.record import checkpoint
from ebm_cli.record.run import Run
from ebm_cli.tracker.csv import CsvTracker
from ebm_cli.training import loop


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# What resuming would overwrite


def test_a_run_whose_checkpoints_are_gone_is_refused():
    run = trained()
    shutil.rmtree(run / "checkpoints")
    before = snapshot(run)
    answer = ebm("train resume=run")
    assert_refused(answer, "resume = run: its checkpoints are gone, though its metadata.json says done; put the folder")
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        ({"status": "running", "checkpoint": 3}, "a checkpoint of step 3 was saved"),
        ({"status": "running"}, "its metrics.jsonl goes to step 12"),
    ],
)
def test_lost_checkpoints_are_known_from_what_else_there_is(meta, why):
    run = trained("save_every=3")
    shutil.rmtree(run / "checkpoints")
    (run / "metadata.json").write_text(json.dumps(meta))
    before = snapshot(run)
    assert_refused(ebm("train resume=run"), why)
    assert snapshot(run) == before


@pytest.mark.parametrize("size", [0, 100, None])
def test_metrics_that_were_cut_are_refused_and_stay(size):
    run = trained()
    if size is None:
        (run / "metrics.jsonl").unlink()
    else:
        os.truncate(run / "metrics.jsonl", size)
    before = snapshot(run)
    assert_refused(ebm("train resume=run steps=20"), "its checkpoint says", "put it back, or start a new run")
    assert snapshot(run) == before


def test_what_an_older_checkpoint_does_not_know_of_is_kept():
    run = trained("save_every=3")
    whole = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    answer = ebm("train resume=run")
    assert answer.code == 0
    assert "metrics.jsonl as it was is kept in run/aside/" in answer.err
    (kept,) = run.glob("aside/*/metrics.jsonl")
    assert kept.read_bytes() == whole
    assert not (run / "metrics.jsonl").read_bytes().startswith(whole[:-1] + b"x")


@pytest.mark.parametrize(("line", "kept"), [("steps=10", True), ("log_every=2", True), ("", False)])
def test_what_a_killed_run_logged_is_kept_unless_it_will_be_logged_again(line, kept, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 11, die)
        with pytest.raises(Killed):
            train("save_every=6")
    as_killed = {name: value for name, value in facts(Path("run")).items() if name not in ("step", "error")}
    Path("run/metadata.json").write_text(json.dumps({**as_killed, "status": "running"}))
    whole = Path("run/metrics.jsonl").read_bytes()
    answer = ebm(f"train resume=run {line}")
    assert answer.code == 0, answer.err
    assert [path.read_bytes() for path in Path("run").glob("aside/*/metrics.jsonl")] == [whole] * kept
    assert ("metrics.jsonl as it was is kept in run/aside/" in answer.err) == kept
    assert kept or Path("run/metrics.jsonl").read_bytes().startswith(whole)


def test_a_run_that_goes_on_has_no_summary_until_it_ends(monkeypatch):
    trained()
    found = []
    at_step(monkeypatch, 15, lambda: found.append(Path("run/summary.json").exists()))
    assert ebm("train resume=run steps=20").code == 0
    assert found == [False]
    assert facts(Path("run"), "summary.json")["steps"] == 20


def test_the_summary_of_a_run_that_goes_on_is_kept():
    run = trained()
    assert ebm("train resume=run").code == 0
    assert not (run / "aside").exists(), "nothing but the time is another"
    before = (run / "summary.json").read_bytes(), (run / "samples" / "samples.png").read_bytes()
    assert ebm("train resume=run steps=20").code == 0
    (folder,) = (run / "aside").iterdir()
    assert ((folder / "summary.json").read_bytes(), (folder / "samples" / "samples.png").read_bytes()) == before
    assert facts(run, "summary.json")["steps"] == 20


def test_metadata_that_cannot_be_read_are_kept():
    run = trained()
    (run / "metadata.json").write_text('{"status": "do')
    assert ebm("train resume=run").code == 0
    assert next(run.glob("aside/*/metadata.json")).read_text() == '{"status": "do'


# Streams and disks


class Gone:
    """A stream whose reader has left."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    flush = isatty = lambda self: self.write("")


def test_output_that_nobody_reads_stops_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(terminal, "_streams", terminal._streams)
    from ebm_cli.cli.main import dispatch

    assert dispatch(["train", *TINY, "hydra.run.dir=run"]) == 0
    assert dispatch(["trian"]) == 2
    assert facts(Path("run"))["status"] == "done"
    assert "nobody reads standard error any more (Broken pipe)" in Path("run/train.log").read_text()


def test_streams_that_were_closed_at_the_start(monkeypatch):
    from ebm_cli.cli.main import dispatch

    monkeypatch.setattr(sys, "stderr", None)
    assert dispatch(["train", *TINY, "hydra.run.dir=run"]) == 0
    assert dispatch(["trian"]) == 2


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_a_lost_terminal_or_the_end_of_the_time_saves(number, monkeypatch):
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), number))
    assert train().code == 75
    assert checkpoint.steps(Path("run/checkpoints")) == [6]
    assert facts(Path("run"))["status"] == "stopped"


def test_what_was_ignored_at_the_start_stays_ignored(monkeypatch):
    """Under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    original = loop.train_step

    def stepping(parts, state, how):
        os.kill(os.getpid(), signal.SIGHUP)
        return original(parts, state, how)

    try:
        monkeypatch.setattr(loop, "train_step", stepping)
        assert train().code == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.quick("30*", "28*")
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free space"),
        (errno.EROFS, "Make the file system writable"),
        (errno.EACCES, "Get the right to write there"),
        (errno.EIO, "See what is wrong with the disk"),
        (errno.ENOENT, "Put back what was moved or deleted"),
        (errno.ENAMETOOLONG, "Take shorter names"),
        (errno.ENXIO, "Mend that"),
    ],
)
def test_a_disk_that_fails_is_one_sentence(number, advice, monkeypatch):
    def failing(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Run, "sync_metrics", failing)
    answer = train("save_every=6")
    assert answer.code == 1
    assert f"step 6: {os.strerror(number)} while writing to run; there is no checkpoint yet. {advice}, then: ebm" in (
        answer.err.replace("\n", " ")
    )
    assert facts(Path("run"))["status"] == "failed"
    assert "Traceback" not in answer.err


# Command lines


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("~sampler", "~sampler: sampler cannot be left out; give another, sampler=NAME"),
        ("~tracker", "give another, tracker=none"),
        ("~steps", "~steps: steps cannot be left out; give another, steps=VALUE"),
        ("~checkpoint", "checkpoint cannot be left out"),
        ("~evaluation", "nothing with evaluation=[]"),
        ("--steps=8", "--steps=8: keys have no dashes before them; write steps=8"),
        ("--model.hidden=8", "write model.hidden=8"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(argument, said):
    assert_refused(ebm("train", argument), said)


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("dataset.path=a.npz,b.npz", "dataset.path='a.npz','b.npz'"),
        ("dataset.path=there,too.npz", "dataset.path='there,too.npz'"),
        ("model.path=x (1).txt", "model.path='x (1).txt'"),
        ("noise.source.path=a=b", "noise.source.path='a=b'"),
        ("evaluation.ood.root=a b", "evaluation.ood.root='a b'"),
        ("dataset.vocabulary_file='x'", "dataset.vocabulary_file='x'"),
        ("dataset.contacts=null", "dataset.contacts=null"),
        ("hydra.sweep.dir=a,b", "hydra.sweep.dir='a,b'"),
        ("model.hidden=4,8", "model.hidden=4,8"),
    ],
)
def test_paths_need_no_quotes_and_several_are_several(argument, quoted):
    Path("there,too.npz").touch()
    assert prepared([argument, "-m"], "train")[0] == quoted


def test_one_path_may_hold_a_comma():
    assert prepared(["dataset.path=a,b"], "train") == ["dataset.path='a,b'"]
    group = "+evaluation.mixing.samplers.path={name: pafs, radius: 3}"
    assert prepared([group], "train") == [group], "keys by a name of the user's own, which is no file"


# Trackers of a resumed run


def test_a_table_of_metrics_has_each_row_once(monkeypatch, tmp_path):
    tracker = CsvTracker(tmp_path)
    for step in (1, 2, 3):
        tracker.log(step, {"loss": float(step)})
    tracker.close({})
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,1")
    tracker = CsvTracker(tmp_path, 2)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,1.0\n2,2.0\n"
    tracker.log(3, {"loss": 3.0})
    tracker.close({})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,1.0\n2,2.0\n3,3.0\n"


@pytest.mark.long
def test_a_resumed_run_tells_its_tracker_where_it_goes_on():
    run = trained("tracker=csv save_every=4 steps=8")
    with (run / "metrics.csv").open("a") as file:
        file.write("9\n")
    assert ebm("train resume=run steps=12").code == 0
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 13)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in lines if "loss" in line]


def test_the_id_of_an_agent_is_the_runs(monkeypatch):
    from ebm_cli.commands.session import _agent

    monkeypatch.setenv("WANDB_RUN_ID", "x3k9v2ab")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert _agent({"tracker": {"name": "wandb"}}, None) == {"id": "x3k9v2ab", "wandb_sweep": "s1"}
    assert _agent({"tracker": {"name": "wandb"}}, "sweep") == _agent({"tracker": {"name": "none"}}, None) == {}
    monkeypatch.setenv("WANDB_RUN_ID", "../x")
    assert _agent({"tracker": {"name": "wandb"}}, None) == {}


# Faults of the program


@pytest.mark.long
def test_an_unexpected_exception_of_a_job_stands_in_its_own_record(monkeypatch):
    original = loop.train_step

    def stepping(parts, state, how):
        if state.step == 3 and parts.loop.seed != 2:
            raise LookupError(f"seed {parts.loop.seed}")
        return original(parts, state, how)

    monkeypatch.setattr(loop, "train_step", stepping)
    answer = ebm("train -m", *TINY, "hydra.sweep.dir=sweep", "seed=1,2,3")
    assert answer.code == 1
    for job, seed in ((0, 1), (2, 3)):
        assert facts(Path("sweep", str(job)))["error"] == f"LookupError: seed {seed}"
        assert f"LookupError: seed {seed}" in answer.err
        assert "Traceback" in Path("sweep", str(job), "train.log").read_text()
    assert facts(Path("sweep/1"))["status"] == "done"
    assert [entry["status"] for entry in facts(Path("sweep"), "summary.json")["jobs"]] == ["failed", "done", "failed"]


@pytest.mark.long
def test_names_that_no_file_can_have(tmp_path):
    for line in (
        "train resume={}", "sample run={}", "evaluate run={}", "train hydra.run.dir={}", "train -m resume={}",
        "tune resume={}", "train -m seed=1,2 hydra.sweep.dir={}", "compare {}", "report {}", "watch {}",
    ):  # fmt: skip
        assert_refused(ebm(line.format("x" * 300)), "x" * 300)
    assert_refused(ebm("sample", "run=caf\udce9"), "run=caf\\xe9", "UTF-8")


@pytest.mark.quick("text1*")
@pytest.mark.parametrize(
    ("text", "why"), [("a: " + "x" * 2**18, "more than 262144"), ("[" * 10**5, "nested more than")]
)
def test_a_configuration_of_any_size_is_answered(text, why):
    run = trained()
    (run / "config.yaml").write_text(text)
    assert_refused(ebm("sample run=run"), "config.yaml is not a run's configuration", why)


def test_a_directory_that_cannot_be_made():
    Path("file").touch()
    assert_refused(ebm("train -m seed=1,2 hydra.sweep.dir=file/sweep"), "hydra.sweep.dir", "file/sweep")
    with pytest.raises(UserError):
        prepared(["resume=file"], "train")
