"""Ising models and the graphs they live on: definitions, known partition functions, recovery of couplings."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts
from helpers.components import component
from helpers.models import small_model
from helpers.statistics import assert_close, assert_mean
from sklearn.metrics import roc_auc_score

from ebm_cli import graph
from ebm_cli.dataset import ising_samples
from ebm_cli.errors import UserError
from ebm_cli.evaluation.recover import compared
from ebm_cli.log_z import enumeration, transfer
from ebm_cli.log_z.paths import Tempered
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.rng import normal, stream
from ebm_cli.space import Binary, Spin

TINY = {"rtol": 1e-12, "atol": 1e-12}


def ising(shape, coupling=0.0, bias=0.0, **changes):
    """A shipped model in float64, all couplings and all fields alike."""
    spec = component("model", "ising", coupling=coupling, bias=bias, **changes)
    return spec.build(Spin(shape), torch.full(shape, 0.5), stream(0, "model")).double()


def uneven(model, seed=0):
    """Every coupling and field another number."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(normal(parameter.shape, stream(seed, name), dtype=torch.float64) / 2)
    return model


# Graphs


def pairs(edges):
    return sorted(tuple(sorted(edge)) for edge in torch.cat(list(edges)).tolist())


def test_edges_of_a_lattice():
    """2 x 3, sites 0 1 2 / 3 4 5: the axis of length 2 has nothing to wrap, the other closes 2-0 and 5-3."""
    assert pairs(graph.lattice((2, 3), periodic=True)) == [
        (0, 1), (0, 2), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (3, 5), (4, 5)
    ]  # fmt: skip
    assert pairs(graph.lattice((2, 3), periodic=False)) == [(0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5)]
    assert pairs(graph.lattice((3, 3, 3), periodic=True)) == sorted(set(pairs(graph.lattice((3, 3, 3), periodic=True))))
    assert len(pairs(graph.lattice((3, 4, 5), periodic=True))) == 3 * 60


@pytest.mark.parametrize(
    ("edges", "sites", "colours"),
    [
        (torch.cat(graph.lattice((4, 6), periodic=True)), 24, 2),
        (torch.cat(graph.lattice((5, 5), periodic=False)), 25, 2),
        (torch.cat(graph.lattice((5, 5), periodic=True)), 25, 4),
        (graph.complete(6), 6, 6),
        (graph.erdos_renyi(40, 4.0, stream(0, "graph")), 40, 5),
    ],
    ids=["even", "open", "odd", "complete", "random"],
)
def test_no_two_sites_of_a_colour_are_adjacent(edges, sites, colours):
    found = graph.coloured(edges, sites)
    assert sorted(torch.cat(found).tolist()) == list(range(sites))
    colour = {site: number for number, members in enumerate(found) for site in members.tolist()}
    assert all(colour[a] != colour[b] for a, b in edges.tolist())
    assert len(found) <= colours


def test_random_graphs_have_the_degree_asked_for():
    edges = graph.erdos_renyi(400, 4.0, stream(1, "graph"))
    assert 2 * len(edges) / 400 == pytest.approx(4, abs=5 * math.sqrt(2 * 4 / 400))
    assert (edges[:, 0] < edges[:, 1]).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0 1\n1 9\n", "line 2: there is no site 9, the data have sites 0 to 8"),
        ("0 1\n\n2 2\n", "line 3: couples site 2 with itself"),
        ("0 1\n1 2 3 4\n", "line 2: '1 2 3 4' is not two numbers of sites"),
        ("0 1 x\n", "line 1: 'x' is not a number"),
        ("0 1 nan\n", "line 1: a coupling of nan is not finite"),
        ("0 1 0.5\n1 0 0.25\n", "line 2: couples sites 0 and 1 by 0.25, a line above by 0.5"),
        ("0 1\n1 0 0.25\n", "line 2: couples sites 0 and 1 by 0.25, a line above by 0;"),
        ("0 -1\n", "line 1: '0 -1' is not two numbers of sites"),
        ("# nothing\n", "holds no edge"),
    ],
)
def test_a_bad_graph_file_is_refused_with_its_line(tmp_path, text, sentence):
    (tmp_path / "graph.txt").write_text(text)
    with pytest.raises(UserError, match=r"^model.path = .*graph.txt.*" + sentence):
        ising((3, 3), graph="file", path=str(tmp_path / "graph.txt"))
    with pytest.raises(UserError, match="cannot be read"):
        ising((3, 3), graph="file", path=str(tmp_path / "none.txt"))


def test_a_file_is_named_where_it_is_read_alone():
    with pytest.raises(UserError, match=r"^model\.path = null: name the file"):
        component("model", "ising", graph="file")
    with pytest.raises(UserError, match=r"^model\.path = g\.txt: is read with model.graph=file, not with lattice"):
        component("model", "ising", path="g.txt")


