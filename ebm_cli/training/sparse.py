"""Changing which couplings a model has, between two steps."""

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor

from ebm_cli.model.base import EnergyModel, Quadratic
from ebm_cli.sparsity.base import Seen, Sparsity, indicators
from ebm_cli.training.early import Early
from ebm_cli.training.state import CHANGED, Parts, TrainState

_AT_ONCE = 1000  # rows


class Sparse:
    """The couplings of one run."""

    def __init__(self, parts: Parts, state: TrainState) -> None:
        self.parts, self.state = parts, state
        self.sparsity: Sparsity = parts.components.sparsity

    def due(self, step: int) -> bool:
        """Whether couplings may change at this step."""
        return self.sparsity.due(step)

    def attend(self, early: Early) -> dict[str, float]:
        """Change what is due, and go on where the target is met with too many couplings; what to log."""
        if not self.sparsity.changes:
            return {}
        fits, step = early.met is not None, self.state.step
        if not (self.sparsity.goes_on(self._density()) if fits else self.sparsity.due(step)):
            return {}
        self._change()
        early.met = None
        return {"sparsity/density": self._density()}

    @torch.no_grad()
    def _change(self) -> None:
        state, name = self.state, self._name
        J = dict(state.model.named_parameters())[name]
        means = _means(state.model, name, state.chains().split(_AT_ONCE), None)
        chains, strength, _ = indicators(state.model.space, means, J)
        seen = Seen(self._data, self._with_pseudocount(chains), strength, state.sparsity[name] > 0, self._possible)
        keep(state, name, self.sparsity.chosen(seen))
        state.sparsity[CHANGED].fill_(state.step)

    @property
    def _name(self) -> str:
        return self.state.model.couplings[0]

    def _density(self) -> float:
        return (self.state.sparsity[self._name].sum() / self._possible.sum()).item()

    @cached_property
    def _possible(self) -> Tensor:
        assert isinstance(self.state.model, Quadratic)
        return self.state.model.entries(self._name)

    @cached_property
    def _data(self) -> Tensor:
        """Of the training rows with their weights."""
        train = self.parts.data.train
        means = _means(self.state.model, self._name, train.pieces(_AT_ONCE), train.weights)
        return self._with_pseudocount(indicators(self.state.model.space, means, means)[0])

    def _with_pseudocount(self, shares: Tensor) -> Tensor:
        """Mixed with uniform sites, these counting as much as one row of the data, so that none is 0 or 1."""
        alpha = 1 / max(2.0, self.parts.data.train.size)
        return (1 - alpha) * shares + alpha * indicators(self.state.model.space, shares, shares)[2]


def _means(model: EnergyModel, name: str, pieces: Iterable[Tensor], weights: Tensor | None) -> Tensor:
    """Weighted mean of dE/d(-J) over rows (n, *shape), some at a time."""
    found, total, first = torch.zeros(()), 0.0, 0
    for x in pieces:
        w = (torch.ones(len(x)) if weights is None else weights[first : first + len(x)]).to(x)
        _, pull = model.energy_vjp(x)
        found = found.to(x) - pull(w)[name]
        total, first = total + w.double().sum().item(), first + len(x)
    return found / total


@torch.no_grad()
def keep(state: TrainState, name: str, chosen: Tensor) -> None:
    """Have the couplings `chosen` (bool) alone; of others they, their average and the memory of the optimizer are 0."""
    mask = state.sparsity[name].copy_(chosen)
    kept = [dict(state.model.named_parameters())[name], *(state.average[key] for key in state.average if key == name)]
    for tensor in [*kept, *(state.optimizer[key] for key in state.optimizer if key.partition(".")[2] == name)]:
        tensor.mul_(mask)
