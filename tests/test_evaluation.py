"""Evaluations against brute force and known answers (AIS has its own file)."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.components import component, shipped
from helpers.data import small_data
from helpers.libraries import uncompiled
from helpers.matrices import at, matrix_of
from helpers.models import DISCRETE, PAIRS, double_states, exact_p, example, names_of, small_model, target
from helpers.samplers import KNOWN, SAMPLERS, fits
from helpers.statistics import assert_close, known_log_p

from ebm_cli import registry
from ebm_cli.dataset.base import Data, Split
from ebm_cli.device.engine import INLINE
from ebm_cli.device.loops import Loops
from ebm_cli.evaluation import samples
from ebm_cli.evaluation.base import Subject, on_split
from ebm_cli.evaluation.bracket import bracket, contradictions
from ebm_cli.evaluation.chains import ChainDiagnostics, diagnose
from ebm_cli.evaluation.pseudo_likelihood import log_pseudo_likelihood
from ebm_cli.evaluation.samples import draw, nearest
from ebm_cli.model.base import Bipartite
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.block_gibbs import BlockGibbsState
from ebm_cli.space import Binary, Real
from ebm_cli.yardstick.mmd import mmd, resolution

EVALUATIONS = list(shipped("evaluation"))
SMALLER = {"chains": 20, "temperatures": 20, "raise_points": 10, "raise_chains": 2, "bootstrap": 100, "warmup": 20,
           "count": 16}  # fmt: skip
SMALLER_YET = {
    "bridge": {"rungs": 4, "steps": 3},
    "chains": {"steps": 100},
    "denoise": {"steps": 3},
    "gradient_bias": {"pairs": 20, "steps": [1, 3], "max_steps": 20},
    "entropy": {"steps": 2, "thetas": 4, "warmup": 2},
    "inpaint": {"steps": 3},
    "log_likelihood": {"most_temperatures": 40, "points": 8},
    "long_run": {"steps": 20, "frames": 4},
    "mixing": {"steps": 10, "points": 4, "reference_chains": 10, "reference_steps": 5},
    "mixing_real": {"steps": 10, "points": 4, "reference_chains": 10, "reference_steps": 5, "seconds": 1e6},
    "trajectory": {"rounds": 10},
    "tempering": {"warmup": 5, "steps": 5},
    "mixing_time": {"chains": 400, "max_steps": 2},
    **{key: {"steps": 20} for key in ("resample", "samples")},
}


def subject(model, sampler=None, data=None, store=None, split="test"):
    """A float32 model with small data and the first sampler that fits."""
    sampler = sampler or next(s for s in SAMPLERS.values() if fits(s, model))
    store = torch.empty(0, *model.space.shape) if store is None else store
    return Subject(model.float(), data or small_data(model.space), split, sampler, store, stream(0, "subject"))


def small(name):
    config = shipped("evaluation")[name]
    return component(
        "evaluation", name, **{k: v for k, v in (SMALLER | SMALLER_YET.get(name, {})).items() if k in config}
    )


def timeless(metrics):
    """Without those that a clock makes."""
    return {key: value for key, value in metrics.items() if "second" not in key}


# Every evaluation


def test_every_evaluation_has_a_file():
    assert {config["name"] for config in shipped("evaluation").values()} == set(registry.components("evaluation"))


USUAL = ("rbm-binary", "exponential_family-real", "convnet-boxed")
LIKE_CONVNET = ("resnet-boxed", "multiscale-boxed", "mlp-boxed", "flow-real")
WHOLE = (*USUAL, "ising-spin", "potts-categorical", "jem-boxed")  # one of every space, and one with labels


DRAWN = [model for model in PAIRS if any(fits(sampler, example(model)) for sampler in SAMPLERS.values())]


def is_told_apart(name, row, column, model):
    """Whether a model shows more of an evaluation: those that are alike share them out, each in its turn."""
    if model in LIKE_CONVNET:
        return name in ("samples", "long_run")
    return model in WHOLE or (row + column) % 12 == 0


MANY_DRAWS = ("samples", "resample", "long_run", "chains", "ood", "bridge")
QUICK_ON = dict.fromkeys(MANY_DRAWS, ("rbm-binary",)) | {"mixing": ()}  # where it takes tenths of a second at most
EVERY = [
    (name, model) if model in QUICK_ON.get(name, USUAL) else pytest.param(name, model, marks=pytest.mark.long)
    for row, model in enumerate(PAIRS)
    for column, name in enumerate(EVALUATIONS)
    if model in DRAWN and is_told_apart(name, row, column, model)
]


@pytest.mark.parametrize(("name", "model_name"), EVERY)
def test_numbers_are_finite_named_and_a_function_of_the_key(name, model_name):
    """It changes neither model, chains nor data, reads no global generator, and its pictures are pictures."""
    evaluation, model = small(name), target(model_name)
    about = subject(model, store=model.space.noise(7, stream(0, "store")))
    of_objective = evaluation.refusal_of_objective(component("objective", "pcd"))
    if of_objective or evaluation.refusal(model, about.sampler) or evaluation.refusal_of_data(about.data):
        return
    kept = [t.clone() for t in (*about.model.state_dict().values(), about.store, about.data.train.stored)]
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # noqa: TID251
        before = torch.get_rng_state()
        found.append(evaluation.evaluate(about))
        assert torch.equal(before, torch.get_rng_state())
    assert timeless(found[0].metrics) == timeless(found[1].metrics)
    assert all(isinstance(value, float) and math.isfinite(value) for value in found[0].metrics.values())
    assert all("/" in key for key in found[0].metrics)
    assert all(image.dtype == np.uint8 and image.ndim in (2, 3) for image in found[0].images.values())
    after = (*about.model.state_dict().values(), about.store, about.data.train.stored)
    assert all(map(torch.equal, kept, after))
    assert all(p.grad is None for p in about.model.parameters())


def test_keys_say_the_split_unless_it_is_the_test_split():
    metrics = {"ais/log_z": 1.0, "raise/log_likelihood": 2.0}
    assert on_split(metrics, "test") == metrics
    assert on_split(metrics, "valid") == {"ais/valid/log_z": 1.0, "raise/valid/log_likelihood": 2.0}


def test_a_subject_has_the_rows_of_its_split():
    about = subject(target("rbm-binary"))
    assert len(about.held_out) == 40
    assert len(dataclasses.replace(about, split="valid").held_out) == 20
    none = dataclasses.replace(about.data, valid=None)
    with pytest.raises(AssertionError, match="no valid split"):
        assert dataclasses.replace(about, data=none, split="valid").held_out


# Exact


@pytest.mark.parametrize("model_name", KNOWN)
def test_exact_is_the_brute_force_likelihood(model_name):
    """Summed in float64 from the float32 parameters: 1e-12 would hold, were they not rounded once."""
    about = subject(target(model_name))
    metrics = component("evaluation", "exact").evaluate(about).metrics
    model, x = about.model.double(), about.data.test.all().double()
    if model_name in DISCRETE:
        log_p = exact_p(model).log()[model.space.code(x)]
        bits = -log_p.mean().item() / math.log(2) / model.space.sites
        assert metrics["exact/bits_per_dimension"] == pytest.approx(bits, rel=1e-12)
        log_z = (-model.energy(double_states(model))).logsumexp(0).item()
    else:
        log_p = known_log_p(model, x)
        assert "exact/bits_per_dimension" not in metrics
        log_z = (-model.energy(x) - log_p).mean().item()
    assert metrics["exact/log_likelihood"] == pytest.approx(log_p.mean().item(), rel=1e-12)
    assert metrics["exact/log_z"] == pytest.approx(log_z, rel=1e-12)
    assert metrics["exact/standard_error"] == pytest.approx(log_p.std().item() / 40**0.5, rel=1e-12)


def test_exact_refuses_or_skips_a_large_model():
    model = component("model", "boltzmann").build(Binary((30,)), torch.full((30,), 0.5), stream(0))
    refuse, skip = component("evaluation", "exact"), component("evaluation", "exact_if_possible")
    sampler = subject(model).sampler
    assert refuse.refusal(model, sampler) == skip.refusal(model, sampler) == "30 sites, enumeration goes to 20"
    assert refuse.required
    assert not skip.required


# Pseudo-likelihood


@pytest.mark.parametrize("model_name", DISCRETE)
def test_pseudo_likelihood_is_the_sum_of_enumerated_conditionals(model_name):
    """p(x_i | rest) = p(x) / sum over the values of site i."""
    model = target(model_name)
    p, rows, space = exact_p(model), [0, 3, 3, 9, 14], model.space
    terms = [
        (p[x] / sum(p[at(space, x, {site: value})] for value in range(space.values))).log()
        for x in rows
        for site in range(space.sites)
    ]
    expected = sum(terms) / len(rows)
    found = log_pseudo_likelihood(model, double_states(model)[rows]).mean().item()
    assert found == pytest.approx(expected.item(), rel=1e-12)


def test_pseudo_likelihood_uses_all_rows_or_some():
    model = target("rbm-binary")
    about = subject(model)
    key = "pseudo_likelihood/log_pseudo_likelihood"
    all_rows = log_pseudo_likelihood(about.model, about.data.test.all()).mean().item()
    found = {
        n: component("evaluation", "pseudo_likelihood", points=n).evaluate(about).metrics[key] for n in (1, 10, 99)
    }
    assert found[99] == pytest.approx(all_rows, rel=1e-6)
    each = log_pseudo_likelihood(about.model, about.data.test.all()).tolist()
    assert min(abs(found[1] - value) for value in each) < 1e-6


def test_pseudo_likelihood_has_its_error_and_the_number_of_rows():
    model = target("rbm-binary")
    about = subject(model)
    each = log_pseudo_likelihood(about.model, about.data.test.all()).detach()
    found = component("evaluation", "pseudo_likelihood").evaluate(about)
    assert found.metrics["pseudo_likelihood/rows"] == len(each)
    error = np.std(each.numpy(), ddof=1) / len(each) ** 0.5
    assert found.metrics["pseudo_likelihood/standard_error"] == pytest.approx(error, rel=1e-6)
    by_row = found.by_row["pseudo_likelihood/log_pseudo_likelihood"]
    assert_close(by_row.sort().values, each.sort().values, rtol=1e-5, atol=1e-6)


def test_networks_get_fewer_rows_since_each_conditional_takes_energies_of_them():
    for name, rows in (("rbm-binary", 1000), ("resnet_binary-binary", 200)):
        model = target(name)
        about = subject(model, data=small_data(model.space, 1500))
        found = component("evaluation", "pseudo_likelihood").evaluate(about).metrics
        assert found["pseudo_likelihood/rows"] == rows


def test_pseudo_likelihood_is_not_for_real_data():
    evaluation = component("evaluation", "pseudo_likelihood")
    model = target("exponential_family-real")
    assert evaluation.refusal(model, subject(model).sampler) == "conditionals of real sites are not known"
    assert not evaluation.required


# Diagnostics of chains


def test_independent_draws_are_diagnosed_as_such():
    """2 x 20 000 normal draws: R-hat is 1 within 1e-3, the effective size within 5 % of the number of draws."""
    found = diagnose(np.random.default_rng(0).standard_normal((2, 20, 1000)))
    assert found["chains/r_hat"] == pytest.approx(1, abs=5e-3)
    assert found["chains/autocorrelation_time"] == pytest.approx(1, rel=0.1)
    assert found["chains/ess_bulk"] == pytest.approx(20_000, rel=0.1)
    assert found["chains/ess_tail"] == pytest.approx(20_000, rel=0.15)


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_autocorrelation_time_of_an_autoregression(rho):
    """x_t = rho x_{t-1} + noise has (1 + rho) / (1 - rho) steps per independent draw: 3 and 19."""
    rng = np.random.default_rng(1)
    x = np.zeros((40, 5000))
    x[:, 0] = rng.standard_normal(40) / (1 - rho**2) ** 0.5
    for t in range(1, 5000):
        x[:, t] = rho * x[:, t - 1] + rng.standard_normal(40)
    found = diagnose(x[None])
    assert found["chains/autocorrelation_time"] == pytest.approx((1 + rho) / (1 - rho), rel=0.1)
    assert found["chains/r_hat"] < 1.02


def test_the_worst_quantity_is_reported():
    rng = np.random.default_rng(2)
    good, apart = rng.standard_normal((2, 4, 1000))
    both = diagnose(np.stack([good, apart + np.arange(4)[:, None] * 3]))
    alone = diagnose((apart + np.arange(4)[:, None] * 3)[None])
    assert both == alone
    assert both["chains/r_hat"] > 1.5


def test_chains_that_never_leave_their_place_are_not_called_mixed():
    """Each constant at its own value: no within-chain variance at all."""
    found = diagnose(np.tile(np.arange(8.0)[:, None], (1, 100))[None])
    assert not found["chains/r_hat"] < 1.1
    slow = np.arange(8.0)[:, None] + 1e-3 * np.random.default_rng(3).standard_normal((8, 100))
    assert diagnose(slow[None])["chains/r_hat"] > 1.5


def test_a_sampler_that_does_not_mix_is_flagged():
    """Two wells: chains from data stay in one, chains from noise fall into both."""
    model = small_model("boltzmann", Binary((4,)))
    with torch.no_grad():
        model.W.fill_(4.0)
        model.b.fill_(-6.0)  # energy 0 at all-0 and at all-1, a barrier of 8 between them
    ones = torch.ones(10, 4).byte()
    split = Split(model.space, ones, 1.0, stochastic=False, labels=None)
    about = subject(model, SAMPLERS["gibbs"], Data(model.space, split, None, split))
    evaluation = component("evaluation", "chains", chains=16, warmup=50, steps=800)
    result = evaluation.evaluate(about)
    assert result.metrics["chains/r_hat"] > 1.1
    assert "do not mix in 850 steps" in result.warnings[0]


def test_a_sampler_that_mixes_is_not_flagged():
    """Block Gibbs on a mild target; the distance moved is that of the exact flow between states."""
    about = subject(target("rbm-binary"), SAMPLERS["block_gibbs"])
    result = component("evaluation", "chains", chains=32, warmup=50, steps=400).evaluate(about)
    assert result.warnings == ()
    assert result.metrics["chains/r_hat"] < 1.02
    model = target("rbm-binary")
    states = double_states(model).flatten(1)
    distance = torch.cdist(states, states)
    jump = (exact_p(model)[:, None] * matrix_of(SAMPLERS["block_gibbs"], model) * distance).sum().item()
    assert result.metrics["chains/jump_distance"] == pytest.approx(jump, rel=0.05)


@pytest.mark.long
def test_chains_by_libraries_are_those_of_the_operations(monkeypatch):
    """Draws are those of compiled code; one library for warm-up and the rest, another for each sampler's settings."""
    made, model = uncompiled(monkeypatch), target("ising-spin")
    for flips in (1, 2):
        about = subject(model, component("sampler", "gwg", flips=flips))
        loops = Loops(10**6, lambda: None)
        found, expected = (
            component("evaluation", "chains", chains=6, warmup=5, steps=30).evaluate(
                replace(about, device=replace(about.device, loops=engine))
            )
            for engine in (loops, INLINE)
        )
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-5)
        assert found.metrics["chains/acceptance"] < 1
        assert found.files == expected.files
        assert len(made.calls) == 35 * flips
    assert len(set(made.identities)) == 2
    about = subject(target("gaussian_rbm-real"), component("sampler", "hmc", adapt=0.65))
    component("evaluation", "chains", chains=6, warmup=50, steps=30).evaluate(
        replace(about, device=replace(about.device, loops=loops))
    )
    assert len(made.identities) == 2, "its step size would be part of a library"


