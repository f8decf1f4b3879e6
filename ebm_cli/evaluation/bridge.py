"""Bennett's acceptance ratio over a ladder of temperatures: log Z from chains at every rung."""

import math
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.device.engine import Engine, Work
from ebm_cli.evaluation.ais import interval, likelihood, unnormalised
from ebm_cli.evaluation.annealing import annealing_path, without_part
from ebm_cli.evaluation.base import Evaluation, Result, Subject, likelihoods, without_density
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.invariance import refusal_to_anneal
from ebm_cli.evaluation.table import Numbers, likelihood_lines
from ebm_cli.log_z.paths import Beta, Path
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.standstill import moved
from ebm_cli.terminal import followed

_HALVINGS = 60  # of the interval that holds a root, to the last bit of a float64; each may follow as many short steps
_CLOSE = 1e-13  # relative to 1 + |D|: the last step towards a root
_OVERLAP = 0.03
_ALIVE, _AWAKE = 0.1, 0.5  # shares of chains that must move at every rung for an estimate, and for a good one
_BEHIND = 0.5  # nats: beyond, what is found to first order is no figure
_SLOWER = "lower sampler.step_size, take another sampler, or raise evaluation.bridge.steps"


@register("evaluation", "bridge")
class Bridge(Evaluation):
    """log Z = log Z_base + sum_r log Z_r / Z_(r-1) + lag over `rungs` equal steps in beta from independent units on.

    With x_1 ... x_n ~ p_(r-1), y_1 ... y_n ~ p_r and u(x) = log f_r(x) - log f_(r-1)(x), each ratio D solves
    sum_i sigmoid(u(x_i) - D) = sum_i sigmoid(D - u(y_i)) (Bennett 1976, eq. 12a with equal numbers of draws). `chains`
    chains walk up the ladder, `steps` transitions at every rung. Where they do not forget there what they were at the
    rungs below, the ratios come out low: `bridge/lag` is by how much, nats, to first order, and is added. The 95 %
    interval is by bootstrap over chains, and as wide as if half the lag were an error beside it; above half a nat
    there is no estimate. `bridge/overlap` is the least mean of
    4 sigmoid(u - D) sigmoid(D - u) over draws of neighbours: 1 where these are alike, 0 where nothing is common; where
    it amounts to less than one draw there is none either, nor where nine of ten chains stand still at a rung. A mode
    of the model that no chain ever comes to is missed.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=2)]
    rungs: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=2)]
    base_mix: Annotated[float, Field(ge=0, le=1)]
    bootstrap: Annotated[int, Field(ge=100)]

    moves_anywhere = True

    standing = 30
    reports = likelihoods("bridge", "log_z", "log_z_low", "log_z_high", "bits_per_dimension", "overlap", "lag")

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The log-likelihood and log Z."""
        return likelihood_lines(values, "bridge", split)

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Every rung must be invariant under its moves."""
        return refusal_to_anneal(model, sampler)

    @property
    @override
    def work(self) -> Work:
        return Work(self.chains * self.rungs * self.steps, self.rungs * self.steps)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`bridge/...`."""
        log_f = unnormalised(subject.model, subject.held_out)
        lost = without_density(log_f)
        if lost:
            return Result({}, warnings=(f"{lost}: no figures are given",))
        path = annealing_path(subject, self.base_mix)
        key = subject.key.fold("bridge")
        seen = climbed(path, (self.chains, self.rungs, self.steps), key, subject.device.engine)
        still = standing(seen.alive) if subject.sampler.inner.rejects else None
        unusable = self._unusable(seen, still)
        if unusable is not None:
            return unusable
        ratios, behind = bennett(seen.up, seen.down), lag(seen)
        overlap = least_overlap(seen.up, seen.down, ratios)
        log_z = path.log_z_base + ratios.sum().item() + behind
        drawn = self._resampled(seen, key.fold("bootstrap")) + path.log_z_base
        metrics = {
            **likelihood("bridge", subject.held_out, log_f, log_z),
            **above_independent("bridge", subject, subject.held_out, log_f - log_z),
            **widened(interval("bridge", drawn), log_z, behind),
            **{"bridge/overlap": overlap, "bridge/lag": behind},
        }
        warnings = [still] if still is not None and seen.alive.min() < _AWAKE else []
        warnings += [_apart(overlap)] * (overlap < _OVERLAP)
        by_row = {"bridge/log_likelihood": log_f - log_z}
        return Result(metrics, warnings=tuple(warnings), said=without_part(subject), by_row=by_row)

    def _unusable(self, seen: "Climb", still: str | None) -> Result | None:
        """What there is to say where log Z cannot be found, or None."""
        if still is not None and seen.alive.min() < _ALIVE:
            return Result({}, warnings=(f"{still}, so there is no estimate; {_SLOWER}",))
        if not all(u.isfinite().all() for u in (seen.up, seen.means, seen.down)):
            return Result({}, warnings=("chains come to where the model has no density: no figures are given",))
        overlap, behind = least_overlap(seen.up, seen.down, bennett(seen.up, seen.down)), lag(seen)
        if 2 * self.chains * overlap < 1:
            return Result({"bridge/overlap": overlap}, warnings=(_apart(overlap) + ": no other figures are given",))
        if behind > _BEHIND:
            return Result({"bridge/overlap": overlap, "bridge/lag": behind}, warnings=(_late(behind),))
        return None

    def _resampled(self, seen: "Climb", key: Key) -> Tensor:
        """log Z / Z_base of chains drawn with replacement, (bootstrap,)."""
        index = rng.integers(self.chains, (self.bootstrap, self.chains), key)
        again = (Climb(seen.up[:, i], seen.means[:, i], seen.down[:, i], seen.alive) for i in index)
        return torch.stack([bennett(some.up, some.down).sum() + lag(some) for some in again])


