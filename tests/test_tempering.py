"""Temperatures that are found, the scheme of alternating swaps, round trips, and what `evaluation=tempering` says."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import FALSE_ALARM, component, shipped
from helpers.matrices import matrix_of
from helpers.models import double_states, exact_p, small_model, target
from helpers.statistics import assert_close, chi_square
from test_parallel_tempering import code, joint_states, swap_matrix, tempering

from ebm_cli.evaluation import round_trips, tempered, trajectory
from ebm_cli.evaluation.tempering import doubts, spare, too_few
from ebm_cli.model.scaled import Scaled
from ebm_cli.rng import stream
from ebm_cli.sampler import ladder
from ebm_cli.sampler.adaptation import adapted, adapts, recorded
from ebm_cli.sampler.base import transitions
from ebm_cli.space import Binary, Categorical, Spin


def two_wells(sites=24):
    """One hidden unit holds all sites together, at 0 or at 1, alike likely."""
    model = small_model("rbm", Binary((sites,)), hidden=1).float()
    with torch.no_grad():
        model.W.fill_(2.5)
        model.b.fill_(-1.25)
        model.c.fill_(-1.25 * sites)
    return model


def rejections(model, betas):
    """Of each pair by enumeration: 1 - E min(1, exp((beta' - beta) (E' - E))) under p_beta x p_beta'."""
    energy = model.energy(double_states(model)).detach()
    p = [torch.softmax(-beta * energy, 0) for beta in betas]
    found = []
    for low, high, p_low, p_high in zip(betas, betas[1:], p, p[1:], strict=False):
        ratio = ((high - low) * (energy[None] - energy[:, None])).exp().clamp_max(1)  # of x at low, x' at high
        found.append(1 - (p_low[:, None] * p_high[None] * ratio).sum().item())
    return found


# Where the temperatures are


def test_pairs_reject_alike_at_the_temperatures_that_are_found():
    """By exact rejections: equal after four rounds, left alone by a fifth, and their sum is that of any number."""
    model, sums = target("boltzmann-binary"), []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4
    for count in (6, 12, 24):
        betas = ladder.geometric(0.02, count)
        before = rejections(model, betas)
        for _ in range(4):
            betas = ladder.respaced(betas, rejections(model, betas), count)
        after = rejections(model, betas)
        assert max(after) - min(after) < 0.01 < max(before) - min(before)
        assert_close(torch.tensor(ladder.respaced(betas, after, count)), torch.tensor(betas), rtol=0.03, atol=0)
        assert betas[0] == 0.02
        assert betas[-1] == 1
        sums.append(sum(after))
    assert sums[2] > 0.5
    assert sums[1] == pytest.approx(sums[2], rel=0.03)


def test_a_ladder_of_equal_rejections_stays():
    betas = (0.1, 0.3, 0.4, 1.0)
    assert ladder.respaced(betas, [0.2] * 3, 4) == pytest.approx(betas)
    assert ladder.respaced(betas, [0.0] * 3, 4) == pytest.approx(betas)
    assert ladder.respaced((0.1, 0.55, 1.0), [0.4, 0.4], 5)[::2] == pytest.approx((0.1, 0.55, 1.0))
    assert ladder.nearest([0.4, 0.4], 4) == [0, 1, 1, 2]
    assert ladder.moved((1.0, 3.0), [0.7], 3) == pytest.approx((1.0, 2.0, 3.0))


def test_how_many_temperatures_are_wanted():
    assert [ladder.wanted(barrier) for barrier in (0.2, 1.0, 5.0)] == [2, 4, 12]
    assert ladder.wanted(1000) == ladder.MOST
    assert [sum(ladder.rounds(steps)) for steps in (1, 2, 7, 100, 777)] == [1, 2, 7, 100, 777]
    assert all(1.8 < b / a < 2.4 for a, b in zip(ladder.rounds(777), ladder.rounds(777)[1:], strict=False))


@pytest.mark.parametrize("swaps", ["together", pytest.param("alternate", marks=pytest.mark.long)])
def test_a_warm_up_finds_them(swaps):
    """Two wells: every pair within 0.05 of the others, replicas where they are at these temperatures."""
    model = two_wells()
    sampler = tempering(beta_min=0.05, ladder="adaptive", swaps=swaps)
    assert adapts(sampler)
    found, x = adapted(sampler, model, model.space.noise(100, stream(0, "noise")), 200, stream(0, "warm"))
    assert x.shape == (100, 10, 24)
    _, _, taken = found.followed(model, x, [stream(1).fold(i) for i in range(100)])
    refused = [1 - share.mean().item() for share in taken.values()]
    assert max(refused) - min(refused) < 0.05
    assert found.temperatures == len(found.ladder) == 10
    assert recorded(found) == {}, "their number was said"
    assert recorded(sampler) == {}
    assert not adapts(found)
    assert not adapts(tempering())