def test_acceptance_is_reported():
    """Of independent units by single flips: the mean over sites of 2 min(p, 1 - p), exactly at equilibrium."""
    model = target("exponential_family-binary")
    about = subject(model, component("sampler", "metropolis"))
    result = component("evaluation", "chains", chains=64, warmup=100, steps=500).evaluate(about)
    p = model.b.sigmoid()
    expected = (2 * torch.minimum(p, 1 - p)).mean().item()
    assert result.metrics["chains/acceptance"] == pytest.approx(expected, rel=0.05)


def test_half_the_chains_start_at_data_and_half_at_noise():
    model = target("exponential_family-real")
    data = small_data(model.space)
    far = dataclasses.replace(data.test, stored=data.test.stored + 1000)
    evaluation = component("evaluation", "chains", chains=5)
    x = evaluation._start(subject(model, data=dataclasses.replace(data, test=far)))
    assert (x.flatten(1)[:, 0] > 900).tolist() == [True, True, False, False, False]


# Samples


def held(rows):
    """Rows of real numbers as a split."""
    return Split(Real(tuple(rows.shape[1:])), rows, 1.0, stochastic=False, labels=None)


def test_nearest_is_the_brute_force_nearest():
    """Real rows, at blocks of the default size and with the best row anywhere."""
    x, train = normal((20, 1, 3), stream(0, "x")), normal((257, 1, 3), stream(0, "train"))
    distance, found = nearest(x, held(train))
    table = (x.flatten(1)[:, None] - train.flatten(1)[None]).norm(dim=2)
    assert_close(distance, table.min(1).values, rtol=1e-3, atol=1e-3)
    assert torch.equal(found, train[table.argmin(1)])