def test_a_graph_file_is_read(tmp_path):
    (tmp_path / "graph.txt").write_text("0 1 # a comment\n\n2 1\n1 0\n")
    model = ising((3,), graph="file", path=str(tmp_path / "graph.txt"), coupling=0.5)
    assert model.edges.tolist() == [[0, 1], [1, 2]]
    assert model.J.tolist() == [0.5, 0.5]


def test_couplings_of_a_file(tmp_path):
    (tmp_path / "graph.txt").write_text("2 0 -0.25\n0 1 1e-1\n0 2 -0.25\n1 2\n")
    model = ising((3,), graph="file", path=str(tmp_path / "graph.txt"), coupling=0.5)
    expected = torch.tensor([[0, 0.1, -0.25], [0.1, 0, 0.5], [-0.25, 0.5, 0]])
    assert torch.allclose(model.coupling(), expected.to(model.J))


# The model


@pytest.mark.parametrize("kind", ["lattice", "complete", "erdos_renyi"])
def test_energy_is_minus_the_sum_over_edges(kind):
    model = uneven(ising((3, 4), graph=kind))
    x = model.space.noise(5, stream(0, "x")).double()
    for s, energy in zip(x.flatten(1).tolist(), model.energy(x).tolist(), strict=True):
        coupled = sum(j * s[a] * s[b] for j, (a, b) in zip(model.J.tolist(), model.edges.tolist(), strict=True))
        assert energy == pytest.approx(-coupled - sum(b * v for b, v in zip(model.b.tolist(), s, strict=True)))


def test_few_edges_and_many_are_computed_alike():
    model = uneven(ising((8, 8)))
    x = model.space.noise(7, stream(0, "x")).double()
    assert not model.dense
    found = [model.energy(x), *model.energy_and_grad(x), *model.energy_vjp(x)[1](torch.arange(7.0).double()).values()]
    model.dense = True
    dense = [model.energy(x), *model.energy_and_grad(x), *model.energy_vjp(x)[1](torch.arange(7.0).double()).values()]
    for a, b in zip(found, dense, strict=True):
        assert_close(a, b, **TINY)


def test_a_spin_model_is_the_boltzmann_machine_of_its_bits():
    """s = 2 x - 1: W = 4 J and b' = 2 b - 2 sum_j J_ij, whose energies differ by a constant."""
    spin, bits = uneven(ising((4,), graph="complete")), small_model("boltzmann", Binary((4,)))
    J = spin.coupling().detach()
    with torch.no_grad():
        bits.W.copy_(4 * J.triu(1))
        bits.b.copy_(2 * spin.b - 2 * J.sum(1))
    x = bits.space.enumerate().double()
    difference = spin.energy(2 * x - 1) - bits.energy(x)
    assert_close(difference, difference[:1].expand(16), **TINY)


def test_annealed_is_the_mixture_up_to_a_constant():
    model = uneven(ising((2, 2)))
    base = BernoulliProduct(model.space, torch.linspace(0.2, 0.7, 4)).double()
    x = model.space.enumerate().double()
    difference = model.mixed(base, 0.7, 0.3).energy(x) - Tempered(base, model, 0.3).energy(x)
    assert_close(difference, difference[:1].expand(16), **TINY)
    assert not model.mixed(base, 0.7, 0.3).J.requires_grad
    assert model.J.requires_grad


# log Z


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (2, 5), (5, 2), (1, 6), (3, 3), (4, 4)], ids=str)
@pytest.mark.parametrize("periodic", [True, False])
def test_transfer_matrices_sum_over_all_states(shape, periodic):
    model = uneven(ising(shape, periodic=periodic))
    brute = (-model.energy(model.space.enumerate().double())).logsumexp(0)
    assert_close(transfer.log_z(model), brute, **TINY)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("strength", [60, 600])
def test_strong_couplings_of_both_signs_do_not_underflow(periodic, strength):
    """In a frustrated lattice the states that count are far below the largest entries of each matrix."""
    model = uneven(ising((4, 4), periodic=periodic))
    with torch.no_grad():
        model.J.mul_(strength)
        model.b.mul_(strength)
    brute = (-model.energy(model.space.enumerate().double())).logsumexp(0)
    found = transfer.log_z(model)
    assert_close(found, brute, **TINY)
    for slope, expected in zip(*(torch.autograd.grad(f, [model.J, model.b]) for f in (found, brute)), strict=True):
        assert_close(slope, expected, rtol=1e-9, atol=1e-9)


# METHODS of the project: log p = s.(sigma A) s + b sum s on the L x L torus, J = 2 sigma.
CONSTANTS = [(5, 0.1, 0.2, 19.674086), (5, 0.1, 0.0, 18.369204), (10, 0.1, 0.0, 73.453098), (10, 0.25, 0.0, 103.272975),
             (10, 0.1, 0.2, 78.688056)]  # fmt: skip


