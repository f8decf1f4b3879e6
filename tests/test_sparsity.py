"""Sparse models: which couplings are added and dropped, by enumeration, and runs whose couplings come and go."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import TINY, assert_refused, ebm, facts, last_step, outcome
from helpers.components import component
from helpers.models import double_states, exact_p, target
from safetensors.torch import load_file
from test_resume import Killed, at_step, die

from ebm_cli.sparsity.activate import gain
from ebm_cli.sparsity.base import Seen, indicators
from ebm_cli.sparsity.prune import loss
from ebm_cli.training.sparse import _means

PAIRED = ["boltzmann-binary", "ising-spin", "potts-categorical"]
ADDED = (
    "model=boltzmann chains.count=20 sparsity=activate sparsity.every=3 sparsity.share=0.01 optimizer=adam stop=none "
    "steps=14"
)
DROPPED = (
    "model=boltzmann chains.count=20 sparsity=prune sparsity.share=0.3 sparsity.density=0.4 stop=plateau stop.every=2 "
    "stop.metric=learning_rate stop.patience=1 optimizer.momentum=0.5 optimizer.ema=0.5 optimizer.ema_start=0 steps=40"
)


def train(line, directory="run"):
    """A tiny run, of a model without hidden units unless the line says one."""
    return ebm("train", *TINY[1:], f"hydra.run.dir={directory}", *line.split())


def trained(line):
    answer = train(line)
    assert answer.code == 0, answer.err
    return Path("run")


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Which couplings


def law(model):
    """A distribution of data, nothing like the model's, (states,)."""
    number = torch.arange(len(double_states(model)), dtype=torch.float64)
    return torch.softmax(torch.sin(3 * number), 0)


def entries(model):
    """The places of all couplings."""
    name = model.couplings[0]
    return name, model.entries(name).nonzero().tolist()


def shares(model, weight):
    """How often the indicators of the couplings are 1, by the weights of all states, and their strengths."""
    name = model.couplings[0]
    means = _means(model, name, double_states(model).split(5), weight)
    found, strength, _ = indicators(model.space, means.double(), model.get_parameter(name).detach())
    return found, strength


def with_added(model, name, place, change):
    """log p(x) of all states with a coupling that differs by so much."""
    J = model.get_parameter(name)
    with torch.no_grad():
        J[tuple(place)] += change
        log_p = exact_p(model).log()
        J[tuple(place)] -= change
    return log_p


@pytest.mark.parametrize("name", PAIRED)
def test_the_gain_is_that_of_the_likelihood_at_the_best_strength(name):
    model = target(name)
    data, before = law(model), exact_p(model).log()
    f, p = shares(model, data)[0], shares(model, exact_p(model))[0]
    parameter, places = entries(model)
    scale = 2 if name == "ising-spin" else 1
    for place in places[::2]:
        f_here, p_here = f[tuple(place)], p[tuple(place)]
        best = math.log(f_here * (1 - p_here) / (p_here * (1 - f_here))) / scale
        gained = [
            (data * (with_added(model, parameter, place, best + away) - before)).sum().item()
            for away in (0, 0.05, -0.05)
        ]
        assert gained[0] == pytest.approx(gain(f_here, p_here).item(), abs=1e-6)
        assert gained[0] > max(gained[1:])


@pytest.mark.parametrize("name", PAIRED)
def test_the_loss_is_kl_to_the_model_without_the_coupling(name):
    model = target(name)
    p_all = exact_p(model)
    p, strength = shares(model, p_all)
    parameter, places = entries(model)
    for place in places[::2]:
        J = model.get_parameter(parameter)[tuple(place)].item()
        kl = (p_all * (p_all.log() - with_added(model, parameter, place, -J))).sum().item()
        assert loss(p, strength)[tuple(place)].item() == pytest.approx(kl, abs=1e-6)


def seen():
    data, chains = torch.tensor([0.5, 0.99, 0.9, 0.4, 0.3]), torch.tensor([0.4, 0.2, 0.2, 0.1, 0.3])
    strength = torch.tensor([0.1, -2.0, 0.0, 3.0, 1.0])
    active = torch.tensor([True, True, False, False, True])
    return Seen(data, chains, strength, active, torch.tensor([True, True, True, True, True]))


def test_what_is_added_was_missing_and_gains_most():
    found = component("sparsity", "activate", share=0.3).chosen(seen())
    assert found.tolist() == [True, True, True, False, True]


def test_what_is_dropped_was_there_and_loses_least():
    found = component("sparsity", "prune", share=0.5).chosen(seen())
    assert found.tolist() == [False, True, False, False, False], "losses 0.001, 0.4 and 0.09, and two of the three go"
    assert component("sparsity", "prune", share=0.01).chosen(seen()).sum() == 2, "one at least"


# Runs


def tensors(run):
    return load_file(last_step(run) / "state.safetensors")