def test_as_many_as_it_takes():
    model = two_wells()
    sampler = tempering(beta_min=0.05, ladder="adaptive", temperatures="auto")
    assert sampler.replicas == 10
    found, x = adapted(sampler, model, model.space.noise(100, stream(0, "noise")), 200, stream(0, "warm"))
    _, _, taken = found.followed(model, x, [stream(1).fold(i) for i in range(50)])
    refused = [1 - share.mean().item() for share in taken.values()]
    assert found.replicas == x.shape[1] == pytest.approx(ladder.wanted(sum(refused)), abs=1)
    assert found.replicas < 10
    assert recorded(found) == {"temperatures": float(found.replicas)}


@pytest.mark.long
def test_each_temperature_has_its_step_size():
    """Of a normal law at beta the step that accepts as often is beta^-1/2 times as long."""
    model = target("exponential_family-real").float()
    kernel = shipped("sampler")["metropolis"] | {"adapt": 0.5, "step_size": 0.1}
    sampler = component("sampler", "parallel_tempering", kernel=kernel, temperatures=4, beta_min=0.05)
    found, x = adapted(sampler, model, model.space.noise(200, stream(0, "noise")), 400, stream(0, "warm"))
    _, said, _ = found.followed(model, x, [stream(1).fold(i) for i in range(100)])
    assert_close(said["acceptance"].mean(0), torch.full((4,), 0.5), rtol=0, atol=0.03)
    sizes = torch.tensor(found.step_sizes)
    assert (sizes[:-1] > 1.5 * sizes[1:]).all()
    assert found.ladder == pytest.approx(ladder.geometric(0.05, 4))


# The kernel


def matrix(sampler, model, betas, sizes):
    """A step with `alternate`: kernels, pairs 0-1 ..., kernels, pairs 1-2 ...; and prod_r p_r."""
    hot = [Scaled(model, torch.full((1,), beta).double()) for beta in betas]
    p = torch.stack([exact_p(one) for one in hot])
    kernels, law = torch.ones(1, 1).double(), torch.ones(1).double()
    for one, of_one, size in zip(hot, p, sizes, strict=True):
        kernels = torch.kron(kernels, matrix_of(dataclasses.replace(sampler.kernel, step_size=size), one))
        law = torch.kron(law, of_one)
    return kernels @ swap_matrix(p, (0, 1)) @ kernels @ swap_matrix(p, (1, 2)), law


@pytest.mark.long
def test_alternating_swaps_and_a_step_size_for_each_temperature_are_the_definition():
    model, betas, sizes, n = small_model("boltzmann", Binary((2,))), (0.2, 0.5, 1.0), (2.0, 0.7, 0.3), 4000
    kernel = shipped("sampler")["dmala"]
    sampler = component(
        "sampler",
        "parallel_tempering",
        kernel=kernel,
        temperatures=3,
        ladder=betas,
        swaps="alternate",
        step_sizes=sizes,
    )
    expected, law = matrix(sampler, model, betas, sizes)
    assert (law @ expected - law).abs().max() < 1e-12
    start = joint_states(4, 3).repeat_interleave(n, 0)
    end, info = transitions(sampler, model, double_states(model)[start], [stream(0, "alternate")])
    reached = torch.stack([model.space.code(end[:, r]) for r in range(3)], 1)
    count = torch.bincount(code(start, 4) * 64 + code(reached, 4), minlength=64**2).reshape(64, 64)
    assert chi_square(count, expected * n, cells_lost=64) > FALSE_ALARM
    assert list(info) == ["acceptance", "flips", "swap_1", "swap_2"]


# Round trips


def test_round_trips_of_a_trajectory_made_by_hand():
    """Three temperatures: the first replica goes up, waits and comes back; the others are not back yet."""
    step = {"even": [True, False], "odd": [False, True], "both": [True, True], "none": [False, False]}
    course = ["odd", "even", "none", "even", "odd"]  # at 1 it begins at 2, then 1, then 0, stays, 1, 2
    swaps = np.array([[step[name]] for name in course])
    assert round_trips.counted(swaps).made.tolist() == [1]
    assert round_trips.counted(swaps[:-1]).made.tolist() == [0]
    assert round_trips.counted(swaps).rounds == 10
    always = np.ones((6, 2, 1), bool)  # two temperatures that always swap: each replica is there and back in two
    assert round_trips.counted(always).made.tolist() == [5, 5]


