"""Earlier models of a run that stay as they were, with chains that exchange with those of training."""

import copy
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.chains import AlongTrajectory
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.model.exponential_family import product
from ebm_cli.rng import Key, stream
from ebm_cli.sampler.rungs import Look, Rungs, resampled
from ebm_cli.space import Space
from ebm_cli.terminal import log
from ebm_cli.training import taken_back
from ebm_cli.training.state import Parts, TrainState, take_over
from ebm_cli.training.walkers import forgetting
from ebm_cli.training.weighted import share as effective

_CHAINS, _RESERVOIR = "chains", "reservoir"
_BEFORE, _LONGEST = 10, 2000  # autocorrelation times before any chain is kept, and rounds at most


class Ladder:
    """The rungs of one run, whose parameters and chains `TrainState.rungs` holds; none without `chains=trajectory`.

    Raises UserError if what a checkpoint holds does not fit the run.
    """

    def __init__(self, parts: Parts, state: TrainState) -> None:
        self.parts, self.state = parts, state
        self.found: dict[str, float] = {}
        self.models: list[EnergyModel] = []
        self._before: dict[str, Tensor] = {}
        if self._policy is None:
            state.rungs = {}
            return
        try:
            self.models = [_model(state, rung) for rung in _in_order(state.rungs)]
            taken_back.tally(state)
            _check_reservoir(state)
        except ValueError as error:
            raise UserError(f"the rungs of the checkpoint do not fit this run: {error}; start a new run") from error

    @torch.no_grad()
    def ready(self) -> None:
        """Before a step: keep what may have to come back."""
        if self._policy is not None and self._policy.least:
            self._before = taken_back.snapshot(self.state)

    @torch.no_grad()
    def follow(self) -> bool:
        """Exchanges after the step that was taken, and a new rung where it is needed; whether the rate is another.

        Raises RunError if too many steps had to be taken back.
        """
        policy, before = self._policy, taken_back.tally(self.state)
        if policy is None:
            return False
        share = self._judged(policy)
        if share is None:
            taken_back.restore(self.state, self._before)
        else:
            looked = self._exchange() if policy.reservoir else self._round(policy)
            self._extend(policy, share if policy.least or policy.reservoir else looked)
        now = taken_back.tally(self.state)
        if policy.least:
            self.found |= taken_back.found(self.state)
        return now.halved != before.halved

    def _judged(self, policy: AlongTrajectory) -> float | None:
        """The share of exchanges of the model as it is now with the newest rung; None: the step is to be taken back."""
        if not (policy.least or policy.reservoir):
            return 1.0
        state, key = self.state, stream(self.parts.loop.seed, "judged", self.state.step)
        log_w = torch.zeros(len(state.store), dtype=torch.float64, device=state.store.device)
        if policy.least:
            old = _as_it_was(state.model, self._before)
            log_w = (old.energy(state.store) - state.model.energy(state.store)).double()
        share = self._acceptance(log_w, key)
        self.found = {"rungs/count": float(len(self.models)), "rungs/acceptance": share}
        if not policy.least or len(self.models) == policy.rungs:
            return share
        fresh = taken_back.tally(state).fresh
        lowest = policy.acceptance if fresh else policy.least
        holds = bool(effective(log_w) >= policy.least) and (share >= lowest or not self.models)
        return share if holds else None

    def _acceptance(self, log_w: Tensor, key: Key) -> float:
        """Of exchanges between draws of the newest rung and chains that have these weights for the model of now."""
        below, y = self._newest(key.fold("base"))
        x = self.state.store[resampled(log_w, key.fold("resample"))]
        y = y[rng.permutation(len(y), key.fold("order"))[: len(x)].to(y.device)]
        down, up = ((below.energy(at) - self.state.model.energy(at)).double() for at in (x, y))
        return (up - down).clamp_max(0).exp().mean().item()

    def _newest(self, key: Key) -> tuple[EnergyModel, Tensor]:
        """The newest rung, and draws of it: the reservoir, or its chains; of independent units new ones."""
        if not self.models:
            return self._base, self._base.sample(len(self.state.store), key)
        there = self.state.rungs.get(_RESERVOIR)
        return self.models[-1], self.state.rungs[f"{len(self.models) - 1}.{_CHAINS}"] if there is None else there

    def _exchange(self) -> float:
        """Each chain with a draw of the reservoir, of which no two have the same."""
        state, key = self.state, stream(self.parts.loop.seed, "exchange", self.state.step)
        below, y = self._newest(key.fold("base"))
        chosen = rng.permutation(len(y), key.fold("order"))[: len(state.store)].to(y.device)
        x, other = state.store, y[chosen]
        log_ratio = (state.model.energy(x) - below.energy(x)) - (state.model.energy(other) - below.energy(other))
        u = rng.uniform((len(x),), key.fold("swap"), x.device)
        taken = (u.log() < log_ratio).reshape(-1, *[1] * (x.dim() - 1))
        moved = torch.where(taken, other, x)
        if _RESERVOIR in state.rungs:
            state.rungs[_RESERVOIR] = y.index_copy(0, chosen, torch.where(taken, x, other))
        state.store.copy_(moved)  # in place: compiled steps have its address
        return log_ratio.clamp_max(0).exp().mean().item()

    def _round(self, policy: AlongTrajectory) -> float:
        """All rungs and the model, each by its own moves; the share of exchanges with the newest rung."""
        state = self.state
        rungs = Rungs(self._base, [*self.models, state.model], self.parts.components.sampler, policy.steps)
        key = stream(self.parts.loop.seed, "rungs", state.step)
        (_, *moved, top), look = rungs.round([state.store, *self._chains(), state.store], state.step, key)
        state.rungs |= {f"{number}.{_CHAINS}": chains for number, chains in enumerate(moved)}
        state.store.copy_(top)  # in place: compiled steps have its address
        state.ages += policy.steps
        return newest(look)

    def _chains(self) -> list[Tensor]:
        return [self.state.rungs[f"{number}.{_CHAINS}"] for number in range(len(self.models))]

    def _extend(self, policy: AlongTrajectory, share: float) -> None:
        """The model becomes a rung where exchanges with the newest one have become too few."""
        count, state, now = len(self.models), self.state, taken_back.tally(self.state)
        self.found = {"rungs/count": float(count), "rungs/acceptance": share}
        adds = share < policy.acceptance and count < policy.rungs
        if policy.least:
            taken_back.keep(state, now._replace(halved=max(0, now.halved - adds), in_a_row=0, fresh=int(adds)))
        if not adds:
            return
        rung = {name: value.detach().clone() for name, value in state.model.state_dict().items()}
        rung[_CHAINS] = state.store.clone()
        self.models.append(_model(state, rung))
        state.rungs |= {f"{count}.{name}": value for name, value in rung.items()}
        self.found["rungs/count"] += 1
        if policy.reservoir:
            self._refill(policy)
        if count + 1 == policy.rungs:
            log.warning(
                "step %d: chains.rungs = %d rungs are there, so no more are added and exchanges become few; start a "
                "run with a higher chains.rungs or a lower chains.acceptance",
                state.step, policy.rungs,
            )  # fmt: skip

    def _refill(self, policy: AlongTrajectory) -> None:
        """All rungs move until replicas have forgotten where they were; then chains of the newest one are kept."""
        rungs = Rungs(self._base, self.models, self.parts.components.sampler, policy.steps)
        x, key, seen = [self.state.store, *self._chains()], stream(self.parts.loop.seed, "refill", self.state.step), 0
        taken, apart = list[Tensor](), policy.refill
        while seen < min(_BEFORE * apart, _LONGEST):
            for number in range(seen, max(policy.refill, 2 * seen)):
                x, look = rungs.round(x, number, key.fold(number))
                taken.append(look.taken)
            seen, apart = len(taken), forgetting(taken)
        kept, between = list[Tensor](), max(1, min(2 * apart, seen // policy.reservoir))
        for number in range(seen, seen + policy.reservoir * between):
            x, _ = rungs.round(x, number, key.fold(number))
            kept += [x[-1]] * ((number + 1 - seen) % between == 0)
        self.state.rungs |= {f"{number}.{_CHAINS}": chains for number, chains in enumerate(x[1:])}
        self.state.rungs[_RESERVOIR] = torch.cat(kept)
        self.found["rungs/rounds"] = float(number + 1)
        if seen >= _LONGEST:
            log.warning(
                "step %d: replicas have not forgotten in %d rounds where they were, so the reservoir may have wrong "
                "shares of modes; start a run with a higher chains.acceptance, or more chains.steps",
                self.state.step, seen,
            )  # fmt: skip

    @property
    def _policy(self) -> AlongTrajectory | None:
        policy = self.parts.components.chains
        return policy if isinstance(policy, AlongTrajectory) and len(self.state.store) else None

    @cached_property
    def _base(self) -> Normalised:
        """Independent units with the means of the training data."""
        data = self.parts.data
        return product(data.space, data.smoothed_mean()).to(self.state.store)


def newest(look: Look) -> float:
    """The mean probability of an exchange between the last two rungs."""
    return (look.up[-1] - look.down[-1]).clamp_max(0).exp().mean().item()


def _in_order(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Those of each rung, without its number. Raises ValueError for a number that is left out."""
    names = [name.partition(".") for name in tensors if "." in name]
    count = len({number for number, _, _ in names})
    if {number for number, _, _ in names} != {str(number) for number in range(count)}:
        raise ValueError("their numbers do not follow each other")
    found: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for number, _, name in names:
        found[int(number)][name] = tensors[f"{number}.{name}"]
    return found


def _check_reservoir(state: TrainState) -> None:
    """Raises ValueError if it is none of this run."""
    draws, space = state.rungs.get(_RESERVOIR), state.model.space
    if draws is None:
        return
    if draws.shape[1:] != state.store.shape[1:] or len(draws) < len(state.store) or not space.contains(draws):
        raise ValueError(f"its {_RESERVOIR} is not in the {space.name} space of the model")


def _as_it_was(model: EnergyModel, before: Mapping[str, Tensor]) -> EnergyModel:
    """The model with the parameters of a snapshot."""
    old = copy.deepcopy(model)
    old.load_state_dict({name: before[f"model.{name}"] for name in old.state_dict()})
    return old


def _model(state: TrainState, rung: Mapping[str, Tensor]) -> EnergyModel:
    """With the parameters of a rung. Raises ValueError if they or its chains have another form."""
    model, chains = copy.deepcopy(state.model), rung.get(_CHAINS)
    space: Space = model.space
    if chains is None or chains.shape != state.store.shape or not space.contains(chains):
        raise ValueError(f"chains of a rung are not {tuple(state.store.shape)} in the {space.name} space of the model")
    take_over("rung", model.state_dict(), {f"rung.{name}": value for name, value in rung.items() if name != _CHAINS})
    return model.requires_grad_(requires_grad=False)