def couplings(run):
    found = tensors(run)
    return found["model.W"], found["sparsity.W"] > 0


def densities(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["sparsity/density"] for line in lines if "sparsity/density" in line]


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("dropped"))
        return trained(DROPPED).absolute()


@pytest.mark.usefixtures("_elsewhere")
def test_couplings_are_added_a_share_at_a_time(monkeypatch):
    run, total, count = trained(ADDED), 64 * 63 // 2, 0
    for _ in range(4):
        count += math.ceil(0.01 * (total - count))
    W, mask = couplings(run)
    assert mask.sum() == count
    assert not mask.tril().any()
    assert (W[~mask] == 0).all()
    assert (W[mask] != 0).sum() >= count * 0.7, "all but those of the last step, which have had no update"
    assert densities(run)[-1] == pytest.approx(count / total)
    with monkeypatch.context() as patch:
        at_step(patch, 8, die)
        with pytest.raises(Killed):
            train(f"{ADDED} save_every=6", "killed")
    assert ebm("train resume=killed").code == 0
    assert outcome(Path("killed")) == outcome(run)


def test_couplings_are_dropped_until_so_few_are_left(dropped):
    """0.7, 0.49, 0.343 of them: training ends at the look after the last round."""
    assert densities(dropped) == pytest.approx([0.7, 0.49, 0.343], abs=1e-3)
    found, (W, mask) = tensors(dropped), couplings(dropped)
    assert mask.sum() / (64 * 63 / 2) == pytest.approx(densities(dropped)[-1])
    for name in ("model.W", "average.W", "optimizer.momentum.W"):
        assert (found[name][~mask] == 0).all(), name
    assert (W[mask] != 0).all()
    summary = facts(dropped, "summary.json")
    assert (summary["ended"]["why"], summary["steps"], found["sparsity.changed"].item()) == ("target", 8, 6)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("step", [5, 7])
def test_killed_after_a_round_it_goes_on_as_if_it_had_not_been(dropped, step, monkeypatch):
    """Also after the last one, whose step has few enough couplings and a target that is met."""
    with monkeypatch.context() as patch:
        at_step(patch, step, die)
        with pytest.raises(Killed):
            train(f"{DROPPED} save_every=2")
    answer = ebm("train resume=run")
    assert answer.code == 0, answer.err
    assert outcome(Path("run")) == outcome(dropped)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model=rbm sparsity=activate", "wants a model of pairs of sites with values"),
        ("sparsity=activate model=boltzmann objective=pseudo_likelihood stop=none", "chosen by chains that stay"),
        ("sparsity=prune model=boltzmann stop=none", "take stop=pearson"),
        ("sparsity=activate model=boltzmann device.ranks=2", "device.ranks = 2: sparsity changes couplings in one"),
        ("sparsity=prune model=boltzmann sparsity.density=1.5", "sparsity.density = 1.5"),
    ],
)
@pytest.mark.usefixtures("_elsewhere")
def test_what_has_no_couplings_to_choose_is_refused(line, words):
    assert_refused(train(line), words)
    assert not Path("run").exists()


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    "how", ["activate sparsity.every=2 sparsity.share=0.5", "prune stop=plateau stop.metric=learning_rate", "none"]
)
def test_couplings_of_an_imported_model_are_there_from_the_start(how):
    """Sparse schemes go on from those that are not 0; without one all of them are trained, which is said."""
    J = np.zeros((4, 4), np.float32)
    J[0, 1] = J[1, 0] = 0.5
    J[2, 3] = J[3, 2] = -1.0
    np.savez("model.npz", model="ising", J=J, b=np.zeros(4, np.float32))
    rows = (np.random.default_rng(0).random((40, 4)) < 0.5).astype(np.int64) * 2 - 1
    np.savez("rows.npz", train=rows[:20], test=rows[20:])
    line = f"model.npz dataset=array dataset.path=rows.npz sparsity={how} objective=pcd chains.count=20 batch_size=5 "
    line += "evaluation=[]"
    answer = ebm("import", *line.split(), "out=run", "tracker=none")
    assert answer.code == 0, answer.err
    rest = "trained on, the others move too; import" if how == "none" else "the others stay 0 until some are added"
    assert f"2 of its 6 couplings are not 0; {rest}" in answer.out
    assert tensors(Path("run"))["model.J"].count_nonzero() == 2, "as they were"
    answer = ebm(*["train", "resume=run", "steps=1", "save_every=1"])
    assert answer.code == 0, answer.err
    assert tensors(Path("run"))["model.J"].count_nonzero() == (6 if how == "none" else 2)
    if how.startswith("activate"):
        assert ebm(*["train", "resume=run", "steps=2", "save_every=1"]).code == 0
        assert tensors(Path("run"))["sparsity.J"].sum() == 4, "half of the missing ones are added to those"
