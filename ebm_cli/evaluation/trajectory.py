"""log Z along the checkpoints of a run: replicas on each of them, and Bennett's ratio of neighbours."""

from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.device.engine import Work
from ebm_cli.evaluation.ais import likelihood, unnormalised
from ebm_cli.evaluation.base import Evaluation, Result, Subject, likelihoods, without_density
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.bridge import bennett
from ebm_cli.evaluation.invariance import refusal_to_anneal
from ebm_cli.evaluation.laid import Ladder, ladder, more
from ebm_cli.evaluation.table import Numbers, likelihood_lines
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.rungs import Look, Rungs
from ebm_cli.terminal import followed

_OVERLAP = 0.03
_BAND = 1.96  # standard errors to either side: 95 % of a normal law
_SURE = 3  # standard errors of the lag
_AWAKE, _BEHIND = 0.1, 0.5  # nats of lag, for a good estimate and for one at all


@register("evaluation", "trajectory")
class Trajectory(Evaluation):
    """log Z = log Z_0 + sum_k log Z_k / Z_(k-1), k = 1 ... K, over rungs among the checkpoints of the run (PTT).

    p_0 are independent units with the means of the training data, whose log Z is known; p_K is the model itself. A
    checkpoint is a rung where less than the share `acceptance` of exchanges between the rung before and the next
    checkpoint would be taken. `chains` replicas at each rung make `warmup` rounds and then `rounds` that count:
    `steps` transitions of the run's sampler, and exchanges with a neighbour (Bereux et al. 2025, sec. 3); those of p_0
    are drawn afresh. Each ratio is Bennett's (1976, eq. 12a) of the draws of all rounds.

    The standard error is by the linear influence of each column of chains, which are independent of each other, on the
    sum of the ratios; the 95 % interval is 1.96 of it to either side. `trajectory/overlap` is the least over neighbours
    of the mean of 4 sigmoid(u - D) sigmoid(D - u), as of `bridge`; `trajectory/lag` shows chains that keep to modes
    whose weights change from rung to rung. Where the overlap amounts to less than one draw, or the lag is above half a
    nat, there is no estimate. `trajectory/acceptance` is the least share of exchanges. A mode that no chain comes to is
    missed.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=2)]
    steps: Annotated[int, Field(ge=1)]
    warmup: Annotated[int, Field(ge=0)]
    rounds: Annotated[int, Field(ge=4)]
    acceptance: Annotated[float, Field(gt=0, lt=1)]

    moves_anywhere = True
    goes_by_checkpoints = True

    standing = 32
    reports = likelihoods(
        "trajectory", "log_z", "log_z_low", "log_z_high", "bits_per_dimension", "overlap", "lag", "rungs", "acceptance"
    )

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The log-likelihood and log Z."""
        return likelihood_lines(values, "trajectory", split)

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Every rung must be invariant under its moves."""
        return model.improper() or refusal_to_anneal(model, sampler)

    @property
    @override
    def work(self) -> Work:
        """Of one rung: how many there will be is not known yet."""
        moves = self.steps * (self.warmup + self.rounds)
        return Work(self.chains * moves, moves)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`trajectory/...`."""
        log_f = unnormalised(subject.model, subject.held_out)
        lost = without_density(log_f)
        if lost:
            return Result({}, warnings=(f"{lost}: no figures are given",))
        key = subject.key.fold("trajectory")
        rungs, laid = self._rungs(subject, key)
        seen = self._seen(rungs, key)
        if not (seen.up.isfinite().all() and seen.down.isfinite().all()):
            return Result({}, warnings=("chains come to where a rung has no density: no figures are given",))
        ratios = of_all(seen)
        overlap = overlaps(seen, ratios)
        behind, unsure = lag(seen, ratios)
        about = {
            "trajectory/overlap": overlap.min().item(),
            "trajectory/lag": behind,
            "trajectory/rungs": float(len(rungs.models)),
            "trajectory/acceptance": seen.acceptance.min().item(),
        }
        doubts = [_apart(overlap, laid)] * bool(overlap.min() < _OVERLAP)
        doubts += [_seldom(seen, laid, self.acceptance)] * bool(seen.acceptance.min() < self.acceptance / 2)
        doubts += [_late(behind)] * (behind > max(_AWAKE, _SURE * unsure))
        if 2 * self.chains * overlap.min() < 1 or (doubts and behind > _BEHIND):
            return Result(about, warnings=(*(f"{doubt}; no other figures are given" for doubt in doubts),))
        log_z = rungs.base.log_z().item() + ratios.sum().item()
        error = influence(seen, ratios).square().sum().sqrt().item()
        metrics = {
            **likelihood("trajectory", subject.held_out, log_f, log_z),
            **above_independent("trajectory", subject, subject.held_out, log_f - log_z),
            **{"trajectory/log_z_low": log_z - _BAND * error, "trajectory/log_z_high": log_z + _BAND * error},
            **about,
        }
        return Result(metrics, warnings=tuple(doubts), by_row={"trajectory/log_likelihood": log_f - log_z})

    def _rungs(self, subject: Subject, key: Key) -> tuple[Rungs, Ladder]:
        """Rungs that move, and the ladder that they were made of."""
        found = ladder(subject, subject.sampler.inner, self.chains, self.acceptance, key.fold("choice"))
        return Rungs(found.base, found.models, subject.sampler.inner, self.steps), found

    def _seen(self, rungs: Rungs, key: Key) -> "Seen":
        x, looks = rungs.begun(self.chains, key.fold("begun")), list[Look]()
        for number in followed(range(self.warmup + self.rounds), "trajectory: round"):
            x, look = rungs.round(x, number, key.fold("round", number))
            looks += [look] * (number >= self.warmup)
        tried, taken = (torch.stack([look[which] for look in looks]).double() for which in (2, 3))
        up, down = (torch.stack([look[which] for look in looks], 1) for which in (0, 1))
        return Seen(up, down, taken.mean(2).sum(0) / tried.sum(0))


