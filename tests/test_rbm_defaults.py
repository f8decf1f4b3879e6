"""What `ebm train` does with an RBM when nothing else is said, and what that comes to on a table of bits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.cli import ebm
from helpers.components import component, real_data
from helpers.models import target

from ebm_cli import registry
from ebm_cli.evaluation.ais import AIS


def composed(words: str) -> dict:
    return yaml.safe_load(ebm(f"train {words} --cfg job").out)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_rbm_brings_averaged_weights_and_its_monitor():
    found = composed("")
    assert found["objective"]["centered"] == "auto"
    assert (found["optimizer"]["lr"], found["optimizer"]["ema"]) == (0.1, 0.998)
    assert (found["batch_size"], found["eval_every"]) == (100, 1000)
    assert found["checkpoint"]["monitor"] == "ais/valid/log_likelihood"
    assert found["evaluation"]["ais"]["while_training"] is True


def test_what_is_typed_wins_over_what_an_rbm_brings():
    typed = "optimizer=adam batch_size=50 eval_every=7 checkpoint.monitor=null evaluation.ais.while_training=false"
    found = composed(typed)
    assert (found["optimizer"]["name"], found["optimizer"]["lr"], found["optimizer"]["ema"]) == ("adam", 0.001, 0.0)
    assert (found["batch_size"], found["eval_every"], found["checkpoint"]["monitor"]) == (50, 7, None)
    assert found["evaluation"]["ais"]["while_training"] is False


def test_other_models_have_none_of_it():
    found = composed("model=boltzmann")
    assert (found["optimizer"]["lr"], found["optimizer"]["ema"], found["batch_size"]) == (0.05, 0.0, 100)
    assert found["checkpoint"]["monitor"] == "pseudo_likelihood/valid/log_pseudo_likelihood"
    ais = found["evaluation"]["ais"]
    assert (ais["while_training"], ais["training_temperatures"]) == (False, None)


@pytest.mark.parametrize("model", ["class_rbm", "conv_rbm"])
def test_machines_of_few_parameters_have_a_higher_rate(model):
    found = composed(f"model={model}")["optimizer"]
    assert (found["name"], found["lr"]) == ("adam", 0.005)


@pytest.mark.parametrize(("model", "centered"), [("rbm-binary", True), ("boltzmann-binary", False)])
def test_auto_is_the_centred_gradient_for_an_rbm_alone(model, centered):
    assert component("objective", "pcd").centers(target(model)) is centered


@pytest.mark.long
def test_the_same_command_goes_on_with_the_run_it_started():
    words = "train steps=4 batch_size=5 tracker=none device=cpu evaluation=[] hydra.run.dir=run resume=auto"
    assert [ebm(words).code, ebm(words).code] == [0, 0]


def test_annealing_while_training_is_shorter_and_goes_up_alone():
    whole: AIS = registry.build("evaluation", composed("")["evaluation"]["ais"])
    quick = whole.while_it_trains()
    assert quick == replace(whole, temperatures=500, raise_points=0)
    assert replace(whole, training_temperatures=None).while_it_trains().raise_points == whole.raise_points


@pytest.mark.long
def test_best_and_last_are_compared_by_the_annealing_done_while_training():
    found = "ais/valid/log_likelihood"
    short = "evaluation.ais.temperatures=40 evaluation.ais.training_temperatures=3 evaluation.ais.chains=4"
    harmful = "steps=20 eval_every=5 save_every=5 optimizer.warmup=20 optimizer.lr=30 optimizer.ema=0"
    words = f"train {harmful} evaluation=[ais] {short} tracker=none device=cpu hydra.run.dir=run"
    assert ebm(words).code == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    recorded = {line["step"]: line[found] for line in lines if found in line}
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["judged"] == "best"
    assert summary[f"best/{found}"] == max(recorded.values())
    assert summary[f"last/{found}"] == pytest.approx(recorded[20], abs=1e-3)


@pytest.mark.long
@pytest.mark.data
def test_an_rbm_is_far_better_than_independent_units(monkeypatch):
    """Mushrooms after a tenth of the steps: independent units have -34.2 nats, published RBMs -15.15."""
    root = real_data("binary_tabular/mushrooms.npz")
    data = np.load(f"{root}/binary_tabular/mushrooms.npz")
    on = (data["train"].sum(0) + 1) / (len(data["train"]) + 2)
    independent = np.where(data["test"] == 1, np.log(on), np.log1p(-on)).sum(1).mean()
    words = f"dataset=binary_tabular dataset.table=mushrooms dataset.root={root} steps=3000 device=cpu tracker=none"
    assert ebm(f"train {words} evaluation=[ais] hydra.run.dir=run").code == 0
    found = json.loads(Path("run/summary.json").read_text())
    assert found["ais/log_likelihood"] > independent + 12
    assert abs(found["ais/gap"]) < 1
