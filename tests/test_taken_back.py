"""Updates of `chains=trajectory` that are taken back, and the reservoir of its newest rung."""

from pathlib import Path

import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, outcome, train, trained
from helpers.components import component
from helpers.models import small_model
from test_resume import Killed, at_step, die
from test_rungs import SPACE, law, parts_of, share, state_of

from ebm_cli.errors import RunError, UserError
from ebm_cli.log_z import enumeration
from ebm_cli.rng import stream
from ebm_cli.training import taken_back
from ebm_cli.training.rungs import Ladder
from ebm_cli.training.taken_back import Tally
from ebm_cli.training.walkers import forgetting, walked

N = 8000
LINE = (
    "chains=trajectory chains.acceptance=0.8 chains.least=0.4 chains.reservoir=2 chains.refill=6 chains.count=50 "
    "optimizer.lr=3 steps=30 save_every=0 log_every=1 evaluation=[samples] running=none"
)


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def moved(new, least, old=1, **keys):
    """A ladder whose model went from one to another in a step, with equilibrium chains of the first; and its state."""
    first, second = (small_model("rbm", SPACE, seed).float() for seed in (old, new))
    state = state_of(first, N)
    state.optimizer = {"momentum.W": torch.ones_like(first.W)}
    ladder = Ladder(parts_of(least=least, **{"acceptance": 0.9, "rungs": 9, **keys}), state)
    ladder.ready()
    first.load_state_dict(second.state_dict())
    state.store.copy_(state.store.flip(0))  # an update moves the chains too
    return ladder, state, small_model("rbm", SPACE, old).float()


def with_rung(seed=3, **keys):
    """The same beside one rung with equilibrium chains."""
    ladder, state, old = moved(2, **keys)
    rung = small_model("rbm", SPACE, seed).float()
    ladder.models = [rung]
    state.rungs |= {"0.chains": enumeration.sample(rung, N, stream(5)), **_named(rung)}
    return ladder, state, old


def _named(rung):
    return {f"0.{name}": value.clone() for name, value in rung.state_dict().items()}


def effective(old, new):
    """The exact effective share of draws of a model weighed for another."""
    w = law(new) / law(old)
    return 1 / (law(old) * w.square()).sum().item()


def exchanges(one, other):
    gain = law(one).log() - law(other).log()
    return (law(one)[:, None] * law(other) * (gain - gain[:, None]).clamp_max(0).exp()).sum().item()


def test_the_share_of_exchanges_is_that_of_the_model_as_it_is():
    """Chains of the model before are weighed for the one after; by enumeration."""
    ladder, state, _ = with_rung(least=0.01, acceptance=0.5)
    exact = exchanges(ladder.models[0], state.model)
    assert abs(exact - exchanges(ladder.models[0], small_model("rbm", SPACE, 1).float())) > 0.05
    ladder.follow()
    assert ladder.found["rungs/acceptance"] == pytest.approx(exact, abs=0.03)


def test_an_update_that_chains_cannot_follow_is_taken_back():
    """All that it changed is as it was, but for the optimizer, which remembers nothing; the rate is half."""
    exact = effective(small_model("rbm", SPACE, 1).float(), small_model("rbm", SPACE, 2).float())
    ladder, state, _ = moved(2, least=exact - 0.1)
    assert not ladder.follow()
    ladder, state, old = moved(2, least=exact + 0.1, acceptance=0.99)
    chains = state.store.flip(0).clone()
    assert ladder.follow()
    assert all(torch.equal(value, state.model.state_dict()[name]) for name, value in old.state_dict().items())
    assert torch.equal(state.store, chains)
    assert not state.optimizer["momentum.W"].any()
    assert taken_back.tally(state) == Tally(1, 1, 1, 0)
    assert (ladder.found["rungs/taken_back"], ladder.found["rungs/rate"]) == (1, 0.5)


def test_few_exchanges_are_a_new_rung_or_a_step_too_far():
    """Between least and acceptance the model becomes a rung, unless the step before made one; below it is refused."""
    for fresh, least, back in ((0, 0.05, False), (1, 0.05, True), (0, 0.85, True)):
        ladder, state, _ = with_rung(least=least, acceptance=0.97)
        taken_back.keep(state, Tally(2, 5, 7, fresh))
        share = exchanges(ladder.models[0], state.model)
        assert 0.06 < share < 0.84
        assert ladder.follow()  # the rate is another in any case
        assert len(ladder.models) == (1 if back else 2)
        assert taken_back.tally(state) == (Tally(3, 6, 8, fresh) if back else Tally(1, 0, 7, 1))


