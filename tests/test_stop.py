"""Training that ends before its last step: what is looked at, when it is enough, and what a resumed run does then."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import processes
from helpers.cli import assert_refused, ebm, facts, last_step, outcome, snapshot, train, trained
from helpers.components import SMALL_SPACES, component
from helpers.data import small_data
from test_resume import Killed, at_step, die

from ebm_cli.rng import stream
from ebm_cli.space import Binary, Categorical, Real, Spin
from ebm_cli.stop.plateau import since_best
from ebm_cli.yardstick import covariances

LINE = (
    "dataset=bars_and_stripes dataset.side=3 objective=pcd chains.count=200 chains.steps=2 optimizer.lr=0.3 "
    "batch_size=50 optimizer.schedule=constant stop=pearson stop.every=10 stop.target=0.6 steps=300 log_every=50 "
    "eval_every=0 checkpoint.monitor=null report.checkpoint=last"
)


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# What is compared


def definition(space, x, weight, pseudocount):
    """C_ij(a, b) of all i < j, a, b, as it is written, by loops over pairs of sites; float64."""
    if isinstance(space, Real):
        flat = x.flatten(1).double().numpy()
        whole = np.cov(flat.T, bias=True, aweights=weight)
        return whole[np.triu_indices(len(whole), 1)]
    values = space.decode(x).flatten(1).long()
    one = torch.nn.functional.one_hot(values, space.values).double().numpy()
    share, K = weight / weight.sum(), space.values
    f = (1 - pseudocount) * np.einsum("n,nia->ia", share, one) + pseudocount / K
    found = []
    for i in range(space.sites):
        for j in range(i + 1, space.sites):
            pair = (1 - pseudocount) * np.einsum("n,na,nb->ab", share, one[:, i], one[:, j]) + pseudocount / K**2
            found.append(pair - np.outer(f[i], f[j]))
    return np.concatenate([pair.ravel() for pair in found])


@pytest.mark.parametrize("kind", [Binary, Spin, Categorical, Real], ids=lambda kind: kind.name)
@pytest.mark.parametrize("weighted", [False, True])
def test_pearson_and_slope_are_those_of_the_definition(kind, weighted, monkeypatch):
    """Over pieces of rows and strips of columns, by numpy's corrcoef and least squares."""
    monkeypatch.setattr(covariances, "_NUMBERS", 30)
    space = {Categorical: Categorical((2, 3, 3)), Real: Real((5,))}.get(kind, kind((2, 3)))
    data = small_data(space, 60)
    weight = torch.linspace(0.1, 1.0, 60).double() if weighted else torch.ones(60).double()
    split = dataclasses.replace(data.train, weights=weight if weighted else None)
    x = space.noise(40, stream(3, "samples"))
    expected = definition(space, split.all(), weight.numpy(), 1 / weight.sum().item())
    chains = definition(space, x, np.ones(40), 0.0)
    found = covariances.agreement(space, covariances.of_split(split), covariances.of_samples(space, x))
    assert found.pearson == pytest.approx(np.corrcoef(expected, chains)[0, 1], abs=1e-5)
    assert found.slope == pytest.approx(np.polyfit(expected, chains, 1)[0], abs=1e-5)


def test_chains_that_are_all_the_same_have_no_correlation():
    space = Binary((2, 3))
    data = covariances.of_split(small_data(space).train)
    found = covariances.agreement(space, data, covariances.of_samples(space, torch.ones(5, 2, 3)))
    assert np.isnan(found.pearson)
    stop = component("stop", "pearson").watch(small_data(space))
    assert stop.look(torch.ones(5, 2, 3), lambda _: []).met is None


def test_the_ceiling_is_what_a_perfect_model_reaches():
    """Draws from the rows themselves, so many at a time; the mean of 300 correlations has an error of about 0.01."""
    space = Binary((1, 6))
    first = torch.rand(4000, 3, generator=torch.Generator().manual_seed(5)) < 0.4
    noise = torch.rand(4000, 3, generator=torch.Generator().manual_seed(6)) < 0.25
    rows = torch.cat([first, first ^ noise], 1).float().reshape(-1, 1, 6)
    data = dataclasses.replace(small_data(space).train, stored=rows.byte())
    whole = covariances.of_split(data)
    taken = [rows[torch.randperm(4000, generator=torch.Generator().manual_seed(n))[:40]] for n in range(300)]
    reached = [covariances.agreement(space, whole, covariances.of_samples(space, x)).pearson for x in taken]
    assert covariances.ceiling(whole, 40) == pytest.approx(np.mean(reached), abs=0.04)


@pytest.mark.parametrize(
    ("values", "change", "since"),
    [([3.0], 0, 0), ([1, 2, 3], 0, 0), ([3, 2, 1], 0, 2), ([1, 3, 3], 0, 1), ([1, 1.5, 2.1, 2.2], 1, 1)],
)
def test_since_the_best(values, change, since):
    assert since_best(values, change) == since


