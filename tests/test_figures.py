"""The figures the project stands by, on real data, from the command line. Minutes each, hence marked long."""

import json
from pathlib import Path

import pytest
from helpers.components import real_data
from test_compiled import COMPILER

from ebm_cli.cli.main import dispatch

pytestmark = pytest.mark.long


def summary(tmp_path, monkeypatch, *words) -> dict[str, float]:
    monkeypatch.chdir(tmp_path)
    assert dispatch(["train", "tracker=none", "hydra.run.dir=run", *words]) == 0
    return json.loads(Path("run/summary.json").read_text())


def test_independent_units_on_digits(tmp_path, monkeypatch):
    """The baseline any model must beat, by its own maximum likelihood on the 1437 rows."""
    found = summary(
        tmp_path, monkeypatch, "model=exponential_family", "dataset.valid=0", "steps=1", "evaluation=[exact]"
    )
    assert found["exact/log_likelihood"] == pytest.approx(-25.2, abs=0.1)


def test_the_default_run(tmp_path, monkeypatch):
    """RBM with 64 hidden units on digits by PCD: a bracket narrower than half a nat, above -17.8.

    Evaluated once on the way, not twenty times: what is found in the end is the same.
    """
    found = summary(tmp_path, monkeypatch, "evaluation=[ais]", "eval_every=10000")
    assert found["ais/log_likelihood"] - found["ais/gap"] >= -17.8
    assert abs(found["ais/gap"]) <= 0.5


def test_small_rbm_on_digits(tmp_path, monkeypatch):
    words = ("model.hidden=16", "steps=5000", "eval_every=0", "evaluation=[exact,ais]", "evaluation.ais.raise_points=0")
    found = summary(tmp_path, monkeypatch, *words)
    assert found["exact/log_likelihood"] >= -19.3
    assert abs(found["ais/log_likelihood"] - found["exact/log_likelihood"]) <= 0.2


def need_data(monkeypatch, file: str) -> None:
    """Sets EBM_DATA to the data folder; skips the test where `file` is not in it."""
    monkeypatch.setenv("EBM_DATA", str(Path(real_data(file)).absolute()))


@pytest.mark.data
def test_chains_do_as_well_as_enumeration_on_nltcs(tmp_path, monkeypatch):
    """The same model by PCD and by the exact gradient: test log-likelihoods, both exact, within 0.05 nats."""
    need_data(monkeypatch, "binary_tabular/nltcs.npz")
    found = []
    for objective in ("pcd", "exact"):
        more = ("experiment=nltcs", f"objective={objective}", "evaluation=[exact]", "model=boltzmann", "steps=300")
        (tmp_path / objective).mkdir()
        found.append(summary(tmp_path / objective, monkeypatch, *more)["exact/log_likelihood"])
    assert abs(found[0] - found[1]) <= 0.05
    assert min(found) >= -6.1


@pytest.mark.data
def test_rbm16_mnist(tmp_path, monkeypatch):
    """PyDeep reaches -142.56 exactly with the same settings; here the estimate must agree with the exact value too."""
    need_data(monkeypatch, "MNIST/raw/train-images-idx3-ubyte.gz")
    words = ("experiment=rbm16_mnist", "eval_every=0", "evaluation=[exact,ais]", "evaluation.ais.temperatures=5000")
    words += ("evaluation.ais.raise_points=0",)
    compiled = "updates" if COMPILER else "never"  # of 30 000, in a third of the time
    found = summary(tmp_path, monkeypatch, *words, f"device.compile={compiled}")
    assert found["exact/log_likelihood"] >= -143.0
    assert abs(found["ais/log_likelihood"] - found["exact/log_likelihood"]) <= 0.5
