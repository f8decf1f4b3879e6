"""Earlier models of a run that stay as they were, with chains that exchange with those of training."""

import copy
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from ebm_cli.chains import AlongTrajectory
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.model.exponential_family import product
from ebm_cli.rng import stream
from ebm_cli.sampler.rungs import Look, Rungs
from ebm_cli.space import Space
from ebm_cli.terminal import log
from ebm_cli.training.state import Parts, TrainState, take_over

_CHAINS = "chains"


class Ladder:
    """The rungs of one run, whose parameters and chains `TrainState.rungs` holds; none without `chains=trajectory`.

    Raises UserError if what a checkpoint holds does not fit the run.
    """

    def __init__(self, parts: Parts, state: TrainState) -> None:
        self.parts, self.state = parts, state
        self.found: dict[str, float] = {}
        self.models: list[EnergyModel] = []
        if self._policy is None:
            state.rungs = {}
            return
        try:
            self.models = [_model(state, rung) for rung in _in_order(state.rungs)]
        except ValueError as error:
            raise UserError(f"the rungs of the checkpoint do not fit this run: {error}; start a new run") from error

    @torch.no_grad()
    def follow(self) -> None:
        """A round of exchanges after the step that was taken, and a new rung where it is needed."""
        policy, state = self._policy, self.state
        if policy is None:
            return
        rungs = Rungs(self._base, [*self.models, state.model], self.parts.components.sampler, policy.steps)
        x = [state.store, *(state.rungs[f"{number}.{_CHAINS}"] for number in range(len(self.models))), state.store]
        key = stream(self.parts.loop.seed, "rungs", state.step)
        (_, *moved, top), look = rungs.round(x, state.step, key)
        state.rungs |= {f"{number}.{_CHAINS}": chains for number, chains in enumerate(moved)}
        state.store.copy_(top)  # in place: compiled steps have its address
        state.ages += policy.steps
        self._extend(policy, newest(look))

    def _extend(self, policy: AlongTrajectory, share: float) -> None:
        """The model becomes a rung where exchanges with the newest one have become too few."""
        count, state = len(self.models), self.state
        self.found = {"rungs/count": float(count), "rungs/acceptance": share}
        if share >= policy.acceptance or count == policy.rungs:
            return
        rung = {name: value.detach().clone() for name, value in state.model.state_dict().items()}
        rung[_CHAINS] = state.store.clone()
        self.models.append(_model(state, rung))
        state.rungs |= {f"{count}.{name}": value for name, value in rung.items()}
        self.found["rungs/count"] += 1
        if count + 1 == policy.rungs:
            log.warning(
                "step %d: chains.rungs = %d rungs are there, so no more are added and exchanges become few; start a "
                "run with a higher chains.rungs or a lower chains.acceptance",
                state.step, policy.rungs,
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
    names = [name.partition(".") for name in tensors]
    count = len({number for number, _, _ in names})
    if {number for number, _, _ in names} != {str(number) for number in range(count)}:
        raise ValueError("their numbers do not follow each other")
    found: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for number, _, name in names:
        found[int(number)][name] = tensors[f"{number}.{name}"]
    return found


def _model(state: TrainState, rung: Mapping[str, Tensor]) -> EnergyModel:
    """With the parameters of a rung. Raises ValueError if they or its chains have another form."""
    model, chains = copy.deepcopy(state.model), rung.get(_CHAINS)
    space: Space = model.space
    if chains is None or chains.shape != state.store.shape or not space.contains(chains):
        raise ValueError(f"chains of a rung are not {tuple(state.store.shape)} in the {space.name} space of the model")
    take_over("rung", model.state_dict(), {f"rung.{name}": value for name, value in rung.items() if name != _CHAINS})
    return model.requires_grad_(requires_grad=False)