class Seen(NamedTuple):
    """u of draws below and above each pair, (pairs, rounds, chains), and the share of exchanges taken, (pairs,)."""

    up: Tensor
    down: Tensor
    acceptance: Tensor


def of_all(seen: Seen) -> Tensor:
    """Bennett's ratio of every pair, (pairs,)."""
    return bennett(seen.up.flatten(1), seen.down.flatten(1))


def overlaps(seen: Seen, ratios: Tensor) -> Tensor:
    """The mean of 4 sigmoid(u - D) sigmoid(D - u) of every pair, (pairs,)."""
    off = torch.cat([seen.up, seen.down], 1).flatten(1) - ratios[:, None]
    return (4 * off.sigmoid() * (-off).sigmoid()).mean(1)


def influence(seen: Seen, ratios: Tensor) -> Tensor:
    """By how much each column of chains moves the sum of the ratios, (chains,): the sum of squares is its variance.

    D solves g(D) = sum_c g_c(D) = 0, g_c = sum_rounds sigmoid(u_up - D) - sigmoid(D - u_down), so that column c moves
    it by g_c / -g'(D) to first order. Their mean is 0, hence n / (n - 1) of the squares.
    """
    at, n = ratios[:, None, None], seen.up.shape[2]
    below, above = (seen.up - at).sigmoid(), (at - seen.down).sigmoid()
    slope = (below * (1 - below) + above * (1 - above)).flatten(1).sum(1)
    return ((below - above).sum(1) / slope[:, None]).sum(0) * (n / (n - 1)) ** 0.5


def lag(seen: Seen, ratios: Tensor) -> tuple[float, float]:
    """By how many nats draws of neighbours differ less than their energies say, over all pairs; its standard error.

    At equilibrium a draw with v = u - D that is of either end is of the upper one with probability sigmoid(v) (Crooks
    1999), so that the sum of v sigmoid(v) over all draws is that of v over those of the upper end. Where chains keep to
    a mode whose weight changes from rung to rung, it is larger.
    """
    up, down, n = seen.up - ratios[:, None, None], seen.down - ratios[:, None, None], seen.up.shape[2]
    by_chain = (up * up.sigmoid() + down * down.sigmoid() - down).mean(1).sum(0)
    return by_chain.mean().item(), by_chain.std().item() / n**0.5


def _apart(overlap: Tensor, laid: Ladder) -> str:
    k, names = int(overlap.argmin()), laid.names
    return (
        f"{names[k]} and {names[k + 1]} have little in common (overlap {overlap[k]:.2g}), and no checkpoint lies "
        f"between; {more(laid.kept)}"
    )


def _seldom(seen: Seen, laid: Ladder, asked: float) -> str:
    k, names = int(seen.acceptance.argmin()), laid.names
    return (
        f"replicas seldom pass between {names[k]} and {names[k + 1]}, by {100 * seen.acceptance[k]:.2g} % of the "
        f"exchanges (evaluation.trajectory.acceptance = {asked:g}), so that modes which chains cannot leave may be "
        f"missed; {more(laid.kept)}"
    )


def _late(behind: float) -> str:
    return (
        f"chains keep to modes whose weights change along the checkpoints, by {behind:.2g} nats beyond equilibrium; "
        "train with chains=trajectory or more chains.steps, or take evaluation=[ais,bridge]"
    )
