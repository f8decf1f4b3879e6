"""`ebm import`: a run that every other command takes, of models that other packages trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import peers
from helpers.cli import assert_refused, ebm, facts, snapshot
from helpers.peers import SITES, VALUES, couplings, drawn

from ebm_cli.record import checkpoint

FEW = ("evaluation.ais.chains=10", "evaluation.ais.temperatures=20", "evaluation.ais.bootstrap=100", "device=cpu")
QUICK = ("tracker=none", "device=cpu", "evaluation=[exact]", "checkpoint.monitor=null", "eval_every=0")


def folder(root: Path) -> dict[str, np.ndarray]:
    """A file of rbms with 4 units, and 40 rows."""
    arrays = peers.rbms_file(root / "rbm.h5")
    np.savez(root / "rows.npz", train=(drawn(40, SITES) > 0).astype(np.uint8))
    return arrays


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """An imported run with its data."""
    root = tmp_path_factory.mktemp("import")
    arrays = folder(root)
    answer = ebm(
        "import", f"{root}/rbm.h5", "dataset=array", f"dataset.path={root}/rows.npz", f"out={root}/run", *QUICK
    )
    assert answer.code == 0, answer.err
    assert "rbm with 19 parameters on 4 binary rows" in answer.out
    assert f"ebm evaluate run={root}/run evaluation=[ais,bridge]\n" in answer.out
    assert "trained on from here by objective=pcd sampler=block_gibbs chains=persistent" in answer.out
    assert f"ebm train resume={root}/run (" in answer.out
    return root, arrays


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "checkpoints" / "step-00000000").tensors


def test_a_run_is_made(there):
    root, arrays = there
    known, found = facts(root / "run"), tensors(root / "run")
    assert known["status"] == "imported"
    assert known["imported"] | {"sha256": "", "file": ""} == {
        "file": "", "sha256": "", "format": "rbms", "model_type": "BBRBM", "update": 12
    }  # fmt: skip
    assert not any(word.startswith("+peer") for word in known["overrides"])
    for ours, theirs in (("W", "weight_matrix"), ("b", "vbias"), ("c", "hbias")):
        assert torch.equal(found[f"model.{ours}"], torch.from_numpy(arrays[theirs]))
        assert torch.equal(found[f"average.{ours}"], torch.from_numpy(arrays[theirs]))
    assert np.array_equal(found["chains"].float().numpy(), peers.in_file(root / "rbm.h5", "parallel_chains"))


@pytest.mark.long
def test_commands_take_it(there):
    """log Z of the file by enumeration, scored rows with it, samples of its law, and a page on it."""
    root, arrays = there
    run = f"run={root}/run"
    x, log_p = peers.rbms_law("BBRBM", arrays)
    np.savez(root / "all.npz", rows=x.astype(np.uint8))
    answer = ebm("evaluate", run, "evaluation=[ais,bridge]", *FEW)
    assert answer.code == 0, answer.err
    assert ebm("score", run, f"data={root}/all.npz", "format=npz", f"out={root}/scores", "device=cpu").code == 0
    scores = np.load(root / "scores" / "scores.npz")
    np.testing.assert_allclose(scores["log_p"], log_p, atol=1e-5)
    assert ebm("sample", run, "n=2000", "steps=60", f"out={root}/samples", "device=cpu").code == 0
    samples = np.load(root / "samples" / "samples.npz")["samples"]
    share = np.bincount(samples @ 2 ** np.arange(SITES)[::-1], minlength=16) / 2000
    assert np.abs(share - np.exp(log_p)).sum() < 0.15
    assert ebm("transform", run, f"data={root}/all.npz", f"out={root}/features", "device=cpu").code == 0
    assert "imported" in ebm("compare", f"{root}/run").out
    assert ebm("report", f"{root}/run", f"out={root}/report.html").code == 0


@pytest.mark.long
def test_it_goes_on(there, tmp_path):
    """A copy, trained from its weights on; what it was is in its metadata still."""
    root, _ = there
    run = tmp_path / "run"
    for name in snapshot(root / "run"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes((root / "run" / name).read_bytes())
    answer = ebm("train", f"resume={run}", "steps=3", "tracker=none")
    assert answer.code == 0, answer.err
    assert facts(run)["status"] == "done"
    assert facts(run)["imported"]["model_type"] == "BBRBM"
    moved = checkpoint.load(run / "checkpoints" / "step-00000003").tensors
    assert 0 < (moved["model.W"] - tensors(root / "run")["model.W"]).abs().max() < 0.5


@pytest.mark.long
def test_without_data(there, tmp_path, monkeypatch):
    """It is sampled; where data are can be said later, and until then that is what is said."""
    root, _ = there
    monkeypatch.chdir(tmp_path)
    assert ebm("import", f"{root}/rbm.h5", "tracker=none").code == 0
    (run,) = Path("outputs").iterdir()
    assert ebm("sample", f"run={run}", "n=2", "steps=2", "device=cpu").code == 0
    evaluation = ("evaluate", f"run={run}", "evaluation=[exact]", "device=cpu")
    for line in (evaluation, ("train", f"resume={run}")):
        assert_refused(ebm(*line), "was imported without data; name them, dataset.path=DATA")
    assert_refused(ebm(*evaluation, "dataset.path=none.npz"), "none.npz: nothing is there")
    answer = ebm(*evaluation, f"dataset.path={root}/rows.npz", f"out={tmp_path}/found")
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "found" / "results.json").read_text())
    assert "exact/log_likelihood" in results
    assert_refused(ebm("import", f"{root}/rbm.h5", f"out={run}"), f"out = {run}: a run is there already")


@pytest.mark.long
def test_what_it_is_judged_by_is_not_said_to_be_other_than_it_was_trained_on(there, tmp_path):
    """Nobody here knows what that was."""
    root, _ = there
    rows = (drawn(60, SITES, seed=5) > 0).astype(np.uint8)
    np.savez(tmp_path / "others.npz", train=rows[:30], test=rows[30:])
    assert ebm("import", f"{root}/rbm.h5", "tracker=none", f"out={tmp_path}/bare").code == 0
    for run, which in ((root / "run", ", of the data that were named: "), (tmp_path / "bare", "\n")):
        line = ("dataset=array", f"dataset.path={tmp_path}/others.npz", f"out={tmp_path}/of_{run.name}")
        answer = ebm("evaluate", f"run={run}", "evaluation=[exact]", "device=cpu", *line)
        assert answer.code == 0, answer.err
        assert f"judged by: test split, 30 rows{which}" in answer.out


@pytest.mark.long
def test_letters_go_with_a_model_of_adabmdca(tmp_path):
    """Rows are read by the alphabet of the file, though it is none of those that are known."""
    J, h = couplings(), drawn(SITES, VALUES)
    peers.parameters(tmp_path / "params.dat", J, h, "CA-")
    (tmp_path / "rows.fasta").write_text(">a\nCA-C\n>b\nAAAA\n")
    assert ebm("import", f"{tmp_path}/params.dat", f"out={tmp_path}/run", "tracker=none").code == 0
    score = ("score", f"run={tmp_path}/run", f"data={tmp_path}/rows.fasta", "format=npz", f"out={tmp_path}/scores")
    answer = ebm(*score, "pseudo_likelihood=false", "device=cpu")
    assert answer.code == 0, answer.err
    x = peers.one_hot(np.array([[0, 1, 2, 0], [1, 1, 1, 1]]))
    expected = -np.einsum("ni,ij,nj->n", x, J.reshape(12, 12), x) / 2 - x @ h.reshape(-1)
    np.testing.assert_allclose(np.load(tmp_path / "scores" / "scores.npz")["energy"], expected, rtol=1e-5)


@pytest.mark.long
def test_letters_that_are_typed_for_a_model_of_categories(tmp_path):
    """A file of rbms does not say its letters: without them it says how to have them."""
    peers.rbms_file(tmp_path / "potts.h5", kind="PBM")
    (tmp_path / "rows.fasta").write_text(">a\nCA-C\n>b\nAAAA\n")
    for name, word in (("numbers", "tracker=none"), ("letters", "dataset.alphabet=CA-")):
        assert ebm("import", f"{tmp_path}/potts.h5", f"out={tmp_path}/{name}", word).code == 0
    score = ("score", f"data={tmp_path}/rows.fasta", "device=cpu")
    assert_refused(ebm(*score, f"run={tmp_path}/numbers"), "the run is on numbers", "ebm import MODEL dataset=protein")
    answer = ebm(*score, f"run={tmp_path}/letters")
    assert answer.code == 0, answer.err
    assert_refused(ebm("score mutations=all wild_type=CA-C", f"run={tmp_path}/numbers"), "dataset.alphabet=protein")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name the file of a model"),
        (("rbm.h5", "other.h5"), "other.h5: one file is imported at a time"),
        (("rbm.h5", "model.hidden=4"), "model.hidden=4: the model is what rbm.h5 holds"),
        (("rbm.h5", "resume=run"), "an import begins a run"),
        (("rbm.h5", "out=a", "hydra.run.dir=b"), "out = a says where the run goes"),
        (("rbm.h5", "out="), "out is empty"),
        (
            ("rbm.h5", "dataset=digits"),
            "dataset = digits: reads 8x8 binary rows, the model of rbm.h5 takes 4 binary; "
            "name data of such rows, dataset=array dataset.path=FILE, or leave dataset out",
        ),
        (("rbm.h5", "out=rows.npz"), "rows.npz is a file; name a new folder"),
        (("rbm.h5", "out=rows.npz/run"), "rows.npz is a file; name a new folder"),
        (("rbm.h5", "dataset.alphabet=rna"), "dataset.alphabet = rna: has 5 letters, a site of the model"),
        (("rbm.h5", "-m"), "leave out -m"),
        (("nothing.h5",), "nothing.h5: there is no such file"),
        (("rbm.h5", "format=adabmdca"), "rbm.h5: cannot be read as text"),
        (("rbm.h5", "objective=nonsense"), "nonsense"),
    ],
)
def test_refusals(words, said, tmp_path, monkeypatch):
    folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    assert_refused(ebm("import", *words), said)
    assert snapshot(tmp_path) == before


@pytest.mark.long
def test_help_says_what_is_read():
    answer = ebm("import --help")
    assert answer.code == 0
    assert "rbms_jl" in answer.out