@pytest.mark.quick("5-*")
@pytest.mark.parametrize(("side", "sigma", "bias", "log_z"), CONSTANTS)
def test_known_partition_functions(side, sigma, bias, log_z):
    assert enumeration.log_z(ising((side, side), 2 * sigma, bias)).item() == pytest.approx(log_z, abs=1e-6)


@pytest.mark.quick("5-*")
@pytest.mark.parametrize(("side", "mean"), [(5, 0.482970), (10, 0.483722)])
def test_known_mean_spins(side, mean):
    """d log Z / db_i = E[s_i], differentiated through the transfer matrices."""
    model = ising((side, side), 0.2, 0.2)
    (slope,) = torch.autograd.grad(enumeration.log_z(model), model.b)
    assert slope.mean().item() == pytest.approx(mean, abs=1e-6)


def test_a_wide_lattice_is_refused():
    assert enumeration.refusal(ising((10, 30))) is None
    assert enumeration.refusal(ising((11, 12))) == (
        "log Z of a lattice of 132 sites is summed row by row, 4^11 terms each as its shorter side has 11 sites, and "
        "enumeration goes to 2^20 = 4^10"
    )


# Data and recovery


@pytest.mark.long
def test_samples_have_the_known_mean_spin():
    s = ising_samples.draw(5, 0.1, 0.2, 4000, 3, sweeps=100).double()
    assert_mean(s.flatten(1).mean(1), 0.482970)


def test_samples_are_made_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = component("dataset", "ising_samples", side=3, train=20, held_out=5)
    monkeypatch.setattr(ising_samples, "draw", lambda *a: normal((30, 3, 3), stream(0)).sign())
    data = spec.load((Spin,))
    monkeypatch.setattr(ising_samples, "draw", None)
    again = spec.load((Spin,))
    assert torch.equal(data.train.all(), again.train.all())
    assert data.train.all().unique().tolist() == [-1, 1]
    assert (len(data.train), len(data.valid), len(data.test)) == (20, 5, 5)
    assert spec.load((Binary,)).train.all().unique().tolist() == [0, 1]
    assert data.truth.couplings.sum().item() == pytest.approx(0.2 * 2 * 18)
    assert [path.name for path in Path(tmp_path).rglob("*.npz")] == ["3_0.1_0.0_20_5_0.npz"]


def test_recovery_is_measured_over_pairs():
    truth, found = torch.zeros(4, 4), torch.zeros(4, 4)
    truth[0, 1] = truth[1, 0] = 0.5
    for (a, b), value in zip(itertools.combinations(range(4), 2), (0.4, 0.1, 0.0, -0.6, 0.0, 0.0), strict=True):
        found[a, b] = found[b, a] = value
    values = compared(found, truth)
    error = math.sqrt((0.1**2 + 0.1**2 + 0.6**2) / 6)
    assert values["rmse"] == pytest.approx(error)
    assert values["log_rmse"] == pytest.approx(math.log(error))
    scores = np.abs([0.4, 0.1, 0.0, -0.6, 0.0, 0.0])
    assert values["auroc"] == pytest.approx(roc_auc_score([1, 0, 0, 0, 0, 0], scores))


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_a_run_recovers_couplings():
    """400 samples of nine spins: the error falls from 0.13, that of no couplings, to a third."""
    line = ("train dataset=ising_samples dataset.side=3 dataset.train=400 dataset.held_out=50 dataset.sigma=0.15 "
            "model=ising objective=pcd chains.steps=5 evaluation=[recover,exact] tracker=none steps=600 "
            "optimizer.lr=0.02 hydra.run.dir=run checkpoint.monitor=null eval_every=0")  # fmt: skip
    answer = ebm(*line.split())
    assert answer.code == 0, answer.err
    found = facts(Path("run"), "summary.json")
    assert found["recover/rmse"] < 0.07
    assert found["recover/auroc"] > 0.99
    assert ebm("sample", "run=run", "n=4", "steps=3").code == 0
    samples = np.load(next(Path("run/samples").glob("*/samples.npz")))["samples"]
    assert (samples.dtype, sorted(np.unique(samples))) == (np.int8, [-1, 1])


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_what_does_not_fit_is_refused():
    assert_refused(ebm("train", "model=exponential_family", "objective=pcd", "objective.coupling_l1=0.1"),
                   "objective.coupling_l1 = 0.1: this model has no couplings")  # fmt: skip
    assert_refused(ebm("train", "sampler=gibbs", "sampler.updates=3"), "add sampler.scan=random")
    assert_refused(
        ebm("train", "model=exponential_family", "evaluation=[recover]"),
        "evaluation=recover: this model has no couplings",
    )


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
