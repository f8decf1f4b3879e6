"""The no-U-turn sampler (Hoffman & Gelman 2014) with multinomial draws from the trajectory (Betancourt 2017)."""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.hmc import kinetic, leapfrog
from ebm_cli.sampler.informed import Informed, InformedState
from ebm_cli.space import Box, Real

DIVERGED = 1000.0
"""By how many nats H may exceed where it began; a trajectory ends there (Hoffman & Gelman 2014, eq. 3)."""


class End(NamedTuple):
    """One end of a trajectory: positions, energies, gradients, and momenta r (chains, *shape)."""

    x: Tensor
    energy: Tensor
    grad: Tensor
    r: Tensor


class Begin(NamedTuple):
    """From where a stretch goes on: that end, H where the trajectory began, and steps, < 0 back, of chains `live`."""

    end: End
    start: Tensor
    ways: Tensor
    live: Tensor


class Tree(NamedTuple):
    """A stretch of a trajectory: the state drawn from it, log of its weight sum exp(H_0 - H), and the sum of its r.

    `live`, (chains,) bool: it neither turns back nor diverges.
    """

    drawn: InformedState
    log_weight: Tensor
    momenta: Tensor
    live: Tensor


class Tally(NamedTuple):
    """Of the leapfrog steps of each chain: how many, and the sum of min(1, exp(H_0 - H)), (chains,)."""

    steps: Tensor
    accepted: Tensor


