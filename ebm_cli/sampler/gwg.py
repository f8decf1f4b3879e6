"""Gibbs-with-Gradients (Grathwohl, Swersky, Hashemi, Duvenaud, Maddison 2021), and its paths of several flips."""

from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.informed import InformedState, accept, gains, informed
from ebm_cli.space import Binary, Categorical, Space, Spin, TwoValued


@register("sampler", "gwg")
class GibbsWithGradients(Sampler[EnergyModel, InformedState]):
    """Propose to flip site i with q(i | x) = softmax(d(x) / temperature)_i, d_i the first-order gain of f = -E.

    Sites of K values: site i is proposed value k, another than it has, with softmax(d(x) / temperature)_ik.

    Accepted with min(1, exp(f(x') - f(x)) q(i | x') / q(i | x)), alg. 1. With `flips` > 1 a path of 1 to `flips` sites,
    its length uniform, is drawn one site after the other from the same d(x), those drawn left out; the way back is the
    path reversed, drawn from d(x'), and one test accepts the whole path (Sun, Dai, Xia, Ramamurthy 2022). A step costs
    one call of energy and gradient: those of x are kept.
    """

    temperature: Annotated[float, Field(gt=0)]
    flips: Annotated[int, Field(ge=1)]

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
    def init(self, model: EnergyModel, x: Tensor) -> InformedState:
        """Caches energies and gradients."""
        return informed(model, x)

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each."""
        length = 1 + rng.integers(self.flips, (len(state.x),), key.fold("length"), state.x.device)
        path, forth = self._draw(self._logits(model, state), length, key.fold("path"))
        x, undo = _moved(model.space, state.x, path, length)
        proposal = informed(model, x)
        back = self._probability(self._logits(model, proposal), undo, length)
        log_ratio = state.energy - proposal.energy + back - forth
        state, accepted = accept(state, proposal, log_ratio, key.fold("accept"))
        return state, {"acceptance": accepted}

    def _logits(self, model: EnergyModel, state: InformedState) -> Tensor:
        """Of the moves, (chains, D, moves of a site): no site is proposed the value that it has."""
        logits = gains(model, state) / self.temperature
        if isinstance(model.space, Categorical):
            return logits.masked_fill(model.space.table(state.x) > 0, -torch.inf)
        return logits

    def _draw(self, left: Tensor, length: Tensor, key: AnyKey) -> tuple[Tensor, Tensor]:
        """Moves of distinct sites in the order of the path, (chains, flips), and log q of the first `length`."""
        moves, log_q = [], torch.zeros_like(left[:, 0, 0])
        for i in range(self.flips):
            move = rng.categorical(left.flatten(1), key.fold(i))
            moves.append(move)
            log_q, left = _walked(left, move, log_q, i < length)
        return torch.stack(moves, 1), log_q

    def _probability(self, left: Tensor, path: Tensor, length: Tensor) -> Tensor:
        """log q of the first `length` moves of the path in reverse order, (chains,)."""
        log_q = torch.zeros_like(left[:, 0, 0])
        for i in range(self.flips):
            move = path.gather(1, (length - 1 - i).clamp_min(0)[:, None]).squeeze(1)
            log_q, left = _walked(left, move, log_q, i < length)
        return log_q


def _walked(left: Tensor, move: Tensor, log_q: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """log q after one more move, where the path is that long, and the logits without its site."""
    flat, values = left.flatten(1), left.shape[2]
    step = flat.gather(1, move[:, None]).squeeze(1) - flat.logsumexp(1)
    site = (move // values)[:, None, None].expand(-1, 1, values)
    return torch.where(within, log_q + step, log_q), left.scatter(1, site, -torch.inf)


def _moved(space: Space, x: Tensor, path: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """x after the first `length` moves of the path, and the moves that undo them."""
    within = torch.arange(path.shape[1], device=x.device) < length[:, None]
    if isinstance(space, Categorical):
        site, values = path // space.values, space.decode(space.table(x))
        old = values.gather(1, site)
        new = values.scatter(1, site, torch.where(within, path % space.values, old))
        return F.one_hot(new, space.values).to(x.dtype).reshape(x.shape), site * space.values + old
    flat, two = x.flatten(1), cast(TwoValued, space)
    old = flat.gather(1, path)
    return flat.scatter(1, path, torch.where(within, two.flipped(old), old)).reshape(x.shape), path
