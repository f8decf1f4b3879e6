"""Whether parallel tempering works: how often neighbours swap, and whether replicas travel."""

from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.device.engine import Work
from ebm_cli.evaluation import round_trips, tempered
from ebm_cli.evaluation.base import Evaluation, Picture, Result, Subject, likelihoods, starts
from ebm_cli.evaluation.laid import more
from ebm_cli.evaluation.table import Numbers, likelihood_lines
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler import ladder
from ebm_cli.sampler.adaptation import adapted, adapts
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.parallel_tempering import ParallelTempering
from ebm_cli.sampler.trajectory import Laid, TrajectoryTempering

_REFUSE = 0.75  # share of swaps beyond which temperatures are too few for their barrier to be known
_ALIVE = 0.15  # of the best rate of round trips
_LOOKS = 200  # at the energies of all replicas, for log Z
_ENOUGH = 40  # round trips that must be expected before their absence says something
_WORKS = "tempering works: neighbours swap, and replicas travel between the hottest temperature and beta = 1"
_TRAVEL = "tempering works: neighbours exchange, and replicas travel between independent units and the model"
_TOO_MANY = 2  # times as many temperatures as are wanted


Replicas = ParallelTempering | Laid


class Watched(NamedTuple):
    """The sampler as it was warmed or laid, which swaps it took, (steps, chains, pairs), and what its replicas say of
    log Z."""

    sampler: Replicas
    swaps: NDArray[np.bool_]
    ratios: tempered.Ratios | None

    @property
    def rungs(self) -> str:
        """What its replicas are at, in a word."""
        return "temperatures" if isinstance(self.sampler, ParallelTempering) else "rungs"

    @property
    def rejected(self) -> NDArray[np.float64]:
        """Share of refused swaps of each pair, (pairs,), the hottest first."""
        return 1 - self.swaps.mean((0, 1))


@register("evaluation", "tempering")
class Tempering(Evaluation):
    """Refused swaps of neighbouring temperatures, their sum, and round trips of replicas, of the run's own sampler.

    With r_k the share of swaps of the k-th pair that were refused, Lambda = sum_k r_k is the barrier between the
    hottest temperature and beta = 1: about the same for any number of temperatures that is large enough, and
    ceil(2.1 Lambda) + 1 of them are wanted (Syed et al. 2021). A round trip is the way of a replica from beta = 1 to
    the hottest temperature and back; `tempering/efficiency` is their number as a share of what it would be if the
    kernel forgot all between two rounds of swaps, 1 / (2 + 2 sum_k r_k / (1 - r_k)) in a round. A sampler with
    `ladder` adaptive, or a kernel that adapts, does so in the warm-up.

    Of bits, spins and categories the replicas have log Z too: `tempered.Ratios`.

    Of trajectory tempering the same, with rungs among the checkpoints in the place of temperatures; independent units
    are the hottest.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=1)]
    warmup: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]

    moves_anywhere = True
    asks_for_energy = False

    standing = 52
    reports = tuple(
        f"tempering/{name}"
        for name in ("barrier", "temperatures", "rungs", "rejection_max", "round_trips", "efficiency")
    ) + likelihoods("tempering", "log_z", "log_z_low", "log_z_high", "bits_per_dimension", "overlap", "lag")

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The barrier, round trips, and the log-likelihood and log Z if there are any."""
        return cls._travels(values) | likelihood_lines(values, "tempering", split)

    @classmethod
    def _travels(cls, values: Numbers) -> dict[str, str]:
        kind = "rungs" if "tempering/rungs" in values else "temperatures"
        if not values.has("tempering/barrier", f"tempering/{kind}", "tempering/rejection_max"):
            return {}
        barrier, count, most = (values[f"tempering/{name}"] for name in ("barrier", kind, "rejection_max"))
        trips = ""
        if values.has("tempering/round_trips", "tempering/efficiency"):
            share = 100 * values["tempering/efficiency"]
            trips = f", {values['tempering/round_trips']:.3g} round trips in 1000 steps ({share:.3g} % of the best)"
        return {"tempering": f"barrier {barrier:.2f}, {count:.0f} {kind} refuse up to {100 * most:.3g} %{trips}"}

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Chains must have replicas."""
        if isinstance(sampler, ParallelTempering | TrajectoryTempering):
            return None
        return "it looks at temperatures, of which this sampler has none; add sampler=parallel_tempering"

    @property
    @override
    def work(self) -> Work:
        return Work(self.chains * (self.warmup + self.steps), self.warmup + self.steps)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`tempering/...`, a picture, and each temperature in tempering.csv."""
        seen = watched(subject, (self.chains, self.warmup, self.steps))
        rejected, trips = seen.rejected, round_trips.counted(seen.swaps)
        best = round_trips.best_rate(rejected)
        per_chain = float(trips.made.mean())
        metrics = {
            "tempering/barrier": float(rejected.sum()),
            f"tempering/{seen.rungs}": float(seen.sampler.replicas),
            "tempering/rejection_max": float(rejected.max()),
            "tempering/round_trips": 1000 * per_chain / self.steps,
        } | ({"tempering/efficiency": per_chain / trips.rounds / best} if best else {})
        expected = best * trips.rounds * self.chains
        efficiency = metrics.get("tempering/efficiency")
        if isinstance(seen.sampler, ParallelTempering):
            wrong, spared, works = doubts(rejected, efficiency, expected), spare(rejected), _WORKS
        else:
            wrong, spared, works = doubts_of_rungs(seen, efficiency, expected), [], _TRAVEL
        wrong = wrong or too_few(expected, int(trips.made.sum()), seen.rungs)
        said = spared or ([] if wrong else [works])
        found = tempered.found(seen.ratios, subject) if seen.ratios else Result({})
        warnings, files = (*wrong, *found.warnings), {"tempering.csv": _listed(seen)}
        figures = {"tempering": figure(seen)}
        return Result({**metrics, **found.metrics}, figures, warnings, files, tuple(said), by_row=found.by_row)


