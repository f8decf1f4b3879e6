"""Temperatures that are moved while a run trains, by how often its own steps refuse swaps."""

import copy
import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers.cli import ebm, facts, trained
from helpers.components import shipped
from helpers.statistics import assert_close
from helpers.training import small_run
from test_tempering import rejections

from ebm_cli.commands.trained import Wanted, open_trained
from ebm_cli.errors import UserError
from ebm_cli.sampler import ladder
from ebm_cli.signals import StopRequest
from ebm_cli.training import retuning
from ebm_cli.training.follower import Follower
from ebm_cli.training.looks import Looks
from ebm_cli.training.loop import fit
from ebm_cli.training.schedule import Schedule
from ebm_cli.training.step import Report, Values

NEVER = Schedule(log_every=10**6, eval_every=0, save_every=0, keep_last=1, log_spaced=0, monitor=None)
COUNT = 4


def tempered(kernel="gibbs", rows=300, **keys):
    """Parts and state of a run whose weights stay, of two modes, all 0 and all 1, that Gibbs does not leave."""
    adaptive = {"ladder": "adaptive", "temperatures": COUNT, "beta_min": 0.02, "retune": 50}
    parts, state = small_run(
        model=shipped("model")["boltzmann"],
        sampler=shipped("sampler")["parallel_tempering"] | {"kernel": shipped("sampler")[kernel]} | adaptive | keys,
        chains=shipped("chains")["persistent"] | {"count": rows},
        optimizer=shipped("optimizer")["sgd"] | {"lr": 1e-30},
    )
    with torch.no_grad():
        state.model.W.fill_(5.0)
        state.model.b.fill_(-7.5)
    return replace(parts, loop=replace(parts.loop, batch_size=rows)), state


def trained_until(step, parts, state):
    """The exact rejections between its temperatures after so many steps, and these."""
    fit(replace(parts, loop=replace(parts.loop, steps=step)), state, Follower(NEVER), StopRequest())
    betas = retuning.ended(state)
    return torch.tensor(rejections(copy.deepcopy(state.model).double(), betas)), torch.tensor(betas)


def spread(rejected):
    return (rejected.max() - rejected.min()).item()


@pytest.mark.long
def test_training_moves_temperatures_until_pairs_reject_alike():
    """By exact rejections of a model that stays: to a seventh of the spread, and moved once more they stay."""
    parts, state = tempered(rows=400, retune=25)
    before = torch.tensor(rejections(copy.deepcopy(state.model).double(), ladder.geometric(0.02, COUNT)))
    after, betas = trained_until(75, parts, state)
    again, later = trained_until(100, parts, state)
    assert spread(before) > 0.3
    assert spread(after) < 0.05
    assert spread(again) < 0.05
    assert_close(later, betas, rtol=0.1, atol=0)
    assert after.sum().item() == pytest.approx(before.sum().item(), rel=0.05)
    assert betas[[0, -1]].tolist() == pytest.approx([0.02, 1])


def report(step, swaps):
    """What a step says whose chains took these shares of swaps."""
    names = ("loss", "chains_acceptance", *(f"chains_swap_{r}" for r in range(1, COUNT)), "gradient_norm")
    return Report(step, 0.1, Values(names, torch.tensor([3.0, 0.7, *swaps, 0.5]), (), torch.zeros(0)))


def stepped(parts, state, *taken):
    """Whether the ladder was another after each of these steps."""
    found = []
    for swaps in taken:
        state.step += 1
        found.append(retuning.follow(parts, state, report(state.step, swaps)))
    return found


def test_they_are_moved_by_what_all_steps_since_refused():
    """By Lambda^-1 of the mean rejections; step sizes go along, and the next time it begins from there."""
    sizes, n = (4.0, 3.0, 2.0, 1.0), 10
    parts, state = tempered("dmala", n, retune=2, step_sizes=sizes)
    assert stepped(parts, state, (0.9, 0.5, 0.5), (0.7, 0.25, 0.5)) == [False, True]
    rejected = [(total * n + 1) / (2 * n + 1) for total in (0.4, 1.25, 1.0)]
    betas = ladder.respaced(ladder.geometric(0.02, COUNT), rejected, COUNT)
    assert retuning.ended(state) == pytest.approx(betas)
    now = retuning.tuned(parts, state).components.sampler
    assert now.ladder == tuple(retuning.ended(state))
    assert now.step_sizes == pytest.approx(ladder.moved(sizes, rejected, COUNT))
    assert now.replicas == COUNT
    assert sorted(state.tempering) == ["betas", "step_sizes"], "what was counted is counted anew"
    assert stepped(parts, state, (1.0, 1.0, 0.0), (1.0, 1.0, 0.0)) == [False, True]
    rejected = [1 / 21, 1 / 21, 1.0]
    assert retuning.ended(state) == pytest.approx(ladder.respaced(betas, rejected, COUNT))
    later = retuning.tuned(parts, state).components.sampler.step_sizes
    assert later == pytest.approx(ladder.moved(now.step_sizes, rejected, COUNT))
    assert retuning.said(state).endswith(f"{retuning.ended(state)[2]:.4g},1]")