class Climb(NamedTuple):
    """What chains that walk up the ladder say of it, u (rungs, chains) float64 on the CPU.

    `up` is of draws from the lower end of each step, `means` of their moves at its upper end, averaged over the second
    half of them, and `down` of the last of these. `alive` (rungs,) is the share of chains that moved.
    """

    up: Tensor
    means: Tensor
    down: Tensor
    alive: Tensor


def _apart(overlap: float) -> str:
    return f"neighbouring rungs have little in common (overlap {overlap:.2g}); raise evaluation.bridge.rungs"


def _late(behind: float) -> str:
    return (
        f"chains lag behind the rungs, so log Z would come out too low, by about {behind:.2g} nats: no other figures "
        "are given; raise evaluation.bridge.steps or rungs, or take another sampler or sampler.step_size"
    )


def lag(seen: Climb) -> float:
    """Nats by which Bennett's ratios are too low since chains remember, to first order: sum_(i=1..R) c_i S_i.

    S_i = sum_(j<i) Cov(U_i, U_j) over chains, U_0 being u of the draws from the base and U_i the mean u at rung i;
    c_i = 1, but c_R = 1/2. Chains at rung i are draws from p_i with weights exp(w), w = sum_(j<i) u_(j+1)(x_j), as
    those of AIS are (Neal 2001), so that E_i[u] = E[u exp(w)] / E[exp(w)] = E[u] + Cov(u, w) + ..., and each ratio is
    about the mean of E_(r-1)[u] and E_r[u]. It is 0 where each rung is long enough for chains to forget the one before.
    Averages within a rung have the same slow part as their last draw, and far less noise.
    """
    u = torch.cat([seen.up[:1], seen.means])
    u = u - u.mean(1, keepdim=True)
    past = u.cumsum(0) - u
    each = (u * past).sum(1) / (u.shape[1] - 1)
    return (each.sum() - each[-1] / 2).item()


def widened(found: dict[str, float], log_z: float, behind: float) -> dict[str, float]:
    """The limits of an interval around log Z at sqrt(d^2 + (lag / 2)^2) for each distance d: the lag is not exact."""
    return {
        name: log_z + math.copysign(math.hypot(limit - log_z, behind / 2), limit - log_z)
        for name, limit in found.items()
    }


def standing(alive: Tensor) -> str:
    """On the rung where the fewest chains moved at all, given their shares (rungs,)."""
    rung = int(alive.argmin()) + 1
    return (
        f"{100 * (1 - alive.min().item()):.3g} % of the chains stood still in all steps of rung {rung} of {len(alive)}"
    )


def climbed(path: Path[Any], size: tuple[int, int, int], key: Key, engine: Engine) -> Climb:
    """Up the ladder with so many chains, rungs and transitions at every rung."""
    chains, rungs, steps = size
    engine = engine if path.compiles else engine.uncompiled()
    move = engine.repeated(_move)
    state = path.observe(path.start(chains, key.fold("start")))
    betas = (torch.arange(rungs + 1, dtype=torch.float64) / rungs).to(state.x).unbind()
    up, means, down, alive = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    for rung in followed(range(1, rungs + 1), "bridge: rung"):
        began = state.x
        up.append(path.log_ratio(state, betas[rung], betas[rung - 1]))
        late = list[Tensor]()
        for step, each in enumerate(engine.keys([key.fold(rung, step) for step in range(steps)], state.x.device)):
            state = move(path, state, betas[rung], each)
            if step >= steps // 2:
                late.append(path.log_ratio(state, betas[rung], betas[rung - 1]))
        down.append(late[-1])
        means.append(torch.stack(late).double().mean(0))
        alive.append(moved(began, state.x).double().mean())
    u = [torch.stack(looks).double().cpu() for looks in (up, means, down)]
    return Climb(u[0], u[1], u[2], torch.stack(alive).cpu())


def _move(path: Path[Any], state: Any, beta: Beta, key: AnyKey) -> Any:
    return path.move(state, beta, key)


def bennett(up: Tensor, down: Tensor) -> Tensor:
    """D of every step, (rungs,), from u of draws below and above it, (rungs, n) each, by Newton's method.

    sum sigmoid(u(x) - D) falls with D and sum sigmoid(D - u(y)) rises. The interval that holds D is halved instead
    where a step would leave it, or is not half as long as the last.
    """
    both = torch.cat([up, down], 1)
    low, high = both.amin(1) - 1, both.amax(1) + 1
    at, leap = (low + high) / 2, high - low
    for _ in range(_HALVINGS**2):
        below, above = (up - at[:, None]).sigmoid(), (at[:, None] - down).sigmoid()
        excess = below.sum(1) - above.sum(1)
        low, high = torch.where(excess > 0, at, low), torch.where(excess > 0, high, at)
        step = excess / ((below - below.square()).sum(1) + (above - above.square()).sum(1))
        least = _CLOSE * (1 + at.abs())
        good = (at + step >= low) & (at + step <= high) & (step.abs() <= (leap / 2).maximum(least))  # and a number
        step = torch.where(good, step, (low + high) / 2 - at)
        at, leap = at + step, step.abs()
        if (leap <= least).all():
            break
    return at


def least_overlap(up: Tensor, down: Tensor, ratios: Tensor) -> float:
    """The least over the steps of the mean of 4 sigmoid(u - D) sigmoid(D - u)."""
    off = torch.cat([up, down], 1) - ratios[:, None]
    return (4 * off.sigmoid() * (-off).sigmoid()).mean(1).min().item()