@register("sampler", "nuts")
class NUTS(Informed):
    """Momenta r ~ N(0, I), then a trajectory of leapfrog steps of length e = `step_size` that doubles until it turns.

    At each doubling a fair coin says whether as many steps as there are go on from its first or its last state. They
    are left out, and the trajectory ends, if they, or one of the halves that they are made of, halves of these, and so
    on, turn back: r_first.rho <= 0 or r_last.rho <= 0, rho the sum of all r of that stretch (Betancourt 2017, app.
    A.4.2). It ends with them if the whole turns back, or after `max_depth` doublings. So any of its states would have
    made the same trajectory as likely. The next state is drawn from those new steps in proportion to w = exp(H_0 - H),
    H = E(x) + |r|^2 / 2, and taken in place of that of the steps before with min(1, W_new / W_old), W the sum of w
    (biased progressive sampling, A.3.2).

    No recursion: all chains take their i-th step of a doubling together, and a stretch that ends with step i is
    compared with its first momenta and the sum of r before them, of which log2(steps) are kept (Phan et al. 2019;
    Lao & Dillon 2019). Chains that have ended ask for no more gradients. The walls of a box reflect a trajectory as
    that of `hmc`. `acceptance` is the mean of min(1, w), for which a warm-up looks (0.8 is usual).
    """

    step_size: Annotated[float, Field(gt=0)]
    max_depth: Annotated[int, Field(ge=1, le=20)]
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Real, Box)
    rejects = True

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One trajectory per chain; Info: `acceptance`, and `gradients`, how many each has asked for."""
        r = rng.normal(state.x.shape, key.fold("momentum"), state.x.device, state.x.dtype)
        return self.along(model, state, r, key)

    def along(self, model: EnergyModel, state: InformedState, r: Tensor, key: AnyKey) -> tuple[InformedState, Info]:
        """The same with momenta r, (chains, *shape)."""
        start = state.energy + kinetic(r)
        first = last = End(*state, r)
        tree = Tree(state, torch.zeros_like(start), r, torch.ones_like(start, dtype=torch.bool))
        tally = Tally(torch.zeros_like(start), torch.zeros_like(start))
        for depth in range(self.max_depth):
            if not tree.live.any():
                break
            at = key.fold("doubling", depth)
            onward = rng.uniform(start.shape, at.fold("way"), start.device) < 0.5
            ways = self.step_size * torch.where(onward, 1, -1).to(start)
            begin = Begin(_of(onward, last, first), start, ways, tree.live)
            new, end, tally = self._stretch(model, begin, 2**depth, tally, at)
            first, last = _of(onward | ~new.live, first, end), _of(onward & new.live, end, last)
            tree = _joined(tree, new, first, last, at.fold("take"))
        return tree.drawn, {"acceptance": tally.accepted / tally.steps, "gradients": tally.steps}

    def _stretch(
        self, model: EnergyModel, begin: Begin, steps: int, tally: Tally, key: AnyKey
    ) -> tuple[Tree, End, Tally]:
        """So many steps from there, where they lead to, and their count."""
        end, start, ways, live = begin
        tree = Tree(InformedState(*end[:3]), torch.full_like(start, -torch.inf), torch.zeros_like(end.r), live)
        shares = rng.uniform((len(start), steps), key.fold("draw"), start.device, start.dtype)
        kept: list[tuple[Tensor, Tensor]] = []  # momenta, and their sum before, where an open stretch began
        for i in range(steps):
            end = _moved(model, end, ways, tree.live)
            log_w = start - end.energy - kinetic(end.r)
            tally = _counted(tally, tree.live, log_w)
            kept = [*kept[: i.bit_count()], (end.r, tree.momenta)]
            tree = _grown(tree, end, log_w, shares[:, i])
            for size in range(1, _closed(i) + 1):
                r, before = kept[-1 - size]
                tree = tree._replace(live=tree.live & ~turns(r, end.r, tree.momenta - before))
            if not tree.live.any():
                break
        return tree, end, tally


def turns(r: Tensor, other: Tensor, rho: Tensor) -> Tensor:
    """Whether a stretch whose ends have these momenta, (chains, *shape), and whose r sum to rho turns back."""
    along = rho.flatten(1)
    return ((r.flatten(1) * along).sum(1) <= 0) | ((other.flatten(1) * along).sum(1) <= 0)


def _closed(i: int) -> int:
    """How many stretches of 2, 4, 8 ... steps end with step i, from 0: the ones at the end of i in binary."""
    return (~i & (i + 1)).bit_length() - 1


def _wide(of: Tensor, like: Tensor) -> Tensor:
    """(chains,) beside (chains, *shape)."""
    return of.reshape(-1, *[1] * (like.dim() - 1))


def _of(where: Tensor, one: End, other: End) -> End:
    """Of each chain the one or the other."""
    return End(*(torch.where(_wide(where, a), a, b) for a, b in zip(one, other, strict=True)))


def _moved(model: EnergyModel, end: End, ways: Tensor, live: Tensor) -> End:
    """One leapfrog step, of length |way| in the direction of its sign, of the chains that are live."""
    if live.all():
        state, r = leapfrog(model, InformedState(*end[:3]), end.r, _wide(ways, end.x))
        return End(*state, r)
    some = End(*(part[live] for part in end))
    state, r = leapfrog(model.of_rows(live), InformedState(*some[:3]), some.r, _wide(ways[live], some.x))
    return End(*(old.index_put((live,), new) for old, new in zip(end, (*state, r), strict=True)))


def _counted(tally: Tally, live: Tensor, log_w: Tensor) -> Tally:
    """With one more step of those that are live; what is not finite would not be accepted."""
    share = torch.where(live & (log_w > -DIVERGED), log_w.exp().clamp(max=1), 0)
    return Tally(tally.steps + live, tally.accepted + share)


def _grown(tree: Tree, end: End, log_w: Tensor, u: Tensor) -> Tree:
    """With one more state, drawn where u is below its share of the weight; one that is not finite ends it."""
    live = tree.live & (log_w > -DIVERGED)
    total = torch.where(live, tree.log_weight.logaddexp(log_w), tree.log_weight)
    taken = live & (u < (log_w - total).exp())
    drawn = _of(taken, end, End(*tree.drawn, end.r))
    momenta = torch.where(_wide(live, end.r), tree.momenta + end.r, tree.momenta)
    return Tree(InformedState(*drawn[:3]), total, momenta, live)


def _joined(tree: Tree, new: Tree, first: End, last: End, key: AnyKey) -> Tree:
    """The trajectory with the stretch by which it has doubled, of chains of which that is `live`."""
    share = (new.log_weight - tree.log_weight).exp()
    taken = new.live & (rng.uniform(share.shape, key, share.device, share.dtype) < share)
    picked = (torch.where(_wide(taken, a), a, b) for a, b in zip(new.drawn, tree.drawn, strict=True))
    momenta = torch.where(_wide(new.live, new.momenta), tree.momenta + new.momenta, tree.momenta)
    live = new.live & ~turns(first.r, last.r, momenta)
    total = torch.where(new.live, tree.log_weight.logaddexp(new.log_weight), tree.log_weight)
    return Tree(InformedState(*picked), total, momenta, live)
