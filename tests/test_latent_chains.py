"""Chains of codes that mix and chains that do not, by R-hat and by the classes of what they decode to."""

import dataclasses

import pytest
import torch
from helpers.components import component
from helpers.data import small_data

from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.table import Numbers
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.emission import TruncatedEmission
from ebm_cli.model.latent_ebm import LatentEBM
from ebm_cli.rng import bernoulli, stream
from ebm_cli.space import Box, Real

SPACE, CODES = Box((4, 4)), Real((1,))
SMALL = {"chains": 40, "warmup": 20, "steps": 200, "projections": 2, "apart": 100}


class Wells(EnergyModel):
    """Half and half of normal laws of variance 1 around a and -a: E(z) = z^2 / 2 - log cosh(a z)."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.space, self.a = CODES, torch.nn.Parameter(torch.tensor(a))

    def energy(self, x):
        far = (self.a * x).abs()
        return (0.5 * x.square() - far - torch.log1p((-2 * far).exp())).sum(1)


def halves():
    """The left half of an image bright where z > 0, the right half otherwise; a code is the difference of the two."""
    bright = torch.ones(4, 4)
    bright[:, 2:] = -1
    encoder, decoder = torch.nn.Linear(16, 2), torch.nn.Linear(1, 16)
    with torch.no_grad():
        encoder.weight.copy_(torch.stack([0.3 * bright.flatten(), torch.zeros(16)]))
        encoder.bias.copy_(torch.tensor([0.0, -1.0]))
        decoder.weight.copy_(2 * bright.flatten()[:, None])
        decoder.bias.zero_()
    return encoder, decoder


def model(a):
    encoder, decoder = halves()
    emission = TruncatedEmission(SPACE, 0.05, by_code=False)
    with torch.no_grad():
        emission.r.fill_(-3.0)
    return LatentEBM(SPACE, encoder, decoder, emission, Wells(a), torch.full((16,), 0.5))


def labelled(own):
    """Rows of the two classes."""
    side = bernoulli(torch.zeros(60), stream(0, "side"))
    with torch.no_grad():
        x = own.generate((4 * side - 2)[:, None], stream(0, "rows"))
    split = Split(SPACE, x, 1.0, stochastic=False, labels=side.long())
    return Data(SPACE, split, None, split)


def found(own, data, step_size=0.5, moves=1, **changes):
    kernel = component("sampler", "mala", step_size=step_size)
    sampler = dataclasses.replace(component("sampler", "latent"), kernel=kernel, moves=moves)
    of = Subject(own, data, "test", sampler, torch.empty(0, 4, 4), stream(0, "evaluation"))
    return component("evaluation", "latent_chains", **SMALL | changes).evaluate(of)


@pytest.mark.long
def test_chains_that_mix_have_an_r_hat_near_one_and_come_to_each_class():
    """Over a barrier of one and a half nats: another class every second time."""
    own = model(2.0)
    result = found(own, labelled(own), moves=10, steps=200, apart=100)
    metrics = {name.removeprefix("latent_chains/"): value for name, value in result.metrics.items()}
    assert metrics["r_hat"] < 1.05
    assert metrics["r_hat_decoded"] < 1.05
    assert metrics["class_changed"] == pytest.approx(0.5, abs=0.25)
    assert metrics["recognised"] > 0.7
    assert metrics["recognised_of_data"] == metrics["classifier_accuracy"] == 1
    assert metrics["largest_class"] + metrics["rarest_class"] == pytest.approx(1)
    assert not result.warnings
    assert result.images["latent_chains"].ndim in (2, 3)
    said = component("evaluation", "latent_chains").lines(Numbers(result.metrics), "test")
    assert [*said] == ["chains of codes", "  decoded"]


@pytest.mark.long
def test_chains_that_stay_in_their_wells_are_told():
    own = model(8.0)
    result = found(own, labelled(own))
    assert result.metrics["latent_chains/r_hat"] > 1.5
    assert result.metrics["latent_chains/r_hat_decoded"] > 1.5
    assert result.metrics["latent_chains/class_changed"] == 0
    assert result.warnings[0].startswith("chains of codes from data and from twice the normal law disagree")


def test_rows_without_labels_have_no_classes():
    own = model(1.0)
    metrics = found(own, small_data(SPACE)).metrics
    assert "latent_chains/r_hat" in metrics
    assert not any("class" in name or "recognised" in name for name in metrics)


@pytest.mark.long
def test_a_step_of_several_moves_is_recorded_once():
    """R-hat of as many steps, each of which goes further: more effective draws."""
    own, data = model(1.0), small_data(SPACE)
    one, ten = (found(own, data, 0.1, moves, steps=100).metrics["latent_chains/ess_bulk"] for moves in (1, 10))
    assert ten > 3 * one
    of = Subject(own, data, "test", component("sampler", "latent", moves=3), torch.empty(0, 4, 4), stream(0))
    with torch.no_grad():
        course = component("evaluation", "latent_chains", **SMALL)._followed(of, own)
    assert course.codes.shape == (40, 201, 1)
    assert course.energy.shape == (40, 201)


def test_chains_that_do_not_move_are_not_diagnosed():
    own = model(1.0)
    with torch.no_grad():
        own.prior.a.fill_(float("nan"))
    result = found(own, small_data(SPACE))
    assert "latent_chains/r_hat" not in result.metrics
    assert result.warnings


def test_chains_begin_at_data_and_wide():
    """Half as codes of rows are spread, half twice as wide as the normal law."""
    own, data = model(1.0), small_data(SPACE)
    of = Subject(own, data, "test", component("sampler", "latent"), torch.empty(0, 4, 4), stream(0, "evaluation"))
    evaluation = component("evaluation", "latent_chains", chains=400, warmup=0, steps=4)
    with torch.no_grad():
        codes, spread = evaluation._followed(of, own).codes[:, 0, 0], own.recognise(data.test.all())
    assert codes[200:].std() == pytest.approx(2.0, rel=0.2)
    expected = (spread.mean.var() + (2 * spread.log_deviation).exp().mean()).sqrt().item()
    assert codes[:200].std() == pytest.approx(expected, rel=0.2)
