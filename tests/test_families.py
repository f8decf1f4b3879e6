"""Exponential families on part of the real line: densities, draws and fits, each against its definition."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, last_step
from helpers.components import FALSE_ALARM, component
from helpers.data import small_data
from helpers.models import small_model
from helpers.statistics import assert_close, chi_square
from safetensors.torch import load_file
from scipy import integrate, special
from torch import distributions as known

from ebm_cli.evaluation.base import Subject, refusal
from ebm_cli.evaluation.samples import draw
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import stream
from ebm_cli.space import Real


class Case(NamedTuple):
    """Parameters of a family on two sites (of Dirichlet units three), the law they stand for, and points beyond it."""

    parameters: dict[str, list[float]]
    law: known.Distribution
    beyond: list[float]


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


A, B = [0.3, 20.0], [2.5, 0.7]
CASES = {
    "exponential": Case({"r": B}, known.Exponential(doubles(*B)), [-1e-6, 1.0]),
    "gamma": Case({"s": A, "r": B}, known.Gamma(doubles(*A), doubles(*B)), [0.0, 1.0]),
    "poisson": Case({"t": A}, known.Poisson(doubles(*A)), [0.5, 1.0]),
    "beta": Case({"s": A, "r": B}, known.Beta(doubles(*A), doubles(*B)), [1.0, 0.5]),
    "dirichlet": Case({"s": [0.3, 20.0, 2.5]}, known.Dirichlet(doubles(0.3, 20.0, 2.5)), [0.3, 0.6, 0.2]),
}  # every parameter is the logarithm of what is written here
families = pytest.mark.parametrize("family", CASES)


def build(family, parameters):
    sites = len(next(iter(parameters.values())))
    model = component("model", "exponential_family", family=family)
    model = model.build(Real((sites,)), torch.full((sites,), 1 / sites), stream(0)).double()
    with torch.no_grad():
        for name, values in parameters.items():
            model.get_parameter(name).copy_(doubles(*values).log())
    return model


@families
def test_the_density_is_the_known_one_and_0_beyond(family):
    case, model = CASES[family], build(family, CASES[family].parameters)
    x = torch.stack([model.sample(1, stream(i, "x"))[0] for i in range(9)])
    expected = case.law.log_prob(x)
    expected = expected if family == "dirichlet" else expected.sum(1)
    assert_close((-model.energy(x) - model.log_z()).detach(), expected, rtol=1e-9, atol=1e-9)
    beyond = torch.cat([doubles(*case.beyond)[None], x[:2]])
    energy, grad = model.energy_and_grad(beyond)
    assert energy.isfinite().tolist() == [False, True, True]
    assert energy[0] == torch.inf
    assert grad.isfinite().all()


@pytest.mark.parametrize("family", ["exponential", "gamma", "beta", "dirichlet", "poisson"])
def test_log_z_is_the_integral_or_the_sum(family):
    """Of one unit; of Dirichlet ones over the first of two shares."""
    parameters = {"s": [1.7, 2.6]} if family == "dirichlet" else {name: [1.7] for name in CASES[family].parameters}
    model = build(family, parameters)

    def p(x):
        return math.exp(-model.energy(doubles(x, 1 - x) if family == "dirichlet" else doubles(x)).item())

    model.energy = lambda x, energy=model.energy: energy(x[None])
    if family == "poisson":
        total = sum(p(float(x)) for x in range(40))
    else:
        total, _ = integrate.quad(p, 0, 1 if family in ("beta", "dirichlet") else 60, epsabs=1e-13, epsrel=1e-12)
    assert model.log_z().item() == pytest.approx(math.log(total), rel=1e-9)


@families
def test_the_closed_gradient_is_that_of_the_energy(family):
    model = build(family, CASES[family].parameters)
    x, weight = model.sample(5, stream(0, "x")), doubles(0.7, -1.3, 0.0, 2.0, -0.4)
    found = model.energy_vjp(x)[1](weight)
    expected = EnergyModel.energy_vjp(model, x)[1](weight)
    assert list(found) == list(expected)
    for name in found:
        assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


def cumulative(family, x, site):
    """P(X_site <= x), by the special functions of scipy."""
    if family == "dirichlet":
        shapes = CASES[family].parameters["s"]
        return special.betainc(shapes[site], sum(shapes) - shapes[site], x)
    a, b = A[site], B[site]
    return {
        "exponential": lambda: -np.expm1(-b * x),
        "gamma": lambda: special.gammainc(a, b * x),
        "beta": lambda: special.betainc(a, b, x),
    }[family]()


@families
def test_draws_have_their_law(family):
    """Kolmogorov and Smirnov: sqrt(n) sup |F_n - F| is above 2.69 with probability 1e-6. Of counts, chi-square."""
    model, n = build(family, CASES[family].parameters), 20_000
    x = model.sample(n, stream(0, "draws")).numpy()
    for site in range(x.shape[1]):
        values = np.sort(x[:, site])
        if family == "poisson":
            rate, counts = A[site], np.arange(60)
            p = np.exp(counts * math.log(rate) - rate - special.gammaln(counts + 1))
            assert chi_square(np.bincount(values.astype(int), minlength=60), n * p) > FALSE_ALARM
            continue
        gap = np.abs(cumulative(family, values, site) - (np.arange(n) + 0.5) / n).max()
        assert gap * n**0.5 < 2.69
    assert abs(np.corrcoef(x[:, :2].T)[0, 1]) < (1 if family == "dirichlet" else 5 / n**0.5)


@families
def test_draws_are_those_of_their_row_and_key(family):
    """In float32 they stay on the support, where shapes are small too."""
    small = {name: [0.05] * len(values) for name, values in CASES[family].parameters.items()}
    model, before = build(family, small).float(), torch.get_rng_state()
    x = model.sample(300, stream(0, "draws"))
    assert x.dtype == torch.float32
    assert torch.equal(before, torch.get_rng_state())
    assert model.support.holds(x).all()
    assert torch.equal(model.sample(20, stream(0, "draws")), x[:20])
    assert not torch.equal(model.sample(300, stream(1, "draws")), x)


@pytest.mark.parametrize(
    ("family", "moments"),
    [
        ("exponential", (1, 0.7)),
        ("poisson", (3.2, 0.1)),
        ("gamma", (0.7, 2.0)),
        ("beta", (0.2, 0.9)),
        ("dirichlet", (0.2, 0.8)),
    ],
)
def test_it_starts_at_the_data_mean(family, moments):
    """Which is the maximum of the likelihood of a family with one parameter."""
    spec, mean = component("model", "exponential_family", family=family), torch.tensor(moments)
    model = spec.build(Real((2,)), mean, stream(0)).double()
    a, b = (getattr(model, name, doubles(0.0, 0.0)).exp().detach() for name in ("s", "r"))
    found = {
        "exponential": lambda: 1 / b,
        "poisson": lambda: model.t.exp().detach(),
        "gamma": lambda: a / b,
        "beta": lambda: a / (a + b),
        "dirichlet": lambda: a / a.sum(),
    }[family]()
    assert_close(found, mean.double(), rtol=1e-6)


# From the command line


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fitted(line):
    return ebm(
        f"train model=exponential_family sampler=metropolis dataset=array dataset.path=data.npz {line} evaluation=[] "
        "tracker=none checkpoint.monitor=null device=cpu hydra.run.dir=run eval_every=0 save_every=0"
    )


@pytest.mark.long
def test_gamma_units_reach_the_maximum_of_the_likelihood():
    """There log a - psi(a) = log mean(x) - mean(log x) and rate = a / mean(x)."""
    x = np.random.default_rng(0).gamma([0.6, 5.0], [3.0, 0.2], (200, 2)).astype(np.float32)
    np.savez("data.npz", train=x, valid=x[:1], test=x[:1])
    answer = fitted("model.family=gamma batch_size=200 steps=400 optimizer=adam optimizer.lr=0.1 log_every=400")
    assert answer.code == 0, answer.err
    found = load_file(last_step(Path("run")) / "state.safetensors")
    mean, wanted = x.mean(0, dtype=float), np.log(x.mean(0, dtype=float)) - np.log(x).mean(0, dtype=float)
    a = found["model.s"].double().exp().numpy()
    assert np.log(a) - special.digamma(a) == pytest.approx(wanted, rel=2e-3)
    assert a / found["model.r"].double().exp().numpy() == pytest.approx(mean, rel=2e-3)


def test_grey_numbers_are_not_taken_as_bits_and_rows_beyond_the_support_are_refused():
    x = np.full((10, 2), 0.25, np.float32)
    x[7] = [0.5, 1.0]
    np.savez("data.npz", train=x[::-1], test=x, valid=x[:1])
    assert_refused(fitted("model.family=beta"), "model.family = beta", "0 < x < 1", "1 rows of the train", "number 2")
    np.savez("data.npz", train=x[:5], test=x[:1], valid=x[:1])
    assert fitted("model.family=beta steps=1 batch_size=5").code == 0


def test_samples_of_a_family_are_exact_and_its_chains_are_refused():
    """Noise of the whole line never comes to the support of a gamma law."""
    model = small_model("exponential_family", Real((1, 2)), family="gamma").float()
    sampler = component("sampler", "metropolis")
    about = Subject(model, small_data(model.space), "test", sampler, torch.empty(0, 1, 2), stream(0, "subject"))
    x, _ = draw(about, 50, 5, "noise")
    assert torch.equal(x, model.sample(50, about.key.fold("exact")))
    assert model.support.holds(x).all()
    for name in ("ais", "chains", "bridge", "mixing"):
        assert "support of this family" in refusal(component("evaluation", name), model, sampler)
    assert refusal(component("evaluation", "exact"), model, sampler) is None