def watched(subject: Subject, size: tuple[int, int, int]) -> Watched:
    """So many chains, half of them from held-out rows and half from noise, through the warm-up and the steps."""
    chains, warmup, steps = size
    model, key = full_arithmetic(subject.model, subject.device), subject.key.fold("tempering")
    data = starts(subject.held_out, (chains + 1) // 2, key)
    x = torch.cat([data, model.space.noise(chains // 2, key.fold("noise"), data.device)])
    sampler = cast(Replicas, subject.sampler)
    if adapts(sampler):
        warm, x = adapted(sampler, model, x, warmup, key.fold("adapt"))
        sampler = cast(ParallelTempering, warm)
    else:
        x = sampler.spread(x, model.space)
        for i in range(warmup):
            x, _, _ = sampler.moved(model, x, key.fold("warmup", i))
    taken, looks = list[Tensor](), list[tempered.Look]()
    for i in range(steps):
        x, _, swaps = sampler.moved(model, x, key.fold("steps", i))
        taken.append(torch.stack([swaps[f"swap_{pair}"] for pair in range(1, sampler.replicas)], 1) > 0)
        if isinstance(sampler, ParallelTempering) and tempered.applies(model) and i % max(1, steps // _LOOKS) == 0:
            looks.append(tempered.look(sampler, model, x, key.fold("free", i)))
    return Watched(sampler, torch.stack(taken).cpu().numpy(), tempered.ratios(looks) if looks else None)


def doubts(rejected: NDArray[np.float64], efficiency: float | None, expected: float) -> list[str]:
    """What is wrong with the temperatures or the kernel, in a sentence, and what to do."""
    worst = int(rejected.argmax())
    if rejected[worst] > _REFUSE:
        return [
            f"{len(rejected) + 1} temperatures are too few: neighbours {worst + 1} and {worst + 2} refuse "
            f"{100 * rejected[worst]:.3g} % of their swaps; sampler.ladder=adaptive sampler.temperatures=auto finds "
            "how many it takes, and where"
        ]
    if efficiency is not None and expected >= _ENOUGH and efficiency < _ALIVE:
        return [
            f"replicas make {100 * efficiency:.2g} % of the round trips that such swaps allow: the kernel does not "
            "forget between them; take another sampler.kernel, or sampler.swaps=alternate"
        ]
    return []


def doubts_of_rungs(seen: Watched, efficiency: float | None, expected: float) -> list[str]:
    """The same of trajectory tempering."""
    assert isinstance(seen.sampler, Laid)
    worst, refused, names = int(seen.rejected.argmax()), seen.rejected.max(), seen.sampler.names
    if refused > _REFUSE:
        return [
            f"{names[worst]} and {names[worst + 1]} refuse {100 * refused:.3g} % of their exchanges; take a "
            f"higher sampler.acceptance, or {more(seen.sampler.kept)}"
        ]
    if efficiency is not None and expected >= _ENOUGH and efficiency < _ALIVE:
        return [
            f"replicas make {100 * efficiency:.2g} % of the round trips that such exchanges allow: the kernel does not "
            "forget between them; take more sampler.transitions"
        ]
    return []


def too_few(expected: float, made: int, rungs: str) -> list[str]:
    """A sentence where so many round trips are expected, at best, that those made say nothing of the kernel."""
    if expected >= _ENOUGH:
        return []
    return [
        f"too short to tell whether replicas travel: {made} round trips were made, and kernels that forget would make "
        f"{expected:.2g} between these {rungs}, where it takes {_ENOUGH}; take more evaluation.tempering.steps"
    ]


def spare(rejected: NDArray[np.float64]) -> list[str]:
    """A sentence where far fewer temperatures would do."""
    count, due = len(rejected) + 1, ladder.wanted(float(rejected.sum()))
    if count < _TOO_MANY * due:
        return []
    return [f"{due} temperatures would do for this barrier, there are {count}: sampler.temperatures={due}"]


def _listed(seen: Watched) -> str:
    """A line for each temperature: beta, its step size if it has one, and how often it refuses the next colder one."""
    refused = [*(f"{share:.6g}" for share in seen.rejected), ""]
    if isinstance(seen.sampler, Laid):
        lines = [f"{name},{share}" for name, share in zip(seen.sampler.names, refused, strict=True)]
        return "\n".join(["rung,rejected", *lines]) + "\n"
    betas = _betas(seen)
    sizes = [f"{size:.6g}" for size in seen.sampler.step_sizes or ()] or [""] * len(betas)
    lines = [f"{beta:.8g},{size},{share}" for beta, size, share in zip(betas, sizes, refused, strict=True)]
    return "\n".join(["beta,step_size,rejected", *lines]) + "\n"


def _betas(seen: Watched) -> list[float]:
    assert isinstance(seen.sampler, ParallelTempering)
    found: list[float] = seen.sampler.betas(torch.zeros((), dtype=torch.float64)).tolist()
    return found


def figure(seen: Watched) -> Picture:
    """Refused swaps of each pair between its temperatures, or rungs, and the barrier as it grows to the model."""
    rejected, hot = seen.rejected, isinstance(seen.sampler, ParallelTempering)
    at, name, scale = (
        (np.array(_betas(seen)), "beta", "log") if hot else (np.arange(len(rejected) + 1), "rung", "linear")
    )
    with picture.axes(1, 2) as drawing:
        left, right = drawing.at[0]
        left.bar(at[:-1], rejected, width=np.diff(at), align="edge", edgecolor="white")
        left.axhline(_REFUSE, color="tab:red", linestyle=":", label=f"too few {seen.rungs}")
        left.set(xlabel=name, ylabel="share of refused swaps", xscale=scale, ylim=(0, 1))
        left.legend(fontsize=8)
        right.plot(at, ladder.barriers(rejected.tolist()), marker="o", markersize=3)
        right.set(xlabel=name, ylabel="barrier", xscale=scale)
    return drawing.pixels
