"""Where chains that recover less noise from more begin: a network that learns from their ends."""

import json

import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import component, shipped
from helpers.statistics import assert_close
from test_leveled import KEY, network

from ebm_cli.model.from_above import FromAbove
from ebm_cli.objective.base import Batch
from ebm_cli.objective.recovery import pairs
from ebm_cli.rng import normal
from ebm_cli.sampler.base import transitions

ROWS = normal((10, 3), KEY, dtype=torch.float64)


def test_it_begins_where_gaussian_data_would():
    """0 at first: the same mean as without, in the unit of the density's width."""
    plain, model = network(), network(initializer=[4])
    with torch.no_grad():
        for p in model.initializer.last.parameters():
            p.zero_()
    _, level, given = pairs(plain, ROWS, KEY)
    beside = FromAbove(model, given.above, level)
    assert_close(beside.start.detach(), given.start, rtol=1e-12)
    draws = torch.stack([beside.begun(KEY.fold(i)) for i in range(2000)]) - beside.start.detach()
    assert_close(draws.std(), torch.tensor(1.0).double(), rtol=0.02)
    assert (
        sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters()) == (3 + 9 + 1) * 4 + 15
    )


def test_it_says_so_beside_the_mean_of_gaussian_data():
    exploding = {"process": shipped("process")["ve"]}  # whose levels differ in variance
    model = network(initializer=[4, 5], **exploding)
    _, level, given = pairs(model, ROWS, KEY)
    u = (given.above - model.mean) / (model.scale * model.variance[level + 1].sqrt()[:, None])
    plain = FromAbove(network(**exploding), given.above, level)
    assert_close(given.start - plain.start, model.initializer(u, level), rtol=1e-9)
    assert (given.start - plain.start).abs().min() > 1e-4
    assert_close(given.of_rows(slice(2, 5)).start, given.start[2:5], rtol=1e-12)


def test_it_learns_from_where_chains_end_and_from_nothing_else():
    """mean |start - y|^2 / 2 by autograd; the energy's gradient is that of both ends, from its start."""
    model, objective = network(initializer=[4]), component("objective", "recovery", steps=3)
    found = objective.gradient(model, Batch(ROWS), KEY)
    key = KEY.after(0)
    x, level, given = pairs(model, ROWS, key)
    keys = [key.fold("move", i) for i in range(3)]
    end, _ = transitions(objective.kernel, given, given.begun(key.fold("begin")), keys)
    loss = (given.start - end).square().sum(1).mean() / 2
    weight = (model.s / model.a)[level]
    energies = (weight * (model.energy_at(x, level) - model.energy_at(given.outside(end), level))).mean()
    for name, p in model.named_parameters():
        of = loss if name.startswith("initializer.") else energies
        (expected,) = torch.autograd.grad(of, [p], retain_graph=True)
        assert bool(expected.abs().max() > 0) is (name != "offset"), "both ends are of one level"
        assert_close(found.parameters[name], expected, rtol=1e-9, atol=1e-12)
    assert_close(found.metrics["start_distance"], (2 * loss.detach() / 3).sqrt())


def test_what_nothing_else_would_train_is_refused(tmp_path):
    line = (
        f"train model=leveled dataset=points_2d model.initializer=[8] steps=2 tracker=none hydra.run.dir={tmp_path}/run"
    )
    assert_refused(ebm(line), "model.initializer = [8]: objective=recovery alone trains it")


@pytest.mark.long
def test_it_comes_to_lie_nearer_to_where_chains_end(tmp_path):
    """From the command line, of two far modes, than the mean of Gaussian data; and the walk begins there too."""
    line = (
        "train model=leveled dataset=gaussians dataset.modes=2 dataset.reach=10 dataset.std=1 objective=recovery "
        "process@model.process=recovery objective.steps=2 batch_size=128 steps=100 optimizer.lr=0.01 evaluation=[] "
        "checkpoint.monitor=null tracker=none device=cpu log_every=25 model.network.widths=[16] model.waves=0 "
    )
    ends = {}
    for widths in ("[32]", "null"):
        run = tmp_path / widths
        answer = ebm(f"{line} model.initializer={widths} hydra.run.dir={run}")
        assert answer.code == 0, answer.err
        lines = [json.loads(each) for each in (run / "metrics.jsonl").read_text().splitlines()]
        ends[widths] = [each["start_distance"] for each in lines if "start_distance" in each][-1]
    assert 1 < ends["[32]"] < 0.85 * ends["null"], "the ends have a deviation of 1 or more themselves"
    answer = ebm(f"sample run={tmp_path}/[32] n=20 steps=7 sampler.predictor=recovery device=cpu")
    assert answer.code == 0, answer.err
