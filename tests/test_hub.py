"""`ebm export format=hub`: a folder for the Hugging Face hub, that other commands read, whoever wrote it."""

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from helpers.cli import assert_refused, digest, ebm, facts, trained

import ebm_cli
from ebm_cli.page import command
from ebm_cli.record import checkpoint

ROWS = ("run=card", "device=cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny run, and its folder `card`."""
    root = tmp_path_factory.mktemp("hub")
    rows = (np.random.default_rng(1).random((60, 8, 8)) < 0.5).astype(np.uint8)
    np.savez(root / "data.npz", train=rows[:40], test=rows[40:])
    of_file = f"dataset=array dataset.path={root}/data.npz"
    run = trained(f"{of_file} evaluation=[exact,samples] model.hidden=4 eval_every=6", str(root / "run"))
    answer = ebm("export", f"run={run}", "format=hub", f"out={root}/card")
    assert answer.code == 0, answer.err
    return root


@pytest.fixture
def card(home, tmp_path, monkeypatch) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(home / "card", tmp_path / "card")
    np.savez(tmp_path / "rows.npz", rows=(np.random.default_rng(0).random((5, 8, 8)) < 0.5).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "card"


@pytest.mark.long
def test_what_the_hub_reads(home):
    names = {path.name for path in (home / "card").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md", "curves.png", "samples.png", "summary.json"}
    text = (home / "card" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "ebm"
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    exact = facts(home / "run", "summary.json")["exact/log_likelihood"]
    assert metric["value"] == pytest.approx(exact, abs=1e-4)
    assert "exact, by summing over all states" in text
    assert "![samples](samples.png)" in text
    assert "ebm train model.hidden=8" in text
    assert "checkpoint.monitor=pseudo_likelihood/valid/log_pseudo_likelihood" in text
    assert str(home) not in text + (home / "card" / "config.json").read_text()  # no folder of this machine
    weights = safetensors.torch.load((home / "card" / "model.safetensors").read_bytes())
    ours = checkpoint.load(home / "run" / "checkpoints" / "step-00000012").tensors
    assert torch.equal(weights["W"], ours["average.W"])  # as ebm evaluate takes them
    assert digest(home / "card" / "samples.png") == digest(home / "run" / "samples" / "samples.png")


@pytest.mark.parametrize(
    ("word", "published"),
    [
        ("dataset.path=/home/ann/rows.npz", "dataset.path=rows.npz"),
        ("dataset.path='~/my rows/rows 1.npz'", "dataset.path='rows 1.npz'"),
        ("plugins=[/home/ann/a.py,'/home/ann/b.py']", "plugins=[a.py,'b.py']"),
        ("dataset.path=rows/a.npz", "dataset.path=rows/a.npz"),
        ("checkpoint.monitor=ais/valid/log_likelihood", "checkpoint.monitor=ais/valid/log_likelihood"),
    ],
)
def test_the_command_is_published_without_folders_of_the_machine(tmp_path, word, published):
    (tmp_path / "metadata.json").write_text(json.dumps({"overrides": [word]}))
    known = SimpleNamespace(path=tmp_path)
    assert shlex.split(command.of_run(known)) == ["ebm", "train", word]
    assert shlex.split(command.of_run(known, folders=False)) == ["ebm", "train", published]


@pytest.mark.long
def test_python_shows_it_and_says_that_it_has_no_metrics(card):
    run = ebm_cli.load(card)
    assert "exact" in run._repr_html_()
    with pytest.raises(ebm_cli.UserError, match=r"has no metrics\.jsonl"):
        run.metrics()


def test_commands_take_it_as_the_run(home, card):
    """The same scores, log p included, and samples of the same chains."""
    found = {}
    for name in ("card", f"{home}/run"):
        short = name[-4:].strip("/")
        rows = ("data=rows.npz", "format=npz", "device=cpu", f"out=of_{short}")
        assert ebm("score", f"run={name}", *rows).code == 0
        assert ebm("sample", f"run={name}", "n=3", "steps=2", f"out=drawn_{short}", "device=cpu").code == 0
        found[short] = {
            **np.load(f"of_{short}/scores.npz"), "samples": np.load(f"drawn_{short}/samples.npz")["samples"]
        }  # fmt: skip
    assert found["card"].keys() == found["run"].keys()
    assert all(np.array_equal(found["card"][key], found["run"][key]) for key in found["run"])
    assert "out=DIR has them elsewhere" in ebm("transform", *ROWS, "data=rows.npz").err, "it is made to be published"
    answer = ebm("evaluate", *ROWS, "evaluation=[exact]", "out=measured", f"dataset.path={home}/data.npz")
    assert answer.code == 0, answer.err
    measured = json.loads(Path("measured/results.json").read_text())["exact/log_likelihood"]
    assert measured == pytest.approx(facts(home / "run", "summary.json")["exact/log_likelihood"], abs=1e-6)


def spoil(card: Path, **changes) -> None:
    path = card / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda card: (card / "model.safetensors").write_bytes(b"12345678"), "has 8 bytes, config.json says"),
        (lambda card: spoil(card, library_name="transformers"), "is of another program"),
        (lambda card: spoil(card, step=-1), "step = -1: must be a whole number"),
        (lambda card: spoil(card, configuration={"model": {"name": "rbm"}}), "lacks dataset"),
        (lambda card: spoil(card, space={"name": "binary", "shape": [10**9]}), "more than it holds numbers"),
        (lambda card: spoil(card, space={"name": "binary", "shape": [9, 8]}), "checkpoint of another model"),
        (lambda card: (card / "config.json").write_text("[" * 10**5), "is no JSON"),
        (lambda card: (card / "config.json").write_text(" " * 2**21), "has more than 1048576 bytes"),
        (lambda card: (card / "config.json").write_text('{"step": NaN}'), "NaN is no number"),
    ],
)
def test_a_folder_from_anybody(change, words, card):
    change(card)
    assert_refused(ebm("score", *ROWS, "data=rows.npz"), words)


def test_weights_of_the_right_size_that_are_others(card):
    path = card / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    tensors["W"] += 1
    path.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    assert_refused(ebm("score", *ROWS, "data=rows.npz"), "does not match the SHA-256")
    tensors["W"] *= float("nan")
    bad = safetensors.torch.save(tensors, metadata={"format": "pt"})
    path.write_bytes(bad)
    spoil(card, weights={"bytes": len(bad), "sha256": digest(path)})
    assert_refused(ebm("score", *ROWS, "data=rows.npz"), "W holds numbers that are not finite")
    path.unlink()
    path.symlink_to(card / "config.json")
    assert_refused(ebm("score", *ROWS, "data=rows.npz"), "it is a link")


def test_what_it_is_not(card):
    """No run that goes on, and of one step alone."""
    assert_refused(ebm("train", "resume=card"), "resume = card: is a folder for the Hugging Face hub", "does not go on")
    assert_refused(ebm("sample", *ROWS, "checkpoint=best"), "card holds one model, of step 12; leave it out")
    assert_refused(ebm("export", "run=card", "format=hub", "out=card"), "holds files already")
    answer = ebm("sample", *ROWS, "n=2", "steps=1", "start=chains", "out=x")
    assert answer.code == 0
    assert "the run keeps no chains" in answer.err
