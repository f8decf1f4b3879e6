"""rows.npz: what evaluations found of each row, in the run directory and in the folder of an evaluation."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import TINY, assert_refused, ebm, facts

from ebm_cli import rng
from ebm_cli.commands.trained import Wanted, open_trained
from ebm_cli.log_z import enumeration
from ebm_cli.record import rows
from ebm_cli.training.loop import subject_of

FEW = (
    "evaluation.ais.chains=10", "evaluation.ais.temperatures=10", "evaluation.ais.raise_points=7",
    "evaluation.ais.bootstrap=100", "evaluation.pseudo_likelihood.points=50",
)  # fmt: skip
EACH = {
    "exact/log_likelihood": 360,
    "ais/log_likelihood": 360,
    "ais/gap": 7,
    "pseudo_likelihood/log_pseudo_likelihood": 50,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with everything that is a mean over rows, evaluated once more on the validation split."""
    path = tmp_path_factory.mktemp("rows") / "run"
    chosen = "evaluation=[exact,ais,pseudo_likelihood]"
    assert ebm("train", *TINY[:6], f"hydra.run.dir={path}", chosen, *FEW, "dataset.binarize=stochastic").code == 0
    assert ebm("evaluate", f"run={path}", "device=cpu", chosen, *FEW, "split=valid").code == 0
    return path


def test_every_metric_is_the_mean_of_its_rows(run):
    fingerprint, kept = rows.read(run)
    summary = facts(run, "summary.json")
    assert {name: len(found.values) for name, found in kept.items()} == EACH
    for name, found in kept.items():
        assert found.values.mean() == pytest.approx(summary[name], abs=1e-6), name
        assert len(np.unique(found.which)) == len(found.which) <= 360
    assert summary["rows"]["fingerprint"] == fingerprint


def test_values_are_those_of_the_rows_that_the_index_names(run):
    """log p = -E - log Z of each row with the model in double precision."""
    trained = open_trained(Wanted(run, "last", {"name": "device", **CPU}, []), with_data=True)
    model, x = trained.state.averaged_model().double(), trained.parts.data.test.all().double()
    with torch.no_grad():
        log_p = (-model.energy(x) - enumeration.log_z(model)).numpy()
    kept = rows.read(run)[1]
    assert np.abs(kept["exact/log_likelihood"].values - log_p).max() < 1e-9
    ais = kept["ais/log_likelihood"]
    assert np.ptp(ais.values - log_p) < 1e-4
    assert ((kept["ais/gap"].which >= 0) & (kept["ais/gap"].which < 360)).all()
    chosen = rng.permutation(360, rng.stream(0, "pseudo_likelihood"))[:50].numpy()
    assert (kept["pseudo_likelihood/log_pseudo_likelihood"].which == chosen).all()
    key = subject_of(trained.parts, trained.state, "test", "final ais").key.fold("points")
    assert (kept["ais/gap"].which == rng.permutation(360, key)[:7].numpy()).all()
    assert trained.parts.data.test.fingerprint == rows.read(run)[0]


CPU = {
    "kind": "cpu", "threads": 1, "precision": "fp32", "compile": "never", "deterministic": True, "ranks": 1,
    "memory": None,
}  # fmt: skip


def test_an_evaluation_keeps_its_own(run):
    (folder,) = (run / "evaluations").iterdir()
    fingerprint, kept = rows.read(run, f"evaluations/{folder.name}")
    results = json.loads((folder / "results.json").read_text())
    assert set(kept) == {name.replace("/", "/valid/", 1) for name in EACH}
    assert kept["exact/valid/log_likelihood"].values.mean() == pytest.approx(results["exact/valid/log_likelihood"])
    assert results["rows"]["split"] == "valid"
    assert results["rows"]["fingerprint"] == fingerprint != rows.read(run)[0]


def test_what_was_judged_is_said(run):
    (last,) = (run / "checkpoints").glob("step-*")
    assert facts(run, "summary.json")["rows"] == {
        "data": facts(last, "state.json")["data"],
        "split": "test",
        "count": 360,
        "binarised": "stochastic",
        "levels": 0,
        "noise": 0.0,
        "space": "8x8 binary",
        "fingerprint": rows.read(run)[0],
    }


@pytest.mark.long
def test_rows_of_an_earlier_end_are_put_aside_with_its_summary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = "evaluation=[pseudo_likelihood]"
    assert ebm("train", *TINY[:6], "hydra.run.dir=run", chosen).code == 0
    before = Path("run/rows.npz").read_bytes()
    assert ebm("train resume=run steps=14", "evaluation=[samples]").code == 0
    (aside,) = Path("run/aside").iterdir()
    assert (aside / "rows.npz").read_bytes() == before
    assert not Path("run/rows.npz").exists()


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(rows.pack({"exact/log_likelihood": np.zeros(3)}, {}, "f"))
    (tmp_path / "run").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "run" / rows.NAME)
    with pytest.raises(OSError, match="it is a link"):
        rows.read(tmp_path / "run")


def _npz(compressed: bool = False, **arrays) -> bytes:
    found = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(found, **arrays)
    return found.getvalue()


def _cut() -> bytes:
    return rows.pack({"a": np.zeros(300)}, {}, "f")[:-200]


def _claims_too_much() -> bytes:
    """A header of more numbers than there are."""
    found = io.BytesIO()
    np.lib.format.write_array_header_1_0(found, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.npy", found.getvalue())
    return packed.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"no zip",
        _npz(a=np.array([object()])),
        _npz(compressed=True, a=np.zeros(3)),
        _npz(a=np.zeros((3, 2))),
        _npz(a=np.zeros(3, np.float32)),
        _npz(**{"a": np.zeros(3), "a:index": np.zeros(2, np.int64)}),
        _cut(),
        _claims_too_much(),
    ],
    ids=["text", "pickle", "compressed", "two axes", "float32", "lengths", "cut", "too much"],
)
def test_what_pack_did_not_write_is_a_value_error(tmp_path, data):
    (tmp_path / rows.NAME).write_bytes(data)
    with pytest.raises(ValueError, match=r"."):
        rows.read(tmp_path)


@pytest.mark.long
def test_real_data_of_another_shape_are_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for sites in (2, 4):
        np.savez(f"{sites}.npz", train=np.random.default_rng(0).gamma(2.0, 1.0, (60, sites)))
    line = "train model=gaussian_rbm dataset=array dataset.path=2.npz evaluation=[samples] hydra.run.dir=run"
    assert ebm(line, *TINY[:6], "evaluation.samples.count=4", "checkpoint.monitor=null").code == 0
    answer = ebm("evaluate run=run dataset=array dataset.path=4.npz evaluation=[ais] device=cpu")
    assert_refused(answer, "dataset: reads 4 real rows, the model of", "takes 2 real; name data of such rows")
