"""Checkpoints: verified or not used, and never lost to a full disk."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, forge, last_step, outcome, snapshot, train, trained

from ebm_cli.errors import UserError
from ebm_cli.record import checkpoint, files, run
from ebm_cli.record.checkpoint import Invalid

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False]), "c": torch.empty(0, 4)}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_is_saved_is_loaded(tmp_path):
    path = checkpoint.save(tmp_path, 7, TENSORS, {"best": None})
    found = checkpoint.load(path)
    assert (found.step, found.numbers["best"]) == (7, None)
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in TENSORS.items())
    assert sorted(entry.name for entry in path.iterdir()) == ["MANIFEST.json", "state.json", "state.safetensors"]


def test_the_same_state_is_the_same_bytes(tmp_path):
    one = checkpoint.save(tmp_path / "one", 7, TENSORS, {})
    other = checkpoint.save(tmp_path / "other", 7, dict(reversed(TENSORS.items())), {})
    assert snapshot(one) == snapshot(other)


def truncate(path):
    (path / checkpoint.TENSORS).write_bytes((path / checkpoint.TENSORS).read_bytes()[:-1])


def flip(path):
    data = bytearray((path / checkpoint.TENSORS).read_bytes())
    data[-1] ^= 1
    (path / checkpoint.TENSORS).write_bytes(bytes(data))


def edit_numbers(path):
    (path / checkpoint.NUMBERS).write_text((path / checkpoint.NUMBERS).read_text().replace("20", "30"))


def edit_manifest(path):
    (path / checkpoint.MANIFEST).write_text(
        (path / checkpoint.MANIFEST).read_text().replace('sha256": "', 'sha256": "0')
    )


DAMAGE = {
    "truncated": (truncate, "state.safetensors has"),
    "flipped bit": (flip, "state.safetensors does not match the SHA-256 in its manifest"),
    "edited numbers": (edit_numbers, "state.json does not match"),
    "no tensors": (lambda path: (path / checkpoint.TENSORS).unlink(), "state.safetensors: No such file or directory"),
    "no numbers": (lambda path: (path / checkpoint.NUMBERS).unlink(), "state.json: No such file or directory"),
    "no manifest": (lambda path: (path / checkpoint.MANIFEST).unlink(), "MANIFEST.json: No such file or directory"),
    "edited manifest": (edit_manifest, "does not match the SHA-256"),
    "empty manifest": (lambda path: (path / checkpoint.MANIFEST).write_text(""), "not a checkpoint of this program"),
    "list manifest": (lambda path: (path / checkpoint.MANIFEST).write_text("[]"), "not a checkpoint of this program"),
    "deep manifest": (lambda path: (path / checkpoint.MANIFEST).write_text("[" * 100_000), "not a checkpoint"),
    "other format": (lambda path: forge(path, numbers=b'{"format": 2, "step": 20}'), "format 2 of step 20"),
    "other step": (lambda path: forge(path, numbers=b'{"format": 1, "step": 3}'), "step 3 in a directory named"),
    "step in words": (lambda path: forge(path, numbers=b'{"format": 1, "step": "20"}'), "step '20'"),
    "true step": (lambda path: forge(path, numbers=b'{"format": 1, "step": true}'), "step True"),
    "a list": (lambda path: forge(path, numbers=b"[1]"), "not a checkpoint of this program"),
    "a pickle": (lambda path: forge(path, tensors=b"\x80\x04."), "not a checkpoint of this program"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_newest_that_verifies_is_used(name, tmp_path):
    damage, why = DAMAGE[name]
    checkpoint.save(tmp_path, 10, TENSORS, {})
    newest = checkpoint.save(tmp_path, 20, TENSORS, {})
    damage(newest)
    with pytest.raises(Invalid, match=why.replace("(", r"\(")):
        checkpoint.load(newest)
    found, reasons = checkpoint.newest(tmp_path)
    assert found.step == 10
    assert len(reasons) == 1
    assert reasons[0].startswith("step-00000020: ")


def test_a_renamed_directory_is_not_used(tmp_path):
    checkpoint.save(tmp_path, 10, TENSORS, {}).rename(tmp_path / "step-00000099")
    with pytest.raises(UserError, match=r"no valid checkpoint in .* step 10 in a directory named step-00000099"):
        checkpoint.newest(tmp_path)


def test_if_none_verifies_each_reason_is_given(tmp_path):
    for step in (10, 20):
        (checkpoint.save(tmp_path, step, TENSORS, {}) / checkpoint.TENSORS).unlink()
    with pytest.raises(
        UserError,
        match=r"step-00000020: \S+: No such file .*; step-00000010: \S+: No such file",
    ):
        checkpoint.newest(tmp_path)


def test_only_directories_of_steps_count(tmp_path):
    checkpoint.save(tmp_path, 10, TENSORS, {})
    for name in (".writing-00000020", "step-20", "step-000000020", "step-00000020.invalid-0", "notes"):
        (tmp_path / name).mkdir()
    assert checkpoint.steps(tmp_path) == [10]
    assert checkpoint.newest(tmp_path)[0].step == 10
    checkpoint.prune(tmp_path, 10, 1, set())
    assert checkpoint.steps(tmp_path) == [10]


def test_saving_a_step_again_keeps_what_was_there(tmp_path):
    flip(checkpoint.save(tmp_path, 10, TENSORS, {}))
    checkpoint.save(tmp_path, 10, TENSORS, {})
    assert checkpoint.newest(tmp_path)[0].step == 10
    assert (tmp_path / "step-00000010.invalid-0" / checkpoint.TENSORS).exists()


@pytest.mark.long
def test_which_checkpoints_stay():
    found = trained("steps=20 save_every=2 checkpoint.keep_last=3 eval_every=0")
    assert checkpoint.steps(found / "checkpoints") == [16, 18, 20]
    ladder = trained("steps=20 save_every=2 checkpoint.keep_last=1 checkpoint.log_spaced=4", "ladder")
    assert checkpoint.steps(ladder / "checkpoints") == sorted(checkpoint.log_spaced(4, 20))
    assert checkpoint.log_spaced(4, 1000) == {1, 10, 100, 1000}


@pytest.mark.long
def test_the_best_checkpoint_stays():
    found = trained(
        "steps=20 save_every=1 eval_every=1 checkpoint.keep_last=1 optimizer.lr=3 optimizer.ema=0 "
        "evaluation=[samples,pseudo_likelihood]"
    )
    values = {}
    for line in (found / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "pseudo_likelihood/valid/log_pseudo_likelihood" in entry:
            values[entry["step"]] = entry["pseudo_likelihood/valid/log_pseudo_likelihood"]
    best = max(values, key=values.get)
    assert len(values) == 20
    assert best < 20
    assert checkpoint.steps(found / "checkpoints") == [best, 20]
    answer = ebm("sample run=run checkpoint=best n=2 steps=1")
    assert f"run at step {best}" in answer.err


def test_a_damaged_checkpoint_is_said_and_the_run_goes_on_from_an_older_one():
    whole = trained("steps=20 save_every=5", "whole")
    found = trained("steps=20 save_every=5")
    flip(last_step(found))
    for command in ("sample run=run n=2 steps=1", "evaluate run=run evaluation=[samples]"):
        answer = ebm(command)
        assert answer.code == 0
        assert "not valid, so an older checkpoint is used: step-00000020: state.safetensors does not" in answer.err
        assert "run at step 15" in answer.err
    answer = ebm("train resume=run")
    assert answer.code == 0
    assert "not valid, so an older checkpoint is used: step-00000020" in answer.err
    assert "resuming run at step 15" in answer.err
    assert outcome(found) == outcome(whole)
    assert (found / "checkpoints" / "step-00000020.invalid-0").is_dir()


@pytest.mark.long
def test_new_checkpoints_outlive_a_damaged_one_of_a_later_step():
    found = trained("steps=20 save_every=5 checkpoint.keep_last=2")
    flip(last_step(found))
    assert ebm("train resume=run steps=30 save_every=2 checkpoint.keep_last=1", "log_every=30").code == 0
    assert checkpoint.newest(found / "checkpoints")[0].step == 30
    assert checkpoint.newest(found / "checkpoints")[1] == []


@pytest.mark.long
def test_none_valid_is_refused_with_each_reason():
    found = trained("steps=20 save_every=10")
    for path in (found / "checkpoints").iterdir():
        flip(path)
    before = snapshot(found)
    for command in ("sample run=run", "evaluate run=run", "train resume=run"):
        assert_refused(ebm(command), "no valid checkpoint in run/checkpoints", "step-00000020: ", "step-00000010: ")
    assert snapshot(found) == before


@pytest.mark.long
def test_a_run_without_checkpoints_cannot_be_sampled():
    found = trained()
    shutil.rmtree(found / "checkpoints")
    assert_refused(ebm("sample run=run"), "no valid checkpoint in run/checkpoints (it holds none)")


@pytest.mark.long
def test_metrics_that_were_cut_are_refused():
    found = trained()
    (found / "metrics.jsonl").write_text("")
    assert_refused(ebm("train resume=run"), "run/metrics.jsonl has 0 bytes, its checkpoint says ")


# A full disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_full_while_saving(monkeypatch, tmp_path):
    checkpoint.save(tmp_path, 10, TENSORS, {})
    monkeypatch.setattr(files, "_written", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 20, TENSORS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert checkpoint.newest(tmp_path)[0].step == 10


def from_step(step, original, where):
    """`original` until the checkpoint of `step` is there, then a full disk."""

    def write(*arguments, **named):
        return (full if (where / "checkpoints" / f"step-{step:08d}").exists() else original)(*arguments, **named)

    return write


@pytest.mark.quick("metrics")
@pytest.mark.parametrize("what", ["checkpoint", "metrics", "picture", "everything"])
def test_a_disk_full_while_training(what, monkeypatch):
    line = "steps=20 save_every=5 eval_every=7"
    whole, found = trained(line, "whole"), Path("run")
    writers = {
        "checkpoint": [(checkpoint, "save")],
        "metrics": [(run.Run, "append_metrics")],
        "picture": [(run.Run, "write_image")],
        "everything": [(files, "_written"), (run.Run, "append_metrics"), (run.Run, "write_image")],
    }[what]
    with monkeypatch.context() as patch:
        for owner, name in writers:
            patch.setattr(owner, name, from_step(5, getattr(owner, name), found))
        answer = train(line)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert (
        "No space left on device while writing to run; the newest checkpoint is step 5. Free space, then: "
        in answer.err
    )
    assert "ebm train resume=run" in answer.err
    assert checkpoint.newest(found / "checkpoints")[0].step == 5
    if what != "everything":
        assert facts(found)["status"] == "failed"
        assert "No space" in facts(found)["error"]
    assert ebm("train resume=run").code == 0
    assert outcome(found) == outcome(whole)
    assert "error" not in facts(found)


def test_a_disk_full_from_the_start(monkeypatch):
    monkeypatch.setattr(files, "_written", full)
    answer = train()
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert "hydra.run.dir = run: No space left on device" in answer.err