def test_nearest_over_several_blocks(monkeypatch):
    x, train = normal((20, 3), stream(0, "x")), normal((257, 3), stream(0, "train"))
    whole = nearest(x, held(train))
    monkeypatch.setattr(samples, "_ROWS_AT_ONCE", 20)
    assert torch.equal(nearest(x, held(train))[1], whole[1])
    assert_close(nearest(x, held(train))[0], whole[0])


def test_binary_distance_is_the_root_of_the_number_of_differing_sites():
    x = torch.tensor([[0.0, 0, 0, 0], [1, 1, 1, 1]])
    train = torch.tensor([[0.0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]])
    distance, found = nearest(x, held(train))
    assert distance.tolist() == pytest.approx([2**0.5, 0])
    assert torch.equal(found, train[:2])


class Still(Sampler):
    """A kernel that stays."""

    compiles = False

    def init(self, model, x):
        return BlockGibbsState(x)

    def step(self, model, state, key):
        return state, {}


@pytest.mark.quick("rbm-binary", "exponential_family*", "flow*")
@pytest.mark.parametrize("model_name", PAIRS)
def test_samples_that_are_training_rows_are_called_copies(model_name):
    model = target(model_name)
    rows = small_data(model.space).train.all()
    evaluation = component("evaluation", "samples", count=10, steps=1)
    result = evaluation.evaluate(subject(model, Still(), store=rows[:10]))
    assert result.metrics["samples/copies"] == 1
    # Of real rows a distance of 0 is the root of a rounding error of 1e-7.
    assert result.metrics["samples/nearest_distance"] == pytest.approx(0, abs=2e-3)
    assert result.metrics["samples/held_out_nearest_distance"] == pytest.approx(0, abs=2e-3)
    distinct = len(rows[:10].flatten(1).unique(dim=0)) / 10
    assert result.metrics["samples/distinct"] == pytest.approx(distinct)
    plane_or_image = model.space.is_image or model.space.shape == (2,)
    assert set(result.images) == ({"samples", "neighbours"} if plane_or_image else {"statistics"})


