"""The run directory: what is in it, and that nobody else's is touched."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.cli import TINY, assert_refused, ebm, facts, last_step, snapshot, train, trained
from PIL import Image

from ebm_cli.objective import likelihood
from ebm_cli.record import checkpoint, run


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def newest(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_a_run_directory_holds_exactly_this():
    found = trained()
    expected = {
        "config.yaml", "metadata.json", "metrics.jsonl", "summary.json", "report.html", "train.log", "checkpoints",
        "samples",
    }  # fmt: skip
    assert {path.name for path in found.iterdir()} == expected
    assert ebm("evaluate run=run evaluation=[samples]").code == 0
    assert ebm("sample run=run n=1 steps=1").code == 0
    assert {path.name for path in found.iterdir()} == expected | {"evaluations"}
    assert {path.name for path in last_step(found).iterdir()} == {"state.safetensors", "state.json", "MANIFEST.json"}


def test_what_the_files_of_a_run_say():
    found = trained()
    config = yaml.safe_load((found / "config.yaml").read_text())
    assert (config["steps"], config["model"]["hidden"], config["chains"]["count"]) == (12, 8, 10)
    assert "${" not in (found / "config.yaml").read_text()
    about = facts(found)
    assert (about["status"], about["step"], about["choices"]["model"]) == ("done", 12, "rbm")
    assert "model.hidden=8" in about["overrides"]
    assert {"torch", "numpy"} <= set(about["versions"])
    lines = [json.loads(line) for line in (found / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {"loss", "gradient_norm", "learning_rate"} <= set(lines[0])
    summary = facts(found, "summary.json")
    assert (summary["status"], summary["steps"]) == ("done", 12)
    assert "samples/copies" in summary


def test_credentials_are_not_written():
    assert run._redacted({"tracker": {"api_key": "abc", "token": "x", "tokens": "y"}, "key": 3}) == {
        "tracker": {"api_key": "REDACTED", "token": "REDACTED", "tokens": "y"}, "key": 3,
    }  # fmt: skip


def test_a_directory_that_holds_a_run_is_refused():
    found = trained()
    before = snapshot(found)
    answer = train("model.hidden=4")
    assert_refused(answer, "hydra.run.dir = run: a run is there already; continue it with `ebm train resume=run`")
    assert snapshot(found) == before


def test_runs_of_the_same_second_do_not_share_a_directory():
    for _ in range(3):
        assert ebm("train", *TINY, "steps=1").code == 0
    found = list(Path("outputs").iterdir())
    assert len(found) == 3
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_rbm-pcd-digits_[0-9a-f]{4}", path.name) for path in found)


def test_two_runs_cannot_claim_one_directory(tmp_path):
    run.create(tmp_path / "one", {"a": 1})
    with pytest.raises(run.UserError, match="a run is there already"):
        run.create(tmp_path / "one", {"a": 2})
    assert (tmp_path / "one" / "config.yaml").read_text() == "a: 1\n"


def test_folders_of_the_same_second_do_not_collide(tmp_path):
    made = [run.Run(tmp_path).new_folder("samples") for _ in range(3)]
    assert len(set(made)) == 3


def test_a_gradient_that_is_not_finite(monkeypatch):
    """Poisoned just before step 4: the sentence names the parameter, the checkpoint is that of step 3."""
    original = likelihood.Likelihood.gradient

    def poisoned(self, model, *arguments):
        found = original(self, model, *arguments)
        if checkpoint.steps(Path("run/checkpoints"))[-1:] == [3]:
            found.parameters["W"][0, 0] = float("nan")
        return found

    monkeypatch.setattr(likelihood.Likelihood, "gradient", poisoned)
    answer = train("save_every=1 objective.centered=false")
    assert answer.code == 1
    assert "step 4: the gradient of W is not finite (loss " in answer.err
    assert checkpoint.steps(Path("run/checkpoints"))[-1] == facts(Path("run"))["step"] == 3


def test_a_loss_that_is_not_finite():
    answer = train("optimizer.lr=1e38 save_every=1")
    found = Path("run")
    assert answer.code == 1
    assert "Traceback" not in answer.err
    said = r"step (\d+): the loss is not finite \(loss .*\); nothing of it was saved\. Start a run "
    sentence = re.search(said, answer.err)
    assert sentence
    assert facts(found)["status"] == facts(found, "summary.json")["status"] == "failed"
    assert "is not finite" in facts(found)["error"]
    step = int(sentence.group(1)) - 1
    assert facts(found)["step"] == step
    assert checkpoint.newest(found / "checkpoints")[0].step == step


# Sampling and evaluating


def samples_of(found: Path) -> np.ndarray:
    return np.load(newest(found / "samples") / "samples.npz")["samples"]


def test_samples_and_their_picture():
    found = trained()
    answer = ebm("sample run=run n=7 steps=3")
    assert answer.code == 0
    folder = newest(found / "samples")
    assert {path.name for path in folder.iterdir()} == {"samples.npz", "grid.png"}
    x = samples_of(found)
    assert (x.shape, x.dtype) == ((7, 8, 8), np.uint8)
    assert set(np.unique(x)) == {0, 1}
    with Image.open(folder / "grid.png") as picture:
        assert min(picture.size) >= 8
    assert str(folder / "samples.npz") in answer.out


@pytest.mark.long
def test_samples_follow_their_seed_sampler_and_checkpoint():
    found = trained("save_every=6 evaluation=[samples,pseudo_likelihood] eval_every=6")
    drawn = {}
    for more in (
        "",
        "seed=1",
        "sampler=gibbs",
        "sampler=metropolis",
        "sampler=metropolis start=chains",
        "checkpoint=6",
    ):
        assert ebm(f"sample run=run n=10 steps=5 {more}").code == 0
        assert samples_of(found).tobytes() not in drawn.values(), more
        drawn[more] = samples_of(found).tobytes()
    assert ebm("sample run=run n=10 steps=5").code == 0
    assert samples_of(found).tobytes() == drawn[""]
    best = json.loads((last_step(found) / checkpoint.NUMBERS).read_text())["best"]["step"]
    assert f"run at step {best}" in ebm("sample run=run n=1 steps=1 checkpoint=best").err
    assert (
        "the run keeps 10 chains; the other 2 start from noise" in ebm("sample run=run n=12 steps=1 start=chains").err
    )
    trained("objective=cd steps=2", "without")
    said = ebm("sample run=without n=3 steps=1 start=chains").err
    assert "the run keeps no chains; all 3 start from noise" in said


@pytest.mark.long
def test_samples_that_take_no_steps_are_not_said_to_have_taken_some():
    """The model is independent units, and its objective keeps no chains."""
    words = [word for word in TINY if "hidden" not in word]
    parts = "model=exponential_family objective=pseudo_likelihood hydra.run.dir=run"
    assert ebm(f"train {parts}", *words).code == 0
    for start in ("noise", "chains"):
        answer = ebm(f"sample run=run n=2 steps=7 start={start} sampler=metropolis")
        assert "2 samples, drawn exactly, without steps: run/samples/" in answer.out
        assert "chains" not in answer.err
    trained("", "trained")
    assert "2 samples after 7 steps: " in ebm("sample run=trained n=2 steps=7").out
    assert "2 samples after 1 step: " in ebm("sample run=trained n=2 steps=1").out


@pytest.mark.long
def test_a_sampler_that_does_not_fit_is_refused():
    assert ebm("train", "model=boltzmann", "hydra.run.dir=run", *[w for w in TINY if "hidden" not in w]).code == 0
    assert_refused(
        ebm("sample run=run sampler=block_gibbs"), "samplers that fit: acs, dlmc, dmala, gibbs, gwg, hamming_ball"
    )


@pytest.mark.long
def test_sampling_needs_no_data():
    np.savez("own.npz", train=np.tile(np.eye(6, dtype=np.float32), (5, 1)))
    found = trained("dataset=array dataset.path=own.npz")
    os.remove("own.npz")
    assert ebm("sample run=run n=3 steps=1").code == 0
    assert samples_of(found).shape == (3, 6)
    assert_refused(ebm("evaluate run=run evaluation=[samples]"), "own.npz: nothing is there", "dataset.path=PATH")


@pytest.mark.long
def test_evaluating_gives_the_keys_of_the_summary():
    found = trained("model.hidden=4 evaluation=[samples,exact,pseudo_likelihood]")
    assert ebm("evaluate run=run evaluation=[exact,pseudo_likelihood,samples]").code == 0
    results = facts(newest(found / "evaluations"), "results.json")
    summary = facts(found, "summary.json")
    about = {
        "status",
        "steps",
        "step",
        "split",
        "seconds",
        "training_seconds",
        "judged",
        "judged_step",
        "warnings",
        "ended",
        "health",
    }
    about |= {key for key in summary if key.startswith(("best/", "last/"))}
    assert set(results) - about == set(summary) - about
    assert results["exact/log_likelihood"] == pytest.approx(summary["exact/log_likelihood"])
    assert (results["step"], results["split"]) == (12, "test")
    assert (newest(found / "evaluations") / "samples.png").exists()


@pytest.mark.long
def test_keys_name_a_split_that_is_not_test():
    found = trained()
    assert ebm("evaluate run=run evaluation=[pseudo_likelihood] split=valid").code == 0
    results = facts(newest(found / "evaluations"), "results.json")
    assert "pseudo_likelihood/valid/log_pseudo_likelihood" in results
    assert "pseudo_likelihood/log_pseudo_likelihood" not in results


@pytest.mark.long
def test_a_split_that_was_not_kept_is_refused():
    trained("dataset.valid=0")
    assert_refused(ebm("evaluate run=run split=valid"), "split = valid: no validation rows were kept; use split=test")


@pytest.mark.quick("sample*")
@pytest.mark.parametrize("line", ["sample run=run n=2 steps=2", "evaluate run=run evaluation=[samples]"])
def test_a_full_disk_is_one_sentence(line, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    trained()
    monkeypatch.setattr(run.Run, "write_image", full)
    answer = ebm(line)
    assert answer.code == 1
    assert answer.err.endswith("No space left on device: free space, then run the command again\n")
    assert "Traceback" not in answer.err
