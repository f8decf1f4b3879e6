"""A multirun that is taken up again: which jobs there are, which of them are still to be done, and doing just those."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.cli import TINY, assert_refused, digest, ebm, facts, outcome, snapshot
from test_resume import Killed, at_step, die

from ebm_cli.commands import multi, sweep
from ebm_cli.commands.configuration import Request
from ebm_cli.errors import RunError, UserError
from ebm_cli.record import lease, ledger
from ebm_cli.record.run import create


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def begun(monkeypatch):
    """Jobs that do nothing but note that they were begun; `begun.fails` of a seed: how often it still fails."""
    seen, fails = [], Counter()

    def train(request):
        seed = request.config["seed"]
        seen.append(seed)
        if not (request.directory / "config.yaml").exists():
            create(request.directory, request.config, overrides=list(request.overrides))
        failed = fails[seed] > 0
        fails[seed] -= failed
        multi.Run(request.directory).update_metadata(status="failed" if failed else "done")
        if failed:
            raise RunError(f"seed {seed}")
        multi.Run(request.directory).write_json("summary.json", {"status": "done", "seconds": 1.0 * seed})
        return 0

    train.seen, train.fails = seen, fails
    monkeypatch.setattr(multi, "train", train)
    return train


def swept(line: str):
    return ebm("train -m", "tracker=none", "hydra.sweep.dir=sweep", *line.split())


def again(line: str = ""):
    return ebm("train -m resume=sweep", *line.split())


def entries() -> dict[str, int]:
    """Number of each job by what it is."""
    return {" ".join(entry.overrides[1:]): entry.number for entry in ledger.read(Path("sweep")).entries}


def test_what_is_done_is_not_done_again_and_new_values_get_new_numbers(begun):
    assert swept("seed=1,2").code == 0
    before = snapshot(Path("sweep/0")), snapshot(Path("sweep/1"))
    assert swept("seed=3,2,1,4 resume=auto").code == 0
    assert begun.seen == [1, 2, 3, 4]
    assert entries() == {"seed=1": 0, "seed=2": 1, "seed=3": 2, "seed=4": 3}
    assert (snapshot(Path("sweep/0")), snapshot(Path("sweep/1"))) == before
    shown = facts(Path("sweep"), "summary.json")["jobs"]
    assert [job["overrides"][-1] for job in shown] == ["seed=1", "seed=2", "seed=3", "seed=4"]


@pytest.mark.long
def test_a_job_is_what_its_configuration_says(begun):
    """Not how it was written, nor where it runs: a default that is typed, another order, another tracker or device."""
    assert swept("seed=1,2 batch_size=10").code == 0
    assert again("optimizer.lr=0.1 device=cpu seed=2,1").code == 0
    assert again("model.hidden=64,32 tracker=csv").code == 0  # 64 is what it is anyway
    assert begun.seen == [1, 2, 2, 1]
    words = facts(Path("sweep"), "sweep.json")["arguments"]
    assert words == ["batch_size=10", "optimizer.lr=0.1", "device=cpu", "seed=2,1", "model.hidden=64,32", "tracker=csv"]
    assert [facts(Path("sweep", str(n)), "metadata.json")["status"] for n in range(4)] == ["done"] * 4


def test_its_page_is_named(begun):
    answer = swept("seed=1,2")
    assert "report sweep/report.html" in answer.out + answer.err
    assert Path("sweep/report.html").exists()


def test_auto_begins_what_is_not_there(begun):
    assert swept("seed=1,2 resume=auto").code == 0
    assert begun.seen == [1, 2]


@pytest.mark.quick("batch_size=7-words0")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("batch_size=7", ["batch_size = 7", "has 10"]),
        ("batch_size=7 seed=1,2,3", ["batch_size = 7", "has 10"]),
        ("+model.typo=3", ["model.typo = 3", "no such key; leave it out, or start"]),
        ("model=gaussian_rbm", ["model.name = gaussian_rbm", "has rbm"]),
    ],
)
def test_a_changed_key_that_is_not_swept_is_refused(begun, line, words):
    swept("seed=1,2 batch_size=10")
    before = snapshot(Path("sweep"))
    assert_refused(again(line), *words)
    assert snapshot(Path("sweep")) == before
    assert begun.seen == [1, 2]


@pytest.mark.long
def test_a_changed_key_that_is_swept_is_taken(begun):
    swept("seed=1,2")
    assert again("batch_size=100,50").code == 0  # 100 is what it was
    assert begun.seen == [1, 2, 1, 2]
    assert again("batch_size=25").code == 0  # it varies now
    assert ledger.read(Path("sweep")).varied == {"seed", "batch_size", "chains.count"}


@pytest.mark.long
def test_what_failed_is_tried_again(begun):
    begun.fails[2] = 1
    answer = swept("seed=1,2,3")
    assert answer.code == 1
    assert "take up what is not done with: ebm train -m resume=sweep\n" in answer.out
    assert begun.seen == [1, 2, 3]
    answer = again()
    assert answer.code == 0
    assert "multirun sweep: 2 done, 1 failed\n" in answer.out
    assert "take up" not in answer.out
    assert begun.seen == [1, 2, 3, 2]


@pytest.mark.parametrize(("retries", "code", "seen"), [(1, 1, [1, 2, 3, 2]), (2, 0, [1, 2, 3, 2, 2])])
def test_retries(begun, retries, code, seen):
    begun.fails[2] = 2
    assert swept(f"seed=1,2,3 retries={retries}").code == code
    assert begun.seen == seen


def test_fail_fast(begun):
    begun.fails[2] = 1
    assert swept("seed=1,2,3 fail_fast=true").code == 1
    assert begun.seen == [1, 2]
    assert [job["status"] for job in facts(Path("sweep"), "summary.json")["jobs"]] == ["done", "failed", "new"]
    assert again("fail_fast=true").code == 0
    assert begun.seen == [1, 2, 2, 3]


@pytest.mark.parametrize("word", ["retries=-1", "retries=two", "fail_fast=5", "retries=true"])
def test_orders_that_are_wrong(begun, word):
    assert_refused(swept(f"seed=1,2 {word}"), word.replace("=", " = "))
    assert_refused(ebm(f"train {word}"), f"{word}: is for the jobs of a multirun")
    assert not Path("sweep").exists()


@pytest.mark.long
def test_folders_of_folders(begun):
    assert swept("model.hidden=4,8 seed=1,2 hydra.sweep.subdir=h${model.hidden}/seed${seed}").code == 0
    jobs = facts(Path("sweep"), "summary.json")["jobs"]
    assert [job["job"] for job in jobs] == ["h4/seed1", "h4/seed2", "h8/seed1", "h8/seed2"]
    assert again().code == 0
    answer = again("seed=3 hydra.sweep.subdir=h${model.hidden}/seed${seed} fail_fast=true")
    assert answer.code == 0
    assert sorted(str(path.parent) for path in Path("sweep").glob("*/*/metadata.json"))[2] == "sweep/h4/seed3"
    assert len(begun.seen) == 6


@pytest.mark.long
def test_what_must_be_said_again_is_in_the_line_that_takes_it_up(begun):
    begun.fails[1] = 1
    words = "hydra.sweep.subdir=s${seed} plugins=[json] hydra/launcher=basic"
    answer = swept(f"seed=1,2 {words}")
    line = answer.out.partition("take up what is not done with: ebm ")[2].splitlines()[0]
    assert line == "train -m resume=sweep 'hydra.sweep.subdir=s${seed}' hydra/launcher=basic 'plugins=[json]'"
    assert ebm(line).code == 0
    assert begun.seen == [1, 2, 1]
    assert "json]" not in Path("sweep/sweep.json").read_text()


def test_jobs_that_would_share_a_folder_are_refused(begun):
    answer = swept("seed=1,2 model.hidden=4,8 hydra.sweep.subdir=${seed}")
    assert_refused(answer, "hydra.sweep.subdir: jobs 0 and 1 would share sweep/1")
    assert not Path("sweep").exists()


@pytest.mark.quick("resume=empty*", "resume=nowhere*")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("resume=", "resume is empty"),
        ("resume=nowhere", "resume = nowhere: no multirun is there (there is no such folder)"),
        ("resume=sweep/sweep.json", "no multirun is there (it is a file)"),
        ("resume=empty", "resume = empty: no multirun is there (the folder is empty)"),
        ("resume=.", "resume = .: no multirun is there (it has no sweep.json)"),
        ("resume=auto", "resume = auto: say which directory it is about, hydra.sweep.dir=DIR"),
        ("resume=sweep hydra.sweep.dir=other", "a multirun is taken up where it is, in sweep"),
        ("'resume=[sweep,sweep]'", "one multirun is taken up at a time"),
    ],
)
def test_a_multirun_that_is_not_there(begun, line, words):
    swept("seed=1,2")
    Path("empty").mkdir()
    assert_refused(ebm(f"train -m {line} seed=1,2"), words)
    assert_refused(ebm("train resume=sweep"), "is a multirun; take it up again with ebm train -m resume=sweep")


@pytest.mark.quick("<lambda>0", "<lambda>5", "<lambda>9")
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"directory": "1"', '"directory": "../1"'),
        lambda text: text.replace('"directory": "1"', '"directory": "/tmp/1"'),
        lambda text: text.replace('"directory": "1"', '"directory": "0"'),
        lambda text: text.replace('"number": 1', '"number": 0'),
        lambda text: text.replace('"number": 1', '"number": -1'),
        lambda text: text.replace('"number": 1', '"number": "1"'),
        lambda text: text.replace('"format": 1', '"format": 2'),
    ],
)
def test_a_ledger_that_makes_no_sense_is_refused(begun, damage):
    swept("seed=1,2")
    path = Path("sweep/sweep.json")
    assert damage(path.read_text()) != path.read_text()
    path.write_text(damage(path.read_text()))
    assert_refused(again(), "sweep/sweep.json")
    assert begun.seen == [1, 2]


def test_a_ledger_that_is_a_link_is_not_followed(begun):
    swept("seed=1,2")
    Path("sweep/sweep.json").rename("elsewhere.json")
    Path("sweep/sweep.json").symlink_to(Path("elsewhere.json").absolute())
    assert_refused(again(), "it is a link, which is not followed")


def test_the_words_of_hydra_are_not_taken_from_a_ledger(begun):
    """A directory may come from anybody: what a launcher or a callback is, this command line says alone."""
    swept("seed=1,2 hydra.job.name=mine")
    facts_there = facts(Path("sweep"), "sweep.json")
    assert facts_there["arguments"] == ["tracker=none", "seed=1,2"]
    for word in (
        "hydra.job.name=x",
        "+hydra.callbacks.x._target_=x",
        "hydra/launcher=x",
        "--config-dir=x",
        "plugins=[x]",
    ):
        Path("sweep/sweep.json").write_text(json.dumps(facts_there | {"arguments": [word, "seed=1,2"]}))
        assert_refused(again(), "sweep/sweep.json", repr(word))


@pytest.mark.long
def test_of_two_calls_one_does_the_jobs(begun):
    swept("seed=1,2")
    with lease.claimed(Path("sweep"), ""):
        assert_refused(again("seed=3,4"), f"process {os.getpid()}", "does this multirun")
    assert begun.seen == [1, 2]
    assert again("seed=3,4").code == 0


def test_a_job_that_another_process_trains_is_left_to_it(begun):
    swept("seed=1,2")
    multi.Run(Path("sweep/1")).update_metadata(status="running")
    with lease.claimed(Path("sweep/1"), ""):
        answer = again()
    assert answer.code == 1
    assert begun.seen == [1, 2]
    assert [job["status"] for job in facts(Path("sweep"), "summary.json")["jobs"]] == ["done", "running"]


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("pruned", 0), ("running", 75)])
def test_a_job_that_waited_in_a_queue_while_another_process_did_it_is_left_alone(begun, status, code):
    """A launcher begins it all the same: it was handed over before."""
    swept("seed=1,2")
    home = Path("sweep/1")
    multi.Run(home).update_metadata(status=status)
    request = Request(facts(home.parent, "sweep.json"), {}, (), home, home.parent)
    with lease.claimed(home, ""):
        before = snapshot(home)
        assert multi.job(request) == code
        assert snapshot(home) == before
    assert begun.seen == [1, 2]


def test_values_that_json_tells_apart():
    different = [1, 1.0, True, "1", None, [1], [True], {"a": 1}, {"a": 1.0}]
    for at, one in enumerate(different):
        for other in different[at + 1 :]:
            assert ledger.shared([{"key": one}, {"key": other}]) == {}
            assert ledger.Entry(0, "0", (), {"key": one}).identity != ledger.Entry(0, "0", (), {"key": other}).identity
        assert ledger.shared([{"key": one, "own": 1}, {"key": one}]) == {"key": one}


def test_states(begun):
    swept("seed=1")
    job = Path("sweep/0")
    assert sweep.state(job) == "done"
    multi.Run(job).update_metadata(status="running")
    assert sweep.state(job) == "died"
    (job / "metadata.json").unlink()
    assert sweep.state(job) == "died"
    shutil.rmtree(job)
    assert sweep.state(job) == "new"


@pytest.mark.long
def test_an_interrupted_job_goes_on_bit_for_bit(monkeypatch):
    words = [*TINY, "seed=1,2,3", "save_every=4"]
    assert ebm("train -m hydra.sweep.dir=whole", *words).code == 0
    with monkeypatch.context() as patched, pytest.raises(Killed):  # noqa: PT012 - patched for this call alone
        at_step(patched, 6, lambda: die() if Path("sweep/1/config.yaml").exists() else None)
        ebm("train -m hydra.sweep.dir=sweep", *words)
    multi.Run(Path("sweep/1")).update_metadata(status="running")
    before = {name: digest(Path("sweep/0", name)) for name in ("metrics.jsonl", "summary.json")}
    stamp = Path("sweep/0/summary.json").stat().st_mtime_ns
    assert ebm("train -m resume=sweep").code == 0
    assert {name: digest(Path("sweep/0", name)) for name in before} == before
    assert Path("sweep/0/summary.json").stat().st_mtime_ns == stamp
    for number in "012":
        assert outcome(Path("sweep", number)) == outcome(Path("whole", number))


def test_a_folder_of_a_job_that_leads_elsewhere_is_not_entered(begun):
    swept("seed=1,2")
    Path("elsewhere").mkdir()
    shutil.rmtree("sweep/1")
    Path("sweep/1").symlink_to(Path("elsewhere").absolute())
    assert_refused(
        again(), "job 1 of sweep: it is a link, which is not followed", "its folder is sweep/1, so move away"
    )
    assert not list(Path("elsewhere").iterdir())


def test_a_file_in_the_place_of_a_job_is_named(begun):
    swept("seed=1,2")
    shutil.rmtree("sweep/1")
    Path("sweep/1").write_text("mine")
    assert_refused(again(), "job 1 of sweep: ", "its folder is sweep/1, so move away what is there")
    assert Path("sweep/1").read_text() == "mine"


@pytest.mark.long
def test_files_are_found_from_another_folder(begun, monkeypatch):
    np.savez("rows.npz", train=np.zeros((20, 4)))
    np.savez("more.npz", train=np.ones((20, 4)))
    assert swept("dataset=array dataset.path=rows.npz,more.npz").code == 0
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert ebm("train -m resume=../sweep seed=0,1").code == 0
    assert ebm("train -m resume=../sweep seed=2 dataset.path=../rows.npz").code == 0
    paths = [entry.settings["dataset.path"] for entry in ledger.read(Path("../sweep")).entries]
    assert [Path(path).name for path in paths] == ["rows.npz", "more.npz", "rows.npz", "more.npz", "rows.npz"]
    assert {str(Path(path).parent) for path in paths} == {str(Path("..").resolve())}


@pytest.mark.long
def test_a_whole_number_may_have_a_point(begun):
    swept("model.hidden=8,16 optimizer.lr=1.0")
    assert again("model.hidden=8.0,16 optimizer.lr=1").code == 0
    assert len(begun.seen) == 2


@pytest.mark.long
def test_a_job_that_was_a_slip_goes_when_it_is_not_asked_for_again(begun, monkeypatch):
    def refusing(request):
        if request.config["batch_size"] == 11:
            raise UserError("batch_size = 11: the data have other ideas")
        return begun(request)

    monkeypatch.setattr(multi, "train", refusing)
    assert swept("batch_size=10,11 retries=2").code == 1
    assert ebm("train -m resume=sweep").code == 1  # it is asked for again
    assert begun.seen == [0]
    assert again("batch_size=10,20").code == 0
    assert [entry.number for entry in ledger.read(Path("sweep")).entries] == [0, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed=1,2 hydra.sweep.subdir=../up_${seed}", "hydra.sweep.subdir: ../up_1 lies outside sweep"),
        ("seed=1,2 hydra.sweep.subdir=/tmp/x_${seed}", "hydra.sweep.subdir: /tmp/x_1 lies outside sweep"),
        ("seed=1,2 hydra.sweep.dir=s_${seed}", "hydra.sweep.dir: is one folder for all jobs"),
        ("tracker=none,csv", "tracker: jobs that differ in tracker alone are one job"),
        ("device.threads=1,2", "device: jobs that differ in device alone are one job"),
        ("seed=1,2 retries=1,2", "retries = 1,2: give one value"),
    ],
)
def test_what_would_scatter_or_lose_jobs_is_refused(begun, line, words, tmp_path):
    assert_refused(ebm("train -m hydra.sweep.dir=sweep", *line.split()), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_folder_with_brackets_is_taken_up(begun):
    begun.fails[1] = 1
    answer = ebm("train -m tracker=none seed=1,2", "hydra.sweep.dir=[x] $HOME")
    line = answer.out.partition("take up what is not done with: ebm ")[2].splitlines()[0]
    assert ebm(line).code == 0


@pytest.mark.long
def test_a_done_job_without_its_summary_says_so(begun):
    swept("seed=1,2")
    Path("sweep/1/summary.json").unlink()
    answer = again()
    assert answer.code == 0
    assert begun.seen == [1, 2]
    assert "1: its summary.json is missing, so what it measured is not known" in " ".join(answer.out.split())


def test_the_seconds_of_a_killed_session_count_until_its_newest_checkpoint(monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Killed):  # noqa: PT012 - patched for this call alone
        at_step(patched, 6, die)
        patched.setattr("ebm_cli.commands.train._record", lambda *_: False)  # a killed process writes nothing any more
        ebm("train hydra.run.dir=run", *TINY, "save_every=4")
    spent = facts(Path("run"))
    assert 0 < spent["training_seconds"] <= spent["seconds"] + 0.01
    multi.Run(Path("run")).update_metadata(seconds=1000.0, training_seconds=500.0)
    assert ebm("train resume=run").code == 0
    summary = facts(Path("run"), "summary.json")
    assert 1000 < summary["seconds"] < 1100
    assert 500 < summary["training_seconds"] < 600


@pytest.mark.long
def test_an_interrupted_job_whose_data_changed_is_refused_as_one_run_is(monkeypatch):
    rows = np.random.default_rng(0).integers(0, 2, (40, 6)).astype(float)
    np.savez("rows.npz", train=rows)
    words = [*TINY, "dataset=array", "dataset.path=rows.npz", "save_every=4", "seed=1,2"]
    with monkeypatch.context() as patched, pytest.raises(Killed):  # noqa: PT012 - patched for this call alone
        at_step(patched, 6, die)
        ebm("train -m hydra.sweep.dir=sweep", *words)
    np.savez("rows.npz", train=1 - rows)
    before = outcome(Path("sweep/0"))
    answer = again()
    assert answer.code == 1
    assert "job 0 failed: resume = sweep/0: its dataset now reads other rows than it was trained on" in answer.out
    assert outcome(Path("sweep/0")) == before


def test_a_job_that_cannot_go_on_says_why(begun, monkeypatch):
    swept("seed=1,2")
    multi.Run(Path("sweep/1")).update_metadata(status="stopped")

    def gone(request):
        raise UserError("its checkpoints are gone")

    monkeypatch.setattr(multi, "train", gone)
    assert again().code == 1
    assert facts(Path("sweep"), "summary.json")["jobs"][1]["error"] == "its checkpoints are gone"
    assert facts(Path("sweep/1"))["status"] == "failed"