def test_the_discrepancy_of_samples_is_that_of_their_bits_from_held_out_rows():
    model = target("ising-spin")
    about = subject(model, Still())
    store = normal((10, *model.space.shape), stream(0, "store")).sign()
    evaluation = component("evaluation", "samples", count=10, steps=1, discrepancy=len(about.held_out))
    found = evaluation.evaluate(dataclasses.replace(about, store=store)).metrics
    rows = model.space.bits(about.held_out.all())
    assert found["samples/mmd"] == pytest.approx(mmd(model.space.bits(store), rows), abs=1e-12)
    assert found["samples/mmd_standard_error"] == pytest.approx(resolution(rows, 10), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("potts-categorical", {"count": 10, "discrepancy": 10}, "evaluation.samples.discrepancy = 10: measures bits"),
        ("exponential_family-real", {"count": 1, "discrepancy": 10}, "needs at least 2 rows and samples, not 1"),
    ],
)
def test_a_discrepancy_that_cannot_be_measured_is_refused(name, keys, said):
    assert said in component("evaluation", "samples", **keys).refusal(target(name), Still())


def test_samples_elsewhere_are_no_copies():
    model = target("exponential_family-real")
    result = component("evaluation", "samples", count=10, steps=1).evaluate(
        subject(model, Still(), store=torch.full((10, 1, 2), 50.0))
    )
    assert result.metrics["samples/copies"] == 0
    assert result.metrics["samples/distinct"] == pytest.approx(0.1)
    assert result.metrics["samples/nearest_distance"] > 60


