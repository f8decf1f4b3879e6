"""Gibbs-with-Gradients (Grathwohl, Swersky, Hashemi, Duvenaud, Maddison 2021), and its paths of several flips."""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, Quadratic
from ebm_cli.model.quadratic import changed
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.informed import Balance, InformedState, accepted, gains, informed, log_balanced
from ebm_cli.sampler.path import Path, walked
from ebm_cli.space import Binary, Categorical, Space, Spin


class GWGState(NamedTuple):
    """Positions (chains, *shape), energies (chains,), dE/dx (chains, *shape), and what moves from there are drawn by.

    `logits` (chains, D, moves of a site) and their log-sum `total` (chains,). `coupling` is the matrix of an energy of
    degree two, None of others.
    """

    x: Tensor
    energy: Tensor
    grad: Tensor
    logits: Tensor
    total: Tensor
    coupling: Tensor | None


@register("sampler", "gwg")
class GibbsWithGradients(Sampler[EnergyModel, GWGState]):
    """Propose to flip site i with q(i | x) = softmax(d(x) / temperature)_i, d_i the first-order gain of f = -E.

    Sites of K values: site i is proposed value k, another than it has, with softmax(d(x) / temperature)_ik. That is
    `balance` sqrt; the others propose in proportion to g(t), t = exp(2 d / temperature): barker t / (1 + t), min(1, t)
    or max(1, t) (Zanella 2020).

    Accepted with min(1, exp(f(x') - f(x)) q(i | x') / q(i | x)), alg. 1. With `flips` > 1 a path of 1 to `flips` sites,
    its length uniform, is drawn one site after the other from the same d(x), those drawn left out; the way back is the
    path reversed, drawn from d(x'), and one test accepts the whole path (Sun, Dai, Xia, Ramamurthy 2022). A step costs
    one call of energy and gradient: those of x are kept. Of an energy of degree two with a matrix of couplings it costs
    as many rows of that matrix as numbers change.
    """

    temperature: Annotated[float, Field(gt=0)]
    flips: Annotated[int, Field(ge=1)]
    balance: Annotated[Balance, Later("sqrt")]

    spaces = (Binary, Spin, Categorical)
    compiles = True
    rejects = True

    @override
    def refusal(self, space: Space) -> str | None:
        """A path has no more sites than there are."""
        if self.flips > space.sites:
            return f"sampler.flips = {self.flips}: the data have {space.sites} sites; give at most that"
        return None

    @override
    @torch.no_grad()
    def init(self, model: EnergyModel, x: Tensor) -> GWGState:
        """Caches energies and gradients, and the couplings where rows of them will do."""
        if not (isinstance(model, Quadratic) and model.dense):
            return self._state(model, informed(model, x), None)
        coupling = model.coupling()
        return self._state(model, InformedState(x, *model.slopes(x, coupling)), coupling)

    @override
    def refreshed(self, model: EnergyModel, state: GWGState) -> GWGState:
        """Made anew where energies and gradients are sums of changes."""
        return state if state.coupling is None else self.init(model, state.x)

    @override
    def step(self, model: EnergyModel, state: GWGState, key: AnyKey) -> tuple[GWGState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each."""
        length = 1 + rng.integers(self.flips, (len(state.x),), key.fold("length"), state.x.device)
        moves, forth = self._draw(state, length, key.fold("path"))
        x, path = walked(model.space, state.x, moves, length)
        proposal = self._proposal(model, state, x, path)
        back = self._probability(proposal, path)
        log_ratio = state.energy - proposal.energy + back - forth
        taken = accepted(log_ratio, key.fold("accept"))
        return _chosen(taken, proposal, state), {"acceptance": taken.to(log_ratio.dtype)}

    def _proposal(self, model: EnergyModel, state: GWGState, x: Tensor, path: Path) -> GWGState:
        """The state at x."""
        if state.coupling is None:
            return self._state(model, informed(model, x), None)
        ends = changed(state.energy, state.grad, state.coupling, path.changes)
        return self._state(model, InformedState(x, *ends), state.coupling)

    def _state(self, model: EnergyModel, ends: InformedState, coupling: Tensor | None) -> GWGState:
        logits = self._logits(model, ends)
        return GWGState(*ends, logits, logits.flatten(1).logsumexp(1), coupling)

    def _logits(self, model: EnergyModel, state: InformedState) -> Tensor:
        """Of the moves, (chains, D, moves of a site): no site is proposed the value that it has."""
        logits = log_balanced(gains(model, state) / self.temperature, self.balance)
        if isinstance(model.space, Categorical):
            return logits.masked_fill(model.space.table(state.x) > 0, -torch.inf)
        return logits

    def _draw(self, state: GWGState, length: Tensor, key: AnyKey) -> tuple[Tensor, Tensor]:
        """Moves of distinct sites in the order of the path, (chains, flips), and log q of the first `length`."""
        moves: list[Tensor] = []
        left, total, log_q = state.logits, state.total, torch.zeros_like(state.total)
        for i in range(self.flips):
            if i:
                left, total = _without(left, moves[-1])
            move = rng.categorical(left.flatten(1), key.fold(i))
            moves.append(move)
            log_q = _walked(left, total, move, log_q, i < length)
        return torch.stack(moves, 1), log_q

    def _probability(self, state: GWGState, path: Path) -> Tensor:
        """log q of the first `length` moves of the way back in reverse order, (chains,)."""
        left, total, log_q = state.logits, state.total, torch.zeros_like(state.total)
        for i in range(self.flips):
            move = path.back.gather(1, (path.length - 1 - i).clamp_min(0)[:, None]).squeeze(1)
            log_q = _walked(left, total, move, log_q, i < path.length)
            if i + 1 < self.flips:
                left, total = _without(left, move)
        return log_q


def _walked(left: Tensor, total: Tensor, move: Tensor, log_q: Tensor, within: Tensor) -> Tensor:
    """log q after one more move, where the path is that long."""
    step = left.flatten(1).gather(1, move[:, None]).squeeze(1) - total
    return torch.where(within, log_q + step, log_q)


def _without(left: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
    """The logits without the site of a move, and their log-sum."""
    values = left.shape[2]
    site = (move // values)[:, None, None].expand(-1, 1, values)
    left = left.scatter(1, site, -torch.inf)
    return left, left.flatten(1).logsumexp(1)


def _chosen(taken: Tensor, proposal: GWGState, state: GWGState) -> GWGState:
    """The proposal where it is taken, else the state."""
    x, energy, grad, logits, total = (
        torch.where(taken.reshape(-1, *[1] * (old.dim() - 1)), new, old)
        for new, old in zip(proposal[:5], state[:5], strict=True)
    )
    return GWGState(x, energy, grad, logits, total, state.coupling)
