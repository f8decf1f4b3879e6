"""Bennett's acceptance ratio over a ladder of temperatures: log Z from chains at every rung."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.engine import Engine, Work
from ebm_cli.evaluation.ais import interval, likelihood, not_invariant, unnormalised
from ebm_cli.evaluation.annealing import annealing_path
from ebm_cli.evaluation.base import Evaluation, Result, Subject, without_density
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.model.base import EnergyModel
from ebm_cli.path import Path
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.standstill import moved

_HALVINGS = 60  # of the interval that holds a root: to the last bit of a float64
_OVERLAP = 0.03
_ALIVE, _AWAKE = 0.1, 0.5  # shares of chains that must move at every rung for an estimate, and for a good one
_SLOWER = "lower sampler.step_size, take another sampler, or raise evaluation.bridge.steps"
_SURE, _NATS = 4, 0.05  # standard errors, and nats, of a drift that is worth a word


@register("evaluation", "bridge")
class Bridge(Evaluation):
    """log Z = log Z_base + sum_r log Z_r / Z_(r-1) over `rungs` equal steps in beta from independent units on.

    With x_1 ... x_n ~ p_(r-1), y_1 ... y_n ~ p_r and u(x) = log f_r(x) - log f_(r-1)(x), each ratio D solves
    sum_i sigmoid(u(x_i) - D) = sum_i sigmoid(D - u(y_i)) (Bennett 1976, eq. 12a with equal numbers of draws). `chains`
    chains walk up the ladder, `steps` transitions at every rung; unlike AIS it needs them to be in equilibrium there,
    and then errs less. The 95 % interval is by bootstrap over chains. `bridge/overlap` is the least mean of
    4 sigmoid(u - D) sigmoid(D - u) over draws of neighbours: 1 where these are alike, 0 where nothing is common; where
    it amounts to less than one draw it is the only figure. `bridge/drift` is the mean change of sum_r u(y) over the
    second halves of the steps, 0 in equilibrium, and of chains that stand still: where nine of ten do at a rung
    there is no estimate.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=2)]
    rungs: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=2)]
    base_mix: Annotated[float, Field(ge=0, le=1)]
    bootstrap: Annotated[int, Field(ge=100)]

    moves_anywhere = True

    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Every rung must be invariant under its moves."""
        return not_invariant(sampler)

    @property
    def work(self) -> Work:
        """Up the ladder."""
        return Work(self.chains * self.rungs * self.steps, self.rungs * self.steps)

    @torch.no_grad()
    def evaluate(self, subject: Subject) -> Result:
        """`bridge/...`."""
        log_f = unnormalised(subject.model, subject.held_out)
        lost = without_density(log_f)
        if lost:
            return Result({}, warnings=(f"{lost}: no figures are given",))
        path = annealing_path(subject, self.base_mix)
        key = subject.key.fold("bridge")
        size = (self.chains, self.rungs, self.steps)
        up, halfway, down, alive = climbed(path, size, key, subject.device.engine)
        still = standing(alive) if subject.sampler.inner.rejects else None
        if still is not None and alive.min() < _ALIVE:
            return Result({}, warnings=(f"{still}, so there is no estimate; {_SLOWER}",))
        if not (up.isfinite().all() and down.isfinite().all()):
            return Result({}, warnings=("chains come to where the model has no density: no figures are given",))
        ratios = bennett(up, down)
        overlap = least_overlap(up, down, ratios)
        if 2 * self.chains * overlap < 1:
            return Result({"bridge/overlap": overlap}, warnings=(_apart(overlap) + ": no other figures are given",))
        log_z = path.log_z_base + ratios.sum().item()
        index = rng.integers(self.chains, (self.bootstrap, self.chains), key.fold("bootstrap"))
        drawn = torch.stack([bennett(up[:, i], down[:, i]).sum() for i in index]) + path.log_z_base
        metrics = {
            **likelihood("bridge", subject.model.space, log_f, log_z),
            **above_independent("bridge", subject, subject.held_out, log_f - log_z),
            **interval("bridge", drawn),
            "bridge/overlap": overlap,
        }
        drift, error = drifted(halfway, down)
        warnings = [still] if still is not None and alive.min() < _AWAKE else []
        warnings += [_apart(overlap)] * (overlap < _OVERLAP)
        warnings += [
            f"chains still drift in the second half of the steps of a rung, by {drift:.2g} ± {error:.1g} nats over the "
            "ladder, so log Z is off by more than its interval; raise evaluation.bridge.steps or rungs"
        ] * (abs(drift) > _SURE * error and abs(drift) > _NATS)
        by_row = {"bridge/log_likelihood": log_f - log_z}
        return Result(metrics | {"bridge/drift": drift}, warnings=tuple(warnings), by_row=by_row)


def _apart(overlap: float) -> str:
    return f"neighbouring rungs have little in common (overlap {overlap:.2g}); raise evaluation.bridge.rungs"


def drifted(halfway: Tensor, down: Tensor) -> tuple[float, float]:
    """Mean over chains of sum_r (u at the end of the moves at rung r - u halfway), and its standard error, nats.

    In equilibrium its mean is 0.
    """
    moved = (down - halfway).sum(0)
    return moved.mean().item(), (moved.std() / len(moved) ** 0.5).item()


def standing(alive: Tensor) -> str:
    """On the rung where the fewest chains moved at all, given their shares (rungs,)."""
    rung = int(alive.argmin()) + 1
    return (
        f"{100 * (1 - alive.min().item()):.3g} % of the chains stood still in all steps of rung {rung} of {len(alive)}"
    )


def climbed(
    path: Path[Any], size: tuple[int, int, int], key: Key, engine: Engine
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u at each step of the ladder, (rungs, chains) float64 on the CPU: of draws from its lower end, then of their
    moves at its upper end, halfway and when they are over. Last the share of chains that moved at each rung, (rungs,).
    """
    chains, rungs, steps = size
    engine = engine if path.compiles else engine.uncompiled()
    move = engine.region(path.move)
    state = path.observe(path.start(chains, key.fold("start")))
    betas = (torch.arange(rungs + 1, dtype=torch.float64) / rungs).to(state.x).unbind()
    up, halfway, down, alive = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    for rung in range(1, rungs + 1):
        began = state.x
        up.append(path.log_ratio(state, betas[rung], betas[rung - 1]))
        for looks, first, last in ((halfway, 0, steps // 2), (down, steps // 2, steps)):
            for each in engine.keys([key.fold(rung, step) for step in range(first, last)], state.x.device):
                state = move(state, betas[rung], each)
            looks.append(path.log_ratio(state, betas[rung], betas[rung - 1]))
        alive.append(moved(began, state.x).double().mean())
    u = [torch.stack(looks).double().cpu() for looks in (up, halfway, down)]
    return u[0], u[1], u[2], torch.stack(alive).cpu()


def bennett(up: Tensor, down: Tensor) -> Tensor:
    """D of every step, (rungs,), from u of draws below and above it, (rungs, n) each, by bisection.

    sum sigmoid(u(x) - D) falls with D and sum sigmoid(D - u(y)) rises.
    """
    both = torch.cat([up, down], 1)
    low, high = both.amin(1) - 1, both.amax(1) + 1
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = (up - middle[:, None]).sigmoid().sum(1) > (middle[:, None] - down).sigmoid().sum(1)
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return (low + high) / 2


def least_overlap(up: Tensor, down: Tensor, ratios: Tensor) -> float:
    """The least over the steps of the mean of 4 sigmoid(u - D) sigmoid(D - u)."""
    off = torch.cat([up, down], 1) - ratios[:, None]
    return (4 * off.sigmoid() * (-off).sigmoid()).mean(1).min().item()
