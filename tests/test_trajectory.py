"""log Z along the checkpoints of a run, and the replicas on them that exchange their configurations."""

from pathlib import Path

import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, trained
from helpers.components import component
from helpers.data import small_data
from helpers.models import small_model
from helpers.samplers import SAMPLERS

from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.trajectory import Seen, influence, lag, of_all
from ebm_cli.log_z import enumeration
from ebm_cli.model.exponential_family import product
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.rungs import Rungs, Size, chosen
from ebm_cli.space import Binary

SPACE = Binary((2, 2))
LINE = (
    "model.hidden=4 steps=120 save_every=0 checkpoint.log_spaced=12 optimizer.lr=0.3 chains.steps=2 "
    "checkpoint.monitor=null evaluation=[samples]"
)


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ladder(steps=1):
    """Independent units and two machines of four visible units, the second unlike the first."""
    base = product(SPACE, torch.tensor([0.3, 0.5, 0.6, 0.8]))
    models = [small_model("rbm", SPACE, seed).float() for seed in (1, 2)]
    return Rungs(base, models, SAMPLERS["block_gibbs"], steps)


def share(x):
    """How often each of 16 states is there."""
    place = (x.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    return torch.bincount(place, minlength=16) / len(x)


def law(model):
    """p of the 16 states, in the same order."""
    states = torch.tensor([[int(bit) for bit in f"{i:04b}"] for i in range(16)]).float().reshape(16, 2, 2)
    return (-model.energy(states).double()).softmax(0)


def exchanges(one, other):
    """The exact share of exchanges between draws of two models."""
    gain = law(one).log() - law(other).log()
    return (law(one)[:, None] * law(other) * (gain - gain[:, None]).clamp_max(0).exp()).sum().item()


@pytest.mark.parametrize("number", [0, 1])
def test_a_round_leaves_each_rung_its_law(number):
    """From exact draws of every rung; chains of one round are independent, so shares have binomial errors."""
    rungs, n = ladder(), 40_000
    every = [rungs.base, *rungs.models]
    x = [enumeration.sample(model, n, stream(1, k)) for k, model in enumerate(every)]
    after, look = rungs.round(x, number, stream(2, number))
    for model, here in zip(every, after, strict=True):
        p = law(model)
        assert (share(here) - p).abs().max() < 5 * (p * (1 - p) / n).sqrt().max()
    assert look.tried.tolist() == [number == 0, number == 1]
    assert not look.taken[1 - number].any()
    assert look.taken[number].double().mean().item() == pytest.approx(exchanges(*every[number : number + 2]), abs=0.015)


def scaled(scale):
    """The machine of a ladder, with all its parameters times a number."""
    model = small_model("rbm", SPACE, 1).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def test_rungs_are_as_few_as_exchange_often_enough():
    """Each is as far from the one before as it may be; the last is always there."""
    base = product(SPACE, torch.full((4,), 0.5))
    models = [scaled(scale) for scale in torch.linspace(0.05, 6, 10).tolist()]
    size, key = Size(4000, 20, 0.5), stream(3)
    kept = chosen(base, models, SAMPLERS["block_gibbs"], size, key)
    assert kept[-1] == 9
    assert 1 < len(kept) < 10
    assert chosen(base, models[-1:], SAMPLERS["block_gibbs"], size, key) == [0]
    every = [base, *(models[number] for number in kept)]
    for before, here, number in zip(every[:-1], every[1:], kept, strict=True):
        assert exchanges(before, here) > 0.45
        assert number == 9 or exchanges(before, models[number + 1]) < 0.55


def evaluated(models, seed, **keys):
    """What is found of the last of them, the others being checkpoints."""
    evaluation = component("evaluation", "trajectory", **{"chains": 300, "rounds": 12, "warmup": 5, **keys})
    passed = dict(enumerate(models[:-1], 1))
    sampler, store = SAMPLERS["block_gibbs"], torch.empty(0, 2, 2)
    about = Subject(models[-1], small_data(SPACE), "test", sampler, store, stream(seed, "t"), passed=lambda: passed)
    return evaluation.evaluate(about)


def test_log_z_is_exact_within_its_error():
    """Of the last rung, by enumeration: the deviations are as large as the standard errors say."""
    models = [small_model("rbm", SPACE, seed).float() for seed in (1, 2, 3)]
    exact = enumeration.log_z(models[-1]).item()
    found = [evaluated(models, seed, acceptance=0.9).metrics for seed in range(6)]
    assert found[0]["trajectory/rungs"] == 3
    off = torch.tensor([each["trajectory/log_z"] - exact for each in found])
    error = torch.tensor([each["trajectory/log_z_high"] - each["trajectory/log_z"] for each in found]) / 1.96
    assert off.abs().max() < 0.3
    assert 0.4 < (off / error).abs().mean() < 1.3  # sqrt(2 / pi) = 0.8 of a normal law
    assert all(abs(each["trajectory/lag"]) < 0.1 for each in found)


def test_chains_that_keep_to_their_modes_are_noticed():
    """Two modes whose weights change by exp(6) from a rung to the next, with half of the chains in each of both.

    u is then the same on both sides. At equilibrium, where u of a normal law has mean -+ s^2/2, there is no lag.
    """
    noise = [normal((1, 20, 200), stream(7, i), torch.device("cpu")).double() for i in range(2)]
    still = torch.tensor([3.0, -3.0]).double().repeat(100).expand(1, 20, 200)
    seen = Seen(still + 0.01 * noise[0], still + 0.01 * noise[1], torch.ones(1))
    behind, error = lag(seen, of_all(seen))
    assert behind == pytest.approx(3 * (2 * torch.tensor(3.0).sigmoid().item() - 1), abs=0.05)
    assert behind > 3 * error
    well = Seen(2 * noise[0] - 2, 2 * noise[1] + 2, torch.ones(1))
    behind, error = lag(well, of_all(well))
    assert abs(behind) < 3 * error
    moved = influence(well, of_all(well))
    assert of_all(well).item() == pytest.approx(0, abs=4 * moved.square().sum().sqrt().item())
    twice = Seen(well.up.expand(2, -1, -1), well.down.expand(2, -1, -1), torch.ones(2))
    assert torch.allclose(influence(twice, of_all(twice)), 2 * moved)


def test_what_lies_too_far_apart_has_no_figures():
    """Few checkpoints, of which the sentence names the two."""
    models = [scaled(0), scaled(0)]
    with torch.no_grad():
        for model, bias in zip(models, (-30.0, 30.0), strict=True):
            model.b.fill_(bias)
    found = evaluated(models, 0)
    assert "trajectory/log_z" not in found.metrics
    (said,) = (sentence for sentence in found.warnings if "little in common" in sentence)
    assert said.startswith("the checkpoint of step 1 and the model itself have little in common")
    assert said.endswith("checkpoint.log_spaced=50, which keeps checkpoints all along; no other figures are given")


def test_one_jump_that_replicas_hardly_make_is_said():
    """Its figure may be right, for chains of such a model need no exchanges."""
    (said,) = evaluated([scaled(3)], 0, acceptance=0.9).warnings
    assert said.startswith("replicas seldom pass between independent units and the model itself, by 8")
    assert "evaluation.trajectory.acceptance = 0.9" in said
    assert evaluated([scaled(3)], 0, acceptance=0.1).warnings == ()


@pytest.mark.usefixtures("_elsewhere")
def test_the_checkpoints_of_a_run_are_its_rungs():
    run = trained(LINE)
    keys = "evaluation.trajectory.acceptance=0.99 evaluation.trajectory.warmup=10 evaluation.trajectory.rounds=30"
    answer = ebm(f"evaluate run={run} evaluation=[trajectory,exact] device=cpu out=new {keys}")
    assert answer.code == 0, answer.err
    found = facts(Path("new"), "results.json")
    assert found["trajectory/log_z"] == pytest.approx(found["exact/log_z"], abs=0.1)
    assert found["trajectory/log_z_low"] - 0.05 < found["exact/log_z"] < found["trajectory/log_z_high"] + 0.05
    assert 1 < found["trajectory/rungs"] <= 13
    assert found["trajectory/acceptance"] > 0.5
    assert "log-likelihood (test), trajectory" in answer.out


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_a_run_that_keeps_few_checkpoints_says_so_as_it_begins():
    few = "evaluation=trajectory goes along the checkpoints, of which only the last 3 will be left"
    keys = "model.hidden=4 steps=30 save_every=2 evaluation=[trajectory] evaluation.trajectory.rounds=4"
    assert few in trained_saying(keys)
    assert few not in trained_saying(f"{keys} checkpoint.log_spaced=20")


def trained_saying(keys):
    """What a run says on its way."""
    answer = ebm(f"train {keys} evaluation.trajectory.warmup=0 device=cpu tracker=none dataset=bars_and_stripes")
    assert answer.code == 0, answer.err
    return answer.err + answer.out


@pytest.mark.usefixtures("_elsewhere")
def test_samplers_that_only_approximate_the_model_are_refused():
    run = trained("model=gaussian_rbm sampler=langevin steps=2")
    assert_refused(ebm(f"evaluate run={run} evaluation=[trajectory] device=cpu"), "sampler=langevin does not leave")