def test_round_trips_are_those_of_each_replica_followed_alone():
    swaps = np.random.default_rng(0).random((300, 2, 4)) < 0.6
    made = [0, 0]
    for chain in range(2):
        for replica in range(5):
            at, last = replica, "cold" if replica == 4 else ""
            for taken in swaps[:, chain]:
                for first in (0, 1):
                    pair = next((p for p in range(first, 4, 2) if at in (p, p + 1)), None)
                    at = at if pair is None or not taken[pair] else (pair if at == pair + 1 else pair + 1)
                    last = "hot" if at == 0 and last == "cold" else last
                    made[chain] += at == 4 and last == "hot"
                    last = "cold" if at == 4 else last
    assert min(made) > 10
    assert round_trips.counted(swaps).made.tolist() == made


@pytest.mark.parametrize("refused", [[0.3], [0.5, 0.2], [0.4] * 6])
def test_the_best_rate_is_that_of_swaps_that_forget(refused):
    taken = np.random.default_rng(1).random((2000, 100, len(refused))) > np.array(refused)
    trips = round_trips.counted(taken)
    assert trips.made.mean() / trips.rounds == pytest.approx(round_trips.best_rate(np.array(refused)), rel=0.02)


def test_no_trips_where_a_pair_never_swaps():
    assert round_trips.best_rate(np.array([0.2, 1.0])) == 0


# The evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tempering") / "run"
    line = "train model=rbm model.hidden=4 steps=20 tracker=none device=cpu eval_every=0 evaluation=[]"
    assert ebm(line, f"hydra.run.dir={folder}").code == 0
    return folder


SHORT = ("evaluation.tempering.chains=6", "evaluation.tempering.warmup=60", "evaluation.tempering.steps=150")


@pytest.mark.long
def test_what_is_said_of_tempering(run, tmp_path):
    line = "evaluate evaluation=[tempering,exact] sampler=parallel_tempering sampler.ladder=adaptive device=cpu"
    answer = ebm(line, "sampler.temperatures=8", f"run={run}", f"out={tmp_path}/new", *SHORT)
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "new/results.json").read_text())
    lines = [line.split(",") for line in (tmp_path / "new/tempering.csv").read_text().splitlines()]
    assert lines[0] == ["beta", "step_size", "rejected"]
    assert [float(line[0]) for line in lines[1:]] == sorted(float(line[0]) for line in lines[1:])
    refused = [float(line[2]) for line in lines[1:-1]]
    assert len(refused) == 7
    assert lines[-1][:2] == ["1", ""]
    assert found["tempering/barrier"] == pytest.approx(sum(refused), abs=1e-4)
    assert found["tempering/rejection_max"] == pytest.approx(max(refused), abs=1e-4)
    assert found["tempering/temperatures"] == 8
    assert 0.5 < found["tempering/efficiency"] < 1.5
    assert f"{found['tempering/round_trips']:.3g} round trips in 1000 steps" in answer.out
    assert (tmp_path / "new/tempering.png").exists()
    assert "tempering works: neighbours swap, and replicas travel" in answer.out + answer.err
    width = found["tempering/log_z_high"] - found["tempering/log_z_low"]
    assert 0 < width < 1
    assert found["tempering/log_z"] == pytest.approx(found["exact/log_z"], abs=width)
    likely = found["exact/log_likelihood"] + found["exact/log_z"] - found["tempering/log_z"]
    assert found["tempering/log_likelihood"] == pytest.approx(likely, abs=1e-3)
    assert f"  log Z, tempering                {found['tempering/log_z']:.2f}, 95 % [" in answer.out


@pytest.mark.long
def test_too_few_temperatures_are_said_to_be_so(run):
    line = "evaluate evaluation=[tempering] sampler=parallel_tempering device=cpu sampler.temperatures=2"
    answer = ebm(line, "sampler.beta_min=0.001", f"run={run}", *SHORT)
    assert answer.code == 0, answer.err
    assert "2 temperatures are too few: neighbours 1 and 2 refuse" in answer.err
    assert "tempering works" not in answer.out + answer.err


def test_no_log_z_where_neighbours_have_little_in_common_or_replicas_lag():
    assert "beta = 0 and the hottest temperature" in tempered._doubt(torch.tensor([0.02, 0.5]), 0.0, 0.0)
    assert "temperatures 1 and 2 have little in common (overlap 0.01)" in tempered._doubt(
        torch.tensor([0.5, 0.01]), 0, 0
    )
    assert "lag behind their temperatures by 0.4 nats" in tempered._doubt(torch.tensor([0.5, 0.5]), 0.4, 0.1)
    assert tempered._doubt(torch.tensor([0.5, 0.5]), 0.4, 0.2) is None


def test_another_sampler_has_no_temperatures(run):
    answer = ebm("evaluate evaluation=[tempering] sampler=gibbs device=cpu", f"run={run}")
    assert_refused(answer, "of which sampler=gibbs has none; add sampler=parallel_tempering")