# A run that ends early


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """One that was never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("stopped"))
        return trained(LINE).absolute()


def looks(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["stop/pearson"] for line in lines if "stop/pearson" in line}


def test_it_ends_at_the_first_look_that_meets_the_target(stopped):
    found, summary = looks(stopped), facts(stopped, "summary.json")
    last = max(found)
    assert list(found) == list(range(10, last + 1, 10))
    assert found[last] >= 0.6 > max(value for step, value in found.items() if step < last)
    assert (summary["status"], summary["steps"], last_step(stopped).name) == ("done", last, f"step-{last:08d}")
    assert summary["ended"] == {
        "why": "target", "said": f"stop/pearson = {found[last]:.4g}, stop.target = 0.6", "of": 300,
    }  # fmt: skip
    assert f"step {last}: target met (stop/pearson" in (stopped / "train.log").read_text()


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("resume", ["run", "auto"])
def test_resumed_it_says_so_and_does_nothing(stopped, resume):
    shutil.copytree(stopped, "run")
    before = snapshot(Path("run"))
    answer = train(f"{LINE} resume=auto") if resume == "auto" else ebm("train resume=run")
    assert answer.code == 0
    assert "run is done: its target was met at step" in answer.err
    assert snapshot(Path("run")) == before


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_with_another_target_it_goes_on_as_if_it_had_had_it(stopped):
    shutil.copytree(stopped, "run")
    answer = ebm("train resume=run stop.target=0.8")
    assert answer.code == 0, answer.err
    assert outcome(Path("run")) == outcome(trained(LINE.replace("0.6", "0.8"), "whole"))
    assert facts(Path("run"), "summary.json")["steps"] > facts(stopped, "summary.json")["steps"]


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_killed_and_resumed_it_ends_where_it_would_have(stopped, monkeypatch):
    """Also where the process died after the last checkpoint, before its end was recorded."""
    last = facts(stopped, "summary.json")["steps"]
    with monkeypatch.context() as patch:
        at_step(patch, last - 3, die)
        with pytest.raises(Killed):
            train(f"{LINE} save_every=10")
    with monkeypatch.context() as patch:
        patch.setattr("ebm_cli.training.early.Early.say", lambda *_: die())
        with pytest.raises(Killed):
            ebm("train resume=run")
    monkeypatch.setattr("ebm_cli.training.loop.train_step", None)
    answer = ebm("train resume=run")
    assert answer.code == 0, answer.err
    assert outcome(Path("run")) == outcome(stopped)
    assert facts(Path("run"), "summary.json")["ended"] == facts(stopped, "summary.json")["ended"]


@pytest.mark.usefixtures("_elsewhere")
def test_a_metric_that_no_longer_improves_ends_it():
    """The rate falls from step to step, so that its first value stays the best."""
    run = trained("stop=plateau stop.every=2 stop.metric=learning_rate stop.patience=4 steps=40")
    found = facts(run, "summary.json")
    assert found["steps"] == 6, "the fifth number is the fourth that is no better, seen at the next look"
    assert "learning_rate has not improved 5 times in a row, stop.patience = 4" in found["ended"]["said"]
    assert facts(trained("stop=none", "all"), "summary.json")["ended"] == {"why": "all steps"}


@pytest.mark.usefixtures("_elsewhere")
def test_a_metric_that_is_not_logged_ends_it_in_one_sentence():
    answer = train("stop=plateau stop.every=2 stop.metric=learning_rat")
    assert answer.code == 1
    assert "stop.metric = learning_rat: nothing of this name was logged so far" in answer.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("objective=exact model.hidden=3 dataset=bars_and_stripes dataset.side=2", "objective=exact has no chains"),
        ("objective=pseudo_likelihood", "objective=pseudo_likelihood has no chains"),
        ("objective=cd", "begin anew at every step"),
        ("stop.target=1.0", "stop.target = 1.0"),
        ("stop.every=0", "stop.every = 0"),
        ("stop=plateau stop.metric=density_2d/valid/x stop.every=5", "density_2d/valid/x: no evaluation measures it"),
        ("stop=", "stop"),
    ],
)
@pytest.mark.usefixtures("_elsewhere")
def test_what_cannot_be_looked_at_is_refused(line, words):
    assert_refused(train(f"stop=pearson {line}" if "stop=" not in line else line), words)
    assert not Path("run").exists()


@pytest.mark.usefixtures("_elsewhere")
def test_too_few_chains_are_warned_of():
    """And no more once there are as many as the sentence says."""
    answer = train("stop=pearson chains.count=20 steps=1")
    found = re.search(r"20 chains are so few that a perfect model would reach about [\d.]+; (\d+) would do", answer.err)
    watch = component("stop", "pearson").watch(component("dataset", "digits").load((Binary,)))
    assert watch.remark(int(found[1])) is None
    assert watch.remark(int(found[1]) - 1) is not None


@pytest.mark.parametrize("space", [space for kind, space in SMALL_SPACES.items() if kind not in covariances.SPACES])
def test_data_without_such_pairs_are_refused(space):
    why = component("stop", "pearson").refusal_of_data(small_data(space))
    assert space.name in why


@pytest.mark.long
def test_all_ranks_end_at_the_same_step(stopped, tmp_path, monkeypatch):
    processes.keep_warm(monkeypatch)
    monkeypatch.chdir(tmp_path)
    answer = train(f"{LINE} device.ranks=2")
    assert answer.code == 0, answer.err
    assert facts(Path("run"), "summary.json")["steps"] == facts(stopped, "summary.json")["steps"]