def test_looks_at_the_chains_move_them_by_the_temperatures_of_now():
    parts, state = tempered()
    state.tempering = {"betas": torch.tensor([0.02, 0.1, 0.5, 1.0], dtype=torch.float64)}
    assert Looks(parts=parts).seen(state).moving.sampler.ladder == (0.02, 0.1, 0.5, 1.0)


def test_one_refused_swap_among_few_does_not_draw_all_temperatures_to_it():
    refused = torch.tensor([0.0, 0.1, 0.0], dtype=torch.float64)
    assert retuning.rejections(refused, torch.tensor(1.0), 10) == pytest.approx([1 / 11, 2 / 11, 1 / 11])


def test_without_the_key_nothing_is_kept_or_moved():
    parts, state = tempered(retune=0)
    assert stepped(parts, state, (0.5, 0.5, 0.5)) == [False]
    assert state.tempering == retuning.found(parts, state) == {}
    assert retuning.tuned(parts, state) is parts
    assert retuning.said(state) is None


@pytest.mark.parametrize(
    "keys",
    [{"temperatures": 5}, {"beta_min": 0.1}, {"ladder": "geometric"}, {"retune": 0}],
    ids=lambda keys: next(iter(keys)),
)
def test_another_sampler_than_that_of_training_has_its_own_temperatures(keys):
    parts, state = tempered(retune=1)
    assert stepped(parts, state, (0.9, 0.5, 0.5)) == [True]
    sampler = replace(parts.components.sampler, **keys)
    other = replace(parts, components=replace(parts.components, sampler=sampler))
    assert retuning.tuned(other, state) is other
    assert retuning.tuned(parts, state).components.sampler.ladder == tuple(retuning.ended(state))


def test_temperatures_of_a_checkpoint_that_do_not_rise_are_refused():
    parts, state = tempered()
    state.tempering = {"betas": torch.tensor([0.02, 0.5, 0.4, 1.0], dtype=torch.float64)}
    with pytest.raises(UserError, match="the temperatures of the checkpoint do not rise to 1"):
        retuning.tuned(parts, state)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"ladder": "geometric"}, "moves the temperatures of sampler.ladder=adaptive; add that, or leave it out"),
        ({"temperatures": "auto"}, "keeps the number of temperatures, so name it, e.g. sampler.temperatures=10"),
        ({"temperatures": 2}, "none lies between the two of sampler.temperatures = 2; take more, or leave it out"),
        (
            {"objective": "pseudo_likelihood"},
            "objective=likelihood moves no chains while it trains; leave it out",
        ),
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_what_cannot_be_moved_is_refused(keys, words):
    objective = shipped("objective")[keys.pop("objective", "pcd")]
    sampler = shipped("sampler")["parallel_tempering"] | {"ladder": "adaptive", "retune": 5} | keys
    with pytest.raises(UserError, match=f"^sampler.retune = 5: {words}$"):
        small_run(sampler=sampler, objective=objective)


@pytest.mark.long
def test_the_temperatures_of_now_are_recorded_and_used_afterwards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trained(
        "sampler=parallel_tempering sampler.ladder=adaptive sampler.retune=5 "
        "sampler.temperatures=3 sampler.beta_min=0.5"
    )
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    middle = [line["ladder/beta_2"] for line in logged if "ladder/beta_2" in line]
    assert [later != before for before, later in pairwise(middle)] == [step in (5, 10) for step in range(2, 13)]
    assert facts(run, "summary.json")["ladder"] == pytest.approx([0.5, middle[-1], 1])
    wanted = Wanted(run, "last", shipped("device")["cpu"], plugins=[])
    assert open_trained(wanted, with_data=False).parts.components.sampler.ladder == (0.5, middle[-1], 1)
    assert ebm(f"sample run={run} n=3 steps=4 device=cpu").code == 0
