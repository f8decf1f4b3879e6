"""Annealed importance sampling and its reverse: a bracket on the log-likelihood."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Split
from ebm_cli.device.engine import EAGER, Engine, Work
from ebm_cli.evaluation.annealing import annealing_path, without_part
from ebm_cli.evaluation.base import (
    Evaluation,
    Result,
    Subject,
    bits_of_levels,
    learned_log_z,
    likelihoods,
    standard_error,
    without_density,
)
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.bracket import WIDE, bracket, crossed, doubt, few_chains
from ebm_cli.evaluation.invariance import refusal_to_anneal
from ebm_cli.evaluation.table import Numbers, log_z_line, plus_minus
from ebm_cli.functional import log_mean_exp
from ebm_cli.log_z import particles
from ebm_cli.log_z.paths import Beta, Path
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.standstill import moved
from ebm_cli.terminal import followed

Count = Annotated[int, Field(ge=1)]
_ROWS_AT_ONCE = 1000
_PARTS = 10  # of the way, in each of which chains must move
_SLUGGISH = 0.01  # share of accepted proposals below which they hardly do
_SLOWER = "lower sampler.step_size, or take another sampler"


@register("evaluation", "ais")
class AIS(Evaluation):
    """AIS (Neal 2001) from independent units, along `temperatures` equal steps in beta.

    Binary units of the base have mean (1 - base_mix) * data mean + base_mix / 2. With none mixed in, pixels that are
    never on in the data are all but frozen on much of the path, and whole modes of the model are missed. In a
    box the base is normal units cut off at the walls, with the moments of data of which the share `base_mix` is uniform
    rows; of other real numbers they have the means and standard deviations of the data. log Z is over the space.

    E[Z_hat] = Z, hence E[log Z_hat] <= log Z: `ais/log_likelihood` errs upwards. RAISE (Burda, Grosse, Salakhutdinov
    2015, alg. 3) runs the chain backwards from `raise_points` held-out rows, `raise_chains` each: a stochastic lower
    bound on the log-likelihood of the annealed model, which approximates p. `ais/gap` is the mean of AIS minus RAISE on
    these rows, `ais/gap_standard_error` its error over them, and `raise/log_likelihood` = ais/log_likelihood - ais/gap
    the estimate of the bound for the whole split: rows differ far more from each other than the gap does from row to
    row. The two bracket the truth unless a mode of the model is found by neither. Where a sampler's proposals are all
    rejected over a tenth of the way there is no estimate. The 95 % interval of log Z is by bootstrap over chains.
    `raise_points` 0 leaves RAISE out. While training, `training_temperatures` make do, without RAISE: their log Z is a
    little lower and ranks checkpoints, as pseudo-likelihood, which sees single flips alone, does not.

    With `particles` above 1 each chain is a run of so many, drawn anew by their weights where these are worth fewer
    than half of them (`log_z.particles`). Modes that have another share at one end of the way than at the other, which
    no number of temperatures mends where chains no longer pass between them, then get theirs, at both ends.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=2)]
    temperatures: Count
    training_temperatures: Count | None
    base_mix: Annotated[float, Field(ge=0, le=1)]
    raise_points: Annotated[int, Field(ge=0)]
    raise_chains: Count
    bootstrap: Annotated[int, Field(ge=100)]
    particles: Annotated[int, Field(ge=1), Later(1)]

    moves_anywhere = True

    standing = 20
    compared = ("ais/log_likelihood", "raise/log_likelihood")
    reports = (
        *likelihoods("ais", "log_z", "log_z_low", "log_z_high", "learned_log_z", "learned_log_z_error"),
        *("ais/bits_per_dimension", "ais/weight_ess", "ais/log_weight_std", "ais/gap", "ais/gap_standard_error"),
        *("raise/log_likelihood", "raise/points"),
    )

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The log-likelihood with its bracket, and log Z."""
        found = {}
        if "ais/log_likelihood" in values:
            errs = "errs upwards" if doubt("ais", values.unseen) is None else "errs upwards, not to be relied on"
            found[f"log-likelihood ({split}), AIS"] = f"{plus_minus(values, 'ais')} nats ({errs})"
        if values.has("ais/gap", "ais/log_likelihood"):
            values.leave("ais/gap_standard_error")
            found["  bracket, RAISE to AIS"] = f"{bracket(values)}, RAISE on {values['raise/points']:.0f} rows"
        return found | log_z_line(values, "ais", "AIS")

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Each intermediate distribution must be invariant under its moves."""
        return refusal_to_anneal(model, sampler)

    @override
    def while_it_trains(self) -> "AIS":
        """With `training_temperatures` and without RAISE, where these are given."""
        if self.training_temperatures is None:
            return self
        return replace(self, temperatures=self.training_temperatures, raise_points=0)

    @property
    @override
    def work(self) -> Work:
        """Up with the chains of AIS, down with those of RAISE."""
        chains = (self.chains + self.raise_points * self.raise_chains) * self.particles
        return Work(chains * self.temperatures, 2 * self.temperatures)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`ais/...` and `raise/...`."""
        log_f = unnormalised(subject.model, subject.held_out)
        lost = without_density(log_f)
        if lost:
            return Result({}, warnings=(f"{lost}: no figures are given",))
        path = annealing_path(subject, self.base_mix)
        moves = Moves(self.temperatures) if subject.sampler.inner.rejects and self.particles == 1 else None
        key = subject.key.fold("forward")
        log_w = self._forward(path, key, subject.device.repeating, moves)
        if moves is not None and not moves.least:
            return Result({}, warnings=(f"{moves.said()}, so there is no estimate; {_SLOWER}",))
        log_z = path.log_z_base + log_mean_exp(log_w).item()
        if not log_w.isfinite().all():
            return Result({}, warnings=("chains come to where the model has no density: no figures are given",))
        metrics = {
            **likelihood("ais", subject.held_out, log_f, log_z),
            **above_independent("ais", subject, subject.held_out, log_f - log_z),
            **learned_log_z("ais", subject, log_z),
            **self._uncertainty(log_w, path.log_z_base, subject.key.fold("bootstrap")),
        }
        by_row, index = {"ais/log_likelihood": log_f - log_z}, {}
        if self.raise_points:
            chosen, gaps = self._gaps(path, log_f - log_z, subject)
            by_row["ais/gap"], index["ais/gap"] = gaps, chosen
            metrics |= {
                "ais/gap": gaps.mean().item(),
                **{f"ais/gap_{key.strip('/')}": error for key, error in standard_error("", gaps).items()},
                "raise/log_likelihood": metrics["ais/log_likelihood"] - gaps.mean().item(),
                "raise/points": float(len(gaps)),
            }
        slow = moves is not None and moves.least < _SLUGGISH
        hardly = (f"{moves.said()}, so the estimate is hardly annealed; {_SLOWER}",) if moves and slow else ()
        doubts, beside = (*hardly, *self._warnings(metrics)), without_part(subject)
        return Result(metrics, warnings=doubts, said=beside, by_row=by_row, index=index)

    def _warnings(self, metrics: dict[str, float]) -> tuple[str, ...]:
        """A few chains carry the estimate, so that its interval is too narrow; or the two ends of the bracket disagree.

        A clearly negative gap means that the annealed model, which RAISE bounds, is not yet the model.
        """
        found, gap, crossing = [], metrics.get("ais/gap", 0.0), crossed("ais", metrics)
        few = few_chains(metrics["ais/weight_ess"], self.chains)
        if few:
            found.append(few)
        if crossing is not None:
            found.append(
                f"RAISE, a lower bound, lies {crossing:.4g} nats above AIS, an upper one: the annealed chains do not "
                "mix or miss mass of the model, so neither figure holds"
            )
        elif abs(gap) > WIDE:
            found.append(f"AIS and RAISE differ by {gap:.4g} nats")
        advice = "; raise evaluation.ais.temperatures"
        return tuple(sentence + advice for sentence in found)

    def _uncertainty(self, log_w: Tensor, log_z_base: float, key: Key) -> dict[str, float]:
        """Effective number of chains, spread of their log-weights, 95 % bootstrap interval of log Z."""
        index = rng.integers(len(log_w), (self.bootstrap, len(log_w)), key)
        means = log_mean_exp(log_w.cpu()[index]) + log_z_base
        return {
            **interval("ais", means),
            "ais/weight_ess": weight_ess(log_w),
            "ais/log_weight_std": log_w.std().item(),
        }

    def _gaps(self, path: Path[Any], log_p: Tensor, subject: Subject) -> tuple[Tensor, Tensor]:
        """Some rows, by number, and what AIS says of them minus what RAISE says, (rows,) each."""
        chosen = rng.permutation(len(log_p), subject.key.fold("points"))[: self.raise_points].to(log_p.device)
        x = subject.held_out.fixed(chosen)
        key = subject.key.fold("reverse")
        counts = Runs(self.raise_chains, self.particles, self.temperatures)
        return chosen, log_p[chosen] - lower_log_p(path, x, counts, key, subject.device.repeating)

    def _forward(self, path: Path[Any], key: Key, engine: Engine, moves: "Moves | None") -> Tensor:
        """log Z_hat / Z_base of each chain, or of each run of particles, (chains,) float64."""
        if self.particles > 1:
            return particles.forward(path, self.chains, self.particles, self.temperatures, key, engine)
        return forward(path, self.chains, self.temperatures, key, engine, moves)[0]


class Runs(NamedTuple):
    """How many, of how many particles each, along how many temperatures."""

    chains: int
    particles: int
    temperatures: int


def lower_log_p(path: Path[Any], x: Tensor, runs: Runs, key: Key, engine: Engine) -> Tensor:
    """What RAISE, or with particles conditional SMC, says of rows x, (rows,) float64."""
    if runs.particles > 1:
        return particles.reverse_log_p(path, x, *runs, key, engine)
    return reverse_log_p(path, x, runs.chains, runs.temperatures, key, engine)


def unnormalised(model: EnergyModel, split: Split) -> Tensor:
    """log f(x) = -E(x) of every row of a split, (rows,) float64."""
    return -torch.cat([model.energy(rows) for rows in split.pieces(_ROWS_AT_ONCE)]).double()


def likelihood(name: str, split: Split, log_f: Tensor, log_z: float) -> dict[str, float]:
    """`<name>/log_likelihood` of rows of a split with these log f, its error over rows, `<name>/log_z`, and bits."""
    found = log_f.mean().item() - log_z
    return {
        f"{name}/log_likelihood": found,
        **standard_error(name, log_f),
        f"{name}/log_z": log_z,
        **bits_of_levels(name, split, found),
    }


def interval(name: str, log_z: Tensor) -> dict[str, float]:
    """`<name>/log_z_low` and `<name>/log_z_high`: 95 % of the bootstrapped log Z."""
    low, high = log_z.quantile(torch.tensor([0.025, 0.975], dtype=log_z.dtype)).tolist()
    return {f"{name}/log_z_low": low, f"{name}/log_z_high": high}


def weight_ess(log_w: Tensor) -> float:
    """Effective number of chains (sum w)^2 / sum w^2 of log w (chains,)."""
    w = (log_w - log_w.max()).exp()
    return (w.sum().square() / w.square().sum()).item()


@dataclass
class Moves:
    """How many chains moved at how many temperatures, in each tenth of the way up."""

    temperatures: int
    taken: list[float] = field(default_factory=lambda: [0.0] * _PARTS)
    tried: list[int] = field(default_factory=lambda: [0] * _PARTS)

    def look(self, k: int, before: Tensor, after: Tensor) -> None:
        """One transition at temperature number k, from 1 on."""
        part = (k - 1) * _PARTS // self.temperatures
        self.taken[part] += moved(before, after).sum().item()
        self.tried[part] += len(before)

    @property
    def shares(self) -> dict[int, float]:
        """The share that moved, by the number of the tenth."""
        return {i: self.taken[i] / self.tried[i] for i in range(_PARTS) if self.tried[i]}

    @property
    def least(self) -> float:
        """The smallest of them."""
        return min(self.shares.values())

    def said(self) -> str:
        """Where that is, and what it is."""
        part = min(self.shares, key=self.shares.__getitem__)
        share = f"only {100 * self.least:.2g} % of the chains' proposals were" if self.least else "no proposal was"
        return f"{share} accepted between beta {part / _PARTS:g} and {(part + 1) / _PARTS:g}"


def forward(
    path: Path[Any],
    chains: int,
    temperatures: int,
    key: Key,
    engine: Engine = EAGER,
    moves: Moves | None = None,
) -> tuple[Tensor, Tensor]:
    """log w (chains,) float64 with E[w] = Z / Z_base, and end positions.

    x_0 ~ p_0; for k = 1..K: log w += log f_k(x_{k-1}) - log f_{k-1}(x_{k-1}), x_k ~ T_k(. | x_{k-1}).
    """
    order, ends, weights = range(1, temperatures + 1), [], []
    for part in engine.slices(chains):
        state = path.observe(path.start(part.stop - part.start, key.fold("start").after(part.start)))
        log_w = torch.zeros(len(state.x), dtype=torch.float64, device=state.x.device)
        state, log_w = _walk(path, (state, log_w), order, _up, key.after(part.start), engine, moves)
        ends.append(state.x)
        weights.append(log_w)
    return torch.cat(weights), torch.cat(ends)


def reverse_log_p(
    path: Path[Any], x: Tensor, chains: int, temperatures: int, key: Key, engine: Engine = EAGER
) -> Tensor:
    """Lower bound (rows,) float64 on log p_annealed(x), in expectation: the log mean weight of `chains` reverse chains.

    x_K = x; for k = K..1: x_{k-1} ~ T~_k(. | x_k), log w += log f_{k-1}(x_{k-1}) - log f_k(x_{k-1}); and
    p_annealed(x) = E[w] f_K(x) / Z_base, where log f_K(x) - log Z_base is found from the path itself at x.
    """
    rows = x.repeat_interleave(chains, dim=0)
    log_w = _downwards(path, rows, temperatures, key, engine, lambda state: path.log_target(state) - path.log_z_base)
    return log_mean_exp(log_w.reshape(len(x), chains))


def backward(path: Path[Any], x: Tensor, temperatures: int, key: Key, engine: Engine = EAGER) -> Tensor:
    """log w (chains,) float64 of chains that go down from x (chains, *shape): E[w] = Z_base / Z if x are draws of p.

    log Z_base - log mean w then errs upwards, as log Z_base + log mean w of `forward` errs downwards (Grosse,
    Ghahramani, Adams 2015, section 4.1).
    """
    return _downwards(path, x, temperatures, key, engine, _nothing)


def _nothing(state: Any) -> Tensor:
    """log w = 0."""
    return torch.zeros(len(state.x), dtype=torch.float64, device=state.x.device)


def _downwards(
    path: Path[Any], x: Tensor, temperatures: int, key: Key, engine: Engine, begin: Callable[[Any], Tensor]
) -> Tensor:
    """log w (chains,) of chains from x (chains, *shape) that have the log w of `begin` there."""
    weights = []
    for part in engine.slices(len(x)):
        state = path.observe(x[part])
        weighted = state, begin(state)
        _, log_w = _walk(path, weighted, range(temperatures, 0, -1), _down, key.after(part.start), engine)
        weights.append(log_w)
    return torch.cat(weights)


Weighted = tuple[Any, Tensor]  # a path's state, and log w


def _up(path: Path[Any], weighted: Weighted, beta: Beta, below: Beta, key: AnyKey) -> Weighted:
    state, log_w = weighted
    log_w = log_w + path.log_ratio(state, beta, below)
    return path.move(state, beta, key), log_w


def _down(path: Path[Any], weighted: Weighted, beta: Beta, below: Beta, key: AnyKey) -> Weighted:
    state, log_w = weighted
    state = path.move_back(state, beta, key)
    return state, log_w + path.log_ratio(state, below, beta)


def _walk(
    path: Path[Any],
    weighted: Weighted,
    order: range,
    stage: Callable[..., Weighted],
    key: Key,
    engine: Engine,
    moves: Moves | None = None,
) -> Weighted:
    """One `stage`, a compiled region where that is possible, at each temperature k = K beta_k of `order`."""
    engine = engine if path.compiles else engine.uncompiled()
    region, x, last = engine.repeated(stage), weighted[0].x, max(order)
    betas = (torch.arange(last + 1, dtype=torch.float64) / last).to(x).unbind()
    keys = engine.keys([key.fold(k) for k in order], x.device)
    way = "annealing: temperature" if order.step > 0 else "annealing back: temperature"
    for k, each in followed([*zip(order, keys, strict=True)], way):
        before = weighted[0].x
        weighted = region(path, weighted, betas[k], betas[k - 1], each)
        if moves is not None:
            moves.look(k, before, weighted[0].x)
    return weighted
