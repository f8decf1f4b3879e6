"""One process trains a run at a time: who holds it is said, and one that died gives way."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from helpers.cli import assert_refused, ebm, facts, snapshot, train, trained

from ebm_cli.errors import UserError
from ebm_cli.record import checkpoint, lease
from ebm_cli.training import loop


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


HERE = Path()
FILE = Path(lease.NAME)


def written(seconds_ago: float = 0.0, **changes: object) -> dict:
    """A lease as a process that ended without removing it left it."""
    held = lease.Lease(HERE)
    content = {**json.loads(FILE.read_text()), **changes}
    held.release()
    FILE.write_text(json.dumps(content))
    os.utime(FILE, (time.time() - seconds_ago,) * 2)
    return content


def test_a_second_claim_is_refused_with_who_holds_the_first():
    with lease.claimed(HERE, "resume = ") as held:
        assert json.loads(FILE.read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match=rf"resume = \.: process {os.getpid()} on .* trains this run; wait for it"):
            lease.Lease(HERE, "resume = ")
        held.check()
        assert lease.status(HERE, "running") == "running"
    assert not list(HERE.iterdir())
    assert lease.status(HERE, "running") == "died"
    assert lease.status(HERE, "done") == "done"


def test_a_batch_job_is_named(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with lease.claimed(HERE, ""), pytest.raises(UserError, match=r"job 4711, .*Slurm started 2 tasks: ask for one"):
        lease.Lease(HERE)


@pytest.mark.parametrize(
    ("changes", "seconds_ago"),
    [
        ({"pid": 2**22 + 1}, 0),  # no such process
        ({"started": 1}, 0),  # the number was given to another
        ({"namespace": "pid:[1]"}, 0),  # another container of this machine, whose lock is gone
        ({"boot": "another", "host": "elsewhere"}, lease.PATIENCE + 5),  # another machine, long silent
        ({"boot": "another"}, lease.PATIENCE + 5),  # the same name, another machine
    ],
)
def test_one_that_died_gives_way_at_once(changes, seconds_ago):
    written(seconds_ago, **changes)
    assert lease.status(HERE, "running") == "died"
    began = time.monotonic()
    with lease.claimed(HERE, "") as held:
        assert held.taken_from.startswith(f"process {changes.get('pid', os.getpid())} on ")
        assert time.monotonic() - began < 2
        assert lease.status(HERE, "running") == "running"
    assert not list(HERE.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "1"}', b"\xff" * 100])
def test_a_lease_that_makes_no_sense_gives_way_once_it_is_old(content):
    FILE.write_bytes(content)
    os.utime(FILE, (1, 1))
    with lease.claimed(HERE, "") as held:
        assert held.taken_from == "a process that cannot be told"


def test_another_container_is_known_by_its_lock():
    with lease.claimed(HERE, ""):
        facts_there = json.loads(FILE.read_text())
        assert lease._known(HERE, {**facts_there, "namespace": "pid:[1]"}) is True
        assert lease._known(HERE, {**facts_there, "namespace": "pid:[1]", "locked": None}) is None
        assert lease._known(HERE, {**facts_there, "boot": "another"}) is None


@pytest.mark.long
def test_a_heart_that_beats_elsewhere_is_heard(monkeypatch):
    """Whatever the clock of that machine says: it is listened to."""
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "PATIENCE", 1.0)
    written(boot="another", host="elsewhere")
    seen = iter(range(1, 1000))
    monkeypatch.setattr(lease, "_stamp", lambda path: next(seen))
    monkeypatch.setattr(lease, "_age", lambda path, now: 0.0)
    with pytest.raises(UserError, match="on elsewhere"):
        lease.Lease(HERE)
    monkeypatch.setattr(lease, "_stamp", lambda path: 1)
    lease.Lease(HERE).release()


def test_a_lease_that_is_lost_is_noticed(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    held = lease.Lease(HERE)
    FILE.unlink()
    with pytest.raises(lease.LeaseLost, match=r"lease\.json was removed, so this process writes nothing more there"):
        held.check()
    other = lease.Lease(HERE)
    with pytest.raises(lease.LeaseLost, match="has taken it over"):
        held.check(look=False)
    held.release()
    other.check()
    other.release()


def test_a_heartbeat_is_the_time_of_the_file(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    with lease.claimed(HERE, "") as held:
        os.utime(FILE, (1, 1))
        deadline = time.monotonic() + 5
        while FILE.stat().st_mtime < 2:
            assert time.monotonic() < deadline
        held.check()


def test_a_claim_that_was_left_unfinished_is_passed_over():
    """Killed between its first file and its last."""
    content = written(pid=2**22 + 1)
    identity = lease._found(HERE)[0]
    Path(f".{lease.NAME}.{identity}.0").write_text(json.dumps(content))
    Path(f".{lease.NAME}.{identity}.1").touch()
    os.utime(f".{lease.NAME}.{identity}.1", (1, 1))
    with lease.claimed(HERE, ""):
        assert [path.name for path in HERE.iterdir()] == [lease.NAME]


def test_a_claim_in_progress_is_waited_for(monkeypatch):
    monkeypatch.setattr(lease, "_ATTEMPTS", 3)
    Path(f".{lease.NAME}.new.0").touch()
    with pytest.raises(UserError, match="others are claiming it at the same time"):
        lease.Lease(HERE)
    assert [path.name for path in HERE.iterdir()] == [f".{lease.NAME}.new.0"]


def _claim(gate, answers, dies: bool) -> None:
    gate.wait()
    try:
        held = lease.Lease(HERE)
    except UserError as error:
        answers.put(str(error))
        return
    answers.put(os.getpid())
    answers.close()
    answers.join_thread()
    time.sleep(0.3)
    if not dies:
        held.release()
    os._exit(0)


@pytest.mark.long
@pytest.mark.parametrize("dies", [True, False])
def test_of_those_who_claim_at_the_same_time_one_wins(dies):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        gate, answers = context.Event(), context.Queue()
        processes = [context.Process(target=_claim, args=(gate, answers, dies)) for _ in range(5)]
        for process in processes:
            process.start()
        gate.set()
        found = [answers.get(timeout=30) for _ in processes]
        for process in processes:
            process.join()
        (winner,) = [answer for answer in found if isinstance(answer, int)]
        assert all(f"process {winner} on" in answer for answer in found if answer != winner)


# In the commands


def test_a_run_that_is_being_trained_is_refused_and_stays_as_it_is():
    trained()
    with lease.claimed(Path("run"), ""):
        before = snapshot(Path("run"))
        assert_refused(ebm("train resume=run steps=20"), f"resume = run: process {os.getpid()} on", "trains this run")
        assert snapshot(Path("run")) == before
    assert ebm("train resume=run steps=20").code == 0


def test_a_directory_that_is_being_claimed_is_refused():
    Path("run").mkdir()
    with lease.claimed(Path("run"), ""):
        assert_refused(train(), f"hydra.run.dir = run: process {os.getpid()} on")
    trained()


def test_the_run_of_one_that_died_is_taken_over_with_a_sentence():
    trained()
    Path("run/lease.json").write_text(json.dumps({**lease._facts(), "pid": 2**22 + 1}))
    answer = ebm("train resume=run steps=20")
    assert answer.code == 0
    assert f"process {2**22 + 1} on" in answer.err
    assert "held this run and died; this process goes on with it" in answer.err.replace("\n", " ")
    assert not Path("run/lease.json").exists()


def test_who_trained_stands_in_the_metadata():
    about = facts(trained())
    assert (about["pid"], about["host"], about["job"]) == (os.getpid(), lease.about()["host"], None)


def test_a_lease_that_is_lost_ends_the_run_and_nothing_more_is_written(monkeypatch):
    original = loop.train_step

    def stepping(parts, state, how):
        if state.step == 6:
            Path("run/lease.json").unlink()
            lease.Lease(Path("run"))
        return original(parts, state, how)

    monkeypatch.setattr(loop, "train_step", stepping)
    answer = train("save_every=3 log_every=100")
    assert answer.code == 1
    assert "has taken it over, so this process writes nothing more there" in answer.err.replace("\n", " ")
    assert checkpoint.steps(Path("run/checkpoints")) == [3, 6]
    assert facts(Path("run"))["status"] == "running"


@pytest.mark.long
def test_a_run_that_died_or_goes_on_can_be_looked_at():
    trained()
    meta = facts(Path("run"))
    Path("run/metadata.json").write_text(json.dumps({**meta, "status": "running"}))
    look = "evaluate run=run evaluation=[pseudo_likelihood]"
    assert "died before the run was done; go on with: ebm train resume=run" in ebm(look).err
    with lease.claimed(Path("run"), ""):
        answer = ebm(look)
        assert answer.code == 0
        assert "trains this run; what it saved last is taken" in answer.err
    assert ebm("sample run=run n=1 steps=1").code == 0


def test_a_checkpoint_that_is_deleted_while_it_is_read_is_no_invalid_one(monkeypatch):
    folder = trained("save_every=3 checkpoint.keep_last=2") / "checkpoints"
    original, deleted = checkpoint._verified, []

    def slow(path, name, manifest):
        if not deleted:
            deleted.append(path)
            checkpoint.save(folder, 15, checkpoint.load(path).tensors if deleted[1:] else {}, {})
            checkpoint.prune(folder, 15, 1, set())
        return original(path, name, manifest)

    monkeypatch.setattr(checkpoint, "_verified", slow)
    found, reasons = checkpoint.newest(folder)
    assert (found.step, reasons) == (15, [])