def test_drawing_goes_on_from_the_chains_and_fills_up_with_noise():
    model = target("exponential_family-real")
    store = torch.full((4, 1, 2), 50.0)
    about = subject(model, Still(), store=store)
    x, _ = draw(about, 6, 3, "chains")
    assert torch.equal(x[:4], store)
    assert x[4:].abs().max() < 10
    assert torch.equal(draw(about, 3, 3, "chains")[0], store[:3])
    assert draw(about, 6, 3, "noise")[0].abs().max() < 10
    assert draw(dataclasses.replace(about, store=torch.empty(0, 1, 2)), 6, 3, "chains")[0].abs().max() < 10


@pytest.mark.parametrize("model_name", names_of(Bipartite))
def test_drawing_is_the_sampler_at_work(model_name):
    """The mean energy of many draws is that of the model."""
    model = target(model_name)
    x, _ = draw(subject(model), 4000, 50, "noise")
    p, energy = exact_p(model), model.double().energy(double_states(model))
    mean = (p * energy).sum().item()
    spread = ((p * energy.square()).sum().item() - mean**2) ** 0.5
    assert model.energy(x.double()).mean().item() == pytest.approx(mean, abs=5 * spread / 4000**0.5)


def test_chains_that_never_move_are_said_not_diagnosed(monkeypatch):
    """A sampler that stands still: no R-hat is made up, and the evaluation does not fail."""
    still = (np.ones((3, 8, 20)) * np.arange(3)[:, None, None], {}, 0.0, torch.zeros(8, 4))
    monkeypatch.setattr(ChainDiagnostics, "_record", lambda *_: still)
    result = small("chains").evaluate(subject(target("rbm-binary")))
    assert dict(result.metrics) == {"chains/jump_distance": 0.0}
    assert result.warnings == ("no chain ever moves, so there is nothing to diagnose",)


@pytest.mark.parametrize(
    ("gap", "text"),
    [
        (0.3, "[-10.30, -10.00] nats"),
        (0.01, "both -10.00 nats, within 0.05"),
        (-2.0, "none: RAISE lies 2 nats above AIS"),
    ],
)
def test_the_bracket_in_words(gap, text):
    values = {"ais/log_likelihood": -10.0, "raise/log_likelihood": -10.0 - gap, "ais/gap": gap}
    assert bracket(values) == text


def test_estimates_that_the_exact_value_refutes_are_called_wrong():
    """AIS and RAISE may agree and miss the same mode."""
    assert contradictions({"ais/log_likelihood": -25.0}) == []
    assert contradictions({"ais/log_likelihood": -25.0, "exact/log_likelihood": -25.4}) == []
    (sentence,) = contradictions({"ais/log_likelihood": -25.0, "exact/log_likelihood": -39.0})
    assert "off the exact log-likelihood by 14 nats" in sentence


def test_the_chains_of_a_run_were_once_its_buffer():
    """Runs that are there, and command lines, may name them so."""
    starts = ["noise", "data", "buffer"]
    assert component("evaluation", "long_run", starts=starts).starts == ("noise", "data", "chains")