def test_thirty_in_a_row_end_the_run():
    ladder, state, _ = moved(2, least=0.98, acceptance=0.99)
    taken_back.keep(state, Tally(29, 29, 40, 0))
    with pytest.raises(RunError, match=r"30 updates in a row were taken back.*chains\.least=0"):
        ladder.follow()


def test_the_rate_is_halved_so_often():
    parts = parts_of()
    optimizer = component("optimizer", "sgd", lr=0.8, final_lr=0.4)
    parts = taken_back.replace(parts, components=taken_back.replace(parts.components, optimizer=optimizer))
    state = state_of(small_model("rbm", SPACE, 1).float(), 10)
    assert taken_back.halved(parts, state) is parts
    taken_back.keep(state, Tally(halved=3))
    lower = taken_back.halved(parts, state).components.optimizer
    assert (lower.lr, lower.final_lr) == (0.1, 0.05)


def test_a_reservoir_holds_draws_of_the_newest_rung_and_exchanges_keep_both_laws():
    ladder, state, _ = moved(1, least=0.0, acceptance=0.999, reservoir=3, refill=10)
    ladder.follow()
    assert len(ladder.models) == 1
    rung, second = ladder.models[0], small_model("rbm", SPACE, 2).float()
    assert len(state.rungs["reservoir"]) == 3 * N
    state.model.load_state_dict(second.state_dict())
    state.store.copy_(enumeration.sample(second, N, stream(6)))
    kept, state.step = state.rungs["reservoir"].clone(), 2
    assert ladder._exchange() == pytest.approx(exchanges(rung, second), abs=0.03)
    assert not torch.equal(state.rungs["reservoir"], kept)
    for model, x in ((second, state.store), (rung, state.rungs["reservoir"])):
        p = law(model)
        assert (share(x) - p).abs().max() < 5 * (p * (1 - p) / N).sqrt().max()
    before, after = torch.cat([state.store, state.rungs["reservoir"]]), len(ladder.models)
    ladder._exchange()
    assert torch.equal(before.sum(0), torch.cat([state.store, state.rungs["reservoir"]]).sum(0))
    assert after == 1


def test_replicas_forget_in_the_time_of_their_walk():
    """Two rungs that exchange with p = 0.1: rho_t = 0.8^t, so that 1/2 + sum rho = 4.5 rounds; never, the most."""
    generator = torch.Generator().manual_seed(0)
    taken = [*(torch.rand(6000, 1, 50, generator=generator) < 0.1)]
    assert forgetting(taken) == 5
    assert forgetting([torch.zeros(3, 4, dtype=torch.bool)] * 40) > 10
    pairs = torch.tensor([[[True], [False]], [[False], [True]], [[True], [False]]])
    assert walked(pairs)[:, 0].tolist() == [[1, 0, 2], [2, 0, 1], [2, 1, 0]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tally": torch.tensor([1, 2])}, "tally is not 4 numbers"),
        ({"tally": torch.tensor([1, 2, -1, 0])}, "tally is not 4 numbers"),
        ({"reservoir": torch.zeros(5, 2, 2)}, "reservoir is not in the binary space"),
        ({"reservoir": torch.full((30, 2, 2), 0.5)}, "reservoir is not in the binary space"),
    ],
)
def test_a_checkpoint_with_what_cannot_be_is_refused(change, said):
    state = state_of(small_model("rbm", SPACE, 1).float(), 10)
    state.rungs = change
    with pytest.raises(UserError, match=said):
        Ladder(parts_of(), state)


@pytest.mark.usefixtures("_elsewhere")
def test_what_would_be_a_rung_is_not_taken_back():
    answer = train("chains=trajectory chains.least=0.5 steps=2")
    assert_refused(answer, "chains.least = 0.5: must be below chains.acceptance = 0.5")


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_killed_and_resumed_it_takes_back_the_same(monkeypatch):
    whole = trained(LINE, "whole")
    assert facts(whole, "summary.json")["rungs/taken_back"] > 2
    with monkeypatch.context() as patch:
        at_step(patch, 20, die)
        with pytest.raises(Killed):
            train(f"{LINE} save_every=3", "parts")
    assert ebm("train resume=parts").code == 0
    assert outcome(Path("parts"))["state.safetensors"] == outcome(whole)["state.safetensors"]
    assert outcome(Path("parts"))["metrics"] == outcome(whole)["metrics"]