def test_sentences_on_the_ladder_and_the_kernel():
    half, few = np.full(9, 0.5), np.array([0.1, 0.93, 0.2])
    assert doubts(half, 0.9, 100) == []
    assert "4 temperatures are too few: neighbours 2 and 3 refuse 93 %" in doubts(few, 0.9, 100)[0]
    assert "replicas make 10 % of the round trips" in doubts(half, 0.1, 100)[0]
    assert doubts(half, 0.1, 39) == []
    assert too_few(40, 0, "rungs") == []
    (said,) = too_few(3.14, 1, "rungs")
    assert said.startswith(
        "too short to tell whether replicas travel: 1 round trips were made, and kernels that forget"
    )
    assert "would make 3.1 between these rungs, where it takes 40" in said
    assert doubts(half, None, 0) == []
    assert spare(half) == []
    assert "3 temperatures would do for this barrier, there are 10: sampler.temperatures=3" in spare(np.full(9, 0.1))[0]


@pytest.mark.quick("sampler.temperatures=auto*", "sampler.ladder=steep*")
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("sampler.temperatures=auto", "sampler.temperatures = auto: is for sampler.ladder=adaptive"),
        ("sampler.temperatures=1", "sampler.temperatures = 1: must be greater than or equal to 2 or 'auto'"),
        ("sampler.ladder=steep", "must be 'geometric' or 'adaptive' or a list"),
        ("sampler.ladder=[0.5,0]", "sampler.ladder.1 = 0: must be greater than 0"),
        ("sampler.ladder=[0.5,0.2,1]", "must be two or more inverse temperatures that rise, the last being 1"),
        ("sampler.ladder=[0.5,0.8]", "must be two or more inverse temperatures that rise, the last being 1"),
        ("sampler.step_sizes=[0.5,1]", "sampler.kernel has no step_size; set it to null"),
        ("sampler@sampler.kernel=dmala sampler.step_sizes=[0.5,1]", "there are 10 temperatures; give one for each"),
    ],
)
def test_ladders_that_are_none_are_refused(keys, words):
    assert_refused(ebm("train model=rbm sampler=parallel_tempering tracker=none", *keys.split()), words)


def test_a_list_says_how_many_temperatures_there_are():
    sampler = tempering(ladder=(0.1, 0.3, 1.0))
    assert sampler.refusal(Binary((4,))) is None
    assert sampler.replicas == 3
    assert sampler.betas(torch.zeros(1)).tolist() == pytest.approx([0.1, 0.3, 1.0])


@pytest.mark.long
def test_two_wells_are_travelled_between():
    """At least half of the round trips that such swaps allow, where Gibbs alone never leaves a well."""
    model = two_wells()
    sampler = tempering(beta_min=0.05, ladder="adaptive", swaps="alternate")
    found, x = adapted(sampler, model, torch.zeros(40, 24), 200, stream(0, "warm"))
    taken, wells = [], []
    for i in range(300):
        x, _, swaps = found.moved(model, x, stream(2).fold(i))
        taken.append(torch.stack([*swaps.values()], 1) > 0)
        wells.append(x[:, -1].mean(1) > 0.5)
    swaps = torch.stack(taken).numpy()
    trips, best = round_trips.counted(swaps), round_trips.best_rate(1 - swaps.mean((0, 1)))
    assert trips.made.mean() / trips.rounds > 0.5 * best
    assert torch.stack(wells).double().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("case", [("rbm", Binary((6,))), ("ising", Spin((2, 3))), ("potts", Categorical((3, 3)))])
def test_log_z_of_the_ladder_is_that_of_enumeration(case):
    """Within three standard errors, which are below a twentieth of a nat; also where the hidden units are scaled."""
    model = small_model(*case).float()
    kernel = "block_gibbs" if case[0] == "rbm" else "gibbs"
    sampler = tempering(kernel, temperatures=3, beta_min=0.3)
    x = sampler.spread(model.space.noise(40, stream(3)), model.space)
    looks = []
    for i in range(60):
        x, _, _ = sampler.moved(model, x, stream(1).fold(i))
        looks += [tempered.look(sampler, model, x, stream(2).fold(i))] * (i >= 10)
    ratios = tempered.ratios(looks)
    steps = trajectory.of_all(ratios.seen)
    error = trajectory.influence(ratios.seen, steps).square().sum().sqrt().item()
    exact = torch.logsumexp(-small_model(*case).energy(double_states(small_model(*case))), 0).item()
    assert error < 0.05
    assert ratios.log_z_0 + steps.sum().item() == pytest.approx(exact, abs=3 * error)
