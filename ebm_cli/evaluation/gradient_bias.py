"""How far the gradients that chains give are from the likelihood's: angle and share, for each parameter."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.dataset.base import Data, Split
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Evaluation, Result, Subject, starts
from ebm_cli.evaluation.gradients import Bias, Interval, Products, compared
from ebm_cli.evaluation.invariance import refusal_to_anneal
from ebm_cli.evaluation.table import Numbers, Table, short
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.adaptation import adapted, adapts
from ebm_cli.sampler.base import Sampler, run, shown
from ebm_cli.sampler.coupled import Take, Window, coupled
from ebm_cli.space import Discrete
from ebm_cli.terminal import followed

_GROUPS = 10  # of chains, by which errors are found
_PIECE = 10_000  # rows whose energies are differentiated at once
_WARMUP = 500  # steps of a sampler that adapts
_PILOT, _LATER = 100, 2  # other pairs, and how many times later than the last of them k is, and m later than k
_GUESS = 1000  # steps that pairs take, where nothing is known of them
_OFF = 45.0  # degrees beyond which the run's own chains are said to lead elsewhere
Means = dict[str, Tensor]  # by the name of a parameter: mean of dE/dtheta for each group, (groups, numbers) float64


class Line(NamedTuple):
    """One line of the file: where the negatives come from, of which parameter or of all."""

    source: str
    parameter: str
    bias: Bias


@register("evaluation", "gradient_bias")
class GradientBias(Evaluation):
    """The gradient E_data[dE] - E_chains[dE] of several kinds of chains beside that of the likelihood.

    E_p[dE] is estimated without bias by pairs of coupled chains (`sampler/coupled.py`; Qiu, Zhang & Wang, ICLR 2020)
    of the run's own sampler from rows of the training data: the mean over 20 steps from k to m, corrected until each
    pair has met. Beside it are the run's own chains as they are (`chains`), and for each number n of `steps` chains n
    steps from data (`cd_n`: contrastive divergence) and from noise (`short_run_n`). `angle` is between both gradients,
    `difference` |g - g*| and `share` |g - g*| / |g*|, 0 for the likelihood's own, over all parameters together;
    gradient_bias.csv has them for each. Where g* is not told from 0 with so many chains, as at the end of training,
    there are differences alone.

    `k` auto is twice the step at which the last of 100 other pairs has met, and `m` auto 2 k: pairs that meet after
    k are corrected, which is right in the mean but noisy. Pairs start at different rows, so that this time tells of all
    modes of the data.
    """

    while_training: bool
    pairs: Annotated[int, Field(ge=2 * _GROUPS)]
    chains: Annotated[int, Field(ge=2 * _GROUPS)]
    steps: list[Annotated[int, Field(ge=1)]]
    k: Annotated[int, Field(ge=0)] | Literal["auto"]
    m: Annotated[int, Field(ge=0)] | Literal["auto"]
    max_steps: Annotated[int, Field(ge=1)]

    standing = 53

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """When pairs met, and the length of the likelihood's gradient."""
        if not values.has("gradient_bias/unmet", "gradient_bias/likelihood/size"):
            return {}
        values.leave("gradient_bias/")
        size, unmet = _shown(values, "likelihood/size"), values["gradient_bias/unmet"]
        found = {"likelihood's gradient": f"length {size} (95 % interval)"}
        if not values.has("gradient_bias/meeting_time", "gradient_bias/meeting_time_max"):
            return {"coupled chains": "none met", **found}
        mean, last = (values[f"gradient_bias/meeting_time{end}"] for end in ("", "_max"))
        lost = f", {100 * unmet:.3g} % did not" if unmet else ""
        return {"coupled chains": f"met after {mean:.1f} steps in the mean, the last after {last:.0f}{lost}", **found}

    @classmethod
    @override
    def tables(cls, values: Numbers) -> list[Table]:
        """Each kind of chains."""
        ending = "/difference"
        sources = [key.split("/")[-2] for key in values if key.startswith("gradient_bias/") and key.endswith(ending)]
        rows = {each: [_shown(values, f"{each}/{figure}") for figure in _FIGURES] for each in sources}
        heads = list(_FIGURES.values())
        return [Table("gradients of chains beside the likelihood's", heads, rows, _CAPTION)] if rows else []

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Chains that can meet, of a sampler that is exact; and k <= m <= max_steps."""
        if not isinstance(model.space, Discrete):
            return f"chains that take the same random numbers never meet in a {model.space.name} space"
        rising = [each for each in (self.k, self.m, self.max_steps) if each != "auto"]
        if rising != sorted(rising):
            return f"evaluation.gradient_bias.k = {self.k}, m = {self.m}: must rise to max_steps = {self.max_steps}"
        return refusal_to_anneal(model, sampler)

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Rows must be whole."""
        if data.train.missing is not None:
            return "some training rows have missing values, which the model draws anew at each visit"
        return None

    @property
    @override
    def work(self) -> Work:
        longest = sum(2 * steps for steps in self.steps) + 2 * (_GUESS if self.m == "auto" else self.m)
        return Work(max(self.chains, self.pairs) * longest, longest)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`gradient_bias/SOURCE/angle` and `share` with errors, when pairs met, and gradient_bias.csv."""
        audit = _Audit(subject, self)
        found: list[Line] = []
        for source, x in audit.sources():
            found += _lines(source, audit.data, means(subject.model, x), audit.true)
        all_of = {line.source: line.bias for line in found if line.parameter == "all"}
        size, own = next(iter(all_of.values())).size, len(shown(subject.store, subject.model.space))
        numbers = {**audit.meeting, **_numbers("likelihood/size", size), "run_chains": float(own)}
        for source, bias in all_of.items():
            for figure in _FIGURES:
                numbers |= _numbers(f"{source}/{figure}", getattr(bias, figure))
        metrics = {f"gradient_bias/{name}": value for name, value in numbers.items()}
        said = [] if any(bias.share for bias in all_of.values()) else [_CONVERGED]
        if "chains" in all_of and all_of["chains"].share and not all_of["chains"].angle:
            said.append(
                f"the run's own {own} chains are too few to tell their gradient; a run with more chains.count has it"
            )
        return Result(metrics, {}, tuple(_doubts(audit.meeting, all_of, self)), {_FILE: _listed(found)}, tuple(said))


class _Audit:
    """What all kinds of chains are held to: the mean of dE over the data, and without bias that over the model."""

    def __init__(self, subject: Subject, asked: GradientBias) -> None:
        self.subject, self.asked = subject, asked
        self.model, self.key = full_arithmetic(subject.model, subject.device), subject.key.fold("gradient_bias")
        self.train, self.sampler = subject.data.train, subject.sampler
        if adapts(self.sampler):
            begun = starts(self.train, asked.chains, self.key.fold("adapt"))
            self.sampler, _ = adapted(self.sampler, self.model, begun, _WARMUP, self.key.fold("adapt"))
        self.data = _mean_of_data(subject.model, self.train)
        self.true, self.meeting = self._unbiased()

    def _unbiased(self) -> tuple[Means, dict[str, float]]:
        total = _Sums(self.subject.model, self.asked.pairs)
        times = self._pairs(self.asked.pairs, self._window(), self.key, total.take)
        met = times[times > 0].double()
        found = {"unmet": 1 - len(met) / len(times)}
        if len(met):
            found |= {"meeting_time": met.mean().item(), "meeting_time_max": met.max().item()}
        return total.means(), found

    def _pairs(self, count: int, window: Window, key: Key, take: Take) -> Tensor:
        """When so many pairs meet that start at different rows."""
        x, y = (starts(self.train, count, key.fold("start", which)) for which in ("x", "y"))
        told = partial(followed, what="coupled chains: step")
        return coupled(self.sampler, self.model, (x, y), window, key.fold("pairs"), take, told)

    def _window(self) -> Window:
        """As asked, or by other pairs."""
        most = self.asked.max_steps
        longest = most if self.asked.m == "auto" else self.asked.m
        k = min(_LATER * self._last(), longest) if self.asked.k == "auto" else self.asked.k
        return Window(k, min(_LATER * k, most) if self.asked.m == "auto" else self.asked.m, most)

    def _last(self) -> int:
        """When the last of some other pairs met, or after how many steps they were given up."""
        most = self.asked.max_steps
        times = self._pairs(_PILOT, Window(0, 0, most), self.key.fold("pilot"), lambda *_: None)
        return int(torch.where(times > 0, times, most).max())

    def sources(self) -> Iterator[tuple[str, Tensor]]:
        """Negatives of each kind, (chains, *shape)."""
        store, space, count = shown(self.subject.store, self.model.space), self.model.space, self.asked.chains
        if len(store) >= 2 * _GROUPS:
            yield "chains", store.float()
        for steps in self.asked.steps:
            cd, short = (self.key.fold(name, steps) for name in ("cd", "short_run"))
            yield f"cd_{steps}", self._moved(starts(self.train, count, cd), steps, cd)
            noise = space.noise(count, short, self.train.stored.device)
            yield f"short_run_{steps}", self._moved(noise, steps, short)

    def _moved(self, x: Tensor, steps: int, key: Key) -> Tensor:
        """Chains so many steps after they were at x (chains, *shape)."""
        begun, engine = self.sampler.spread(x, self.model.space), self.subject.device.engine
        return run(self.sampler, self.model, begun, steps, key.fold("steps"), engine)[0]


class _Sums:
    """Sums over the points of each group of pairs of weight times dE/dtheta."""

    def __init__(self, model: EnergyModel, pairs: int) -> None:
        self.model, self.size = model, torch.bincount(torch.arange(pairs) % _GROUPS, minlength=_GROUPS)
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self.rows = 0
        self.sums: Means = {}

    def take(self, x: Tensor, weight: Tensor, which: Tensor) -> None:
        """Points of some pairs."""
        self.kept.append((x, weight, which % _GROUPS))
        self.rows += len(x)
        if self.rows >= _PIECE:
            self._add()

    def _add(self) -> None:
        if not self.kept:
            return
        x, weight, group = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        for number in range(_GROUPS):
            own = group == number
            if own.any():
                _, pull = self.model.energy_vjp(x[own])
                _accumulate(self.sums, pull(weight[own].to(x.dtype)), number)
        self.kept, self.rows = [], 0

    def means(self) -> Means:
        """Over the pairs of each group."""
        self._add()
        return {name: total / self.size[:, None].to(total) for name, total in self.sums.items()}


def _accumulate(sums: Means, gradient: dict[str, Tensor], group: int) -> None:
    for name, value in gradient.items():
        row = value.detach().flatten().double()
        sums.setdefault(name, torch.zeros(_GROUPS, len(row), dtype=torch.float64, device=row.device))[group] += row


def means(model: EnergyModel, x: Tensor) -> Means:
    """Of chains x (chains, *shape), dealt out to the groups in turn."""
    total = _Sums(model, len(x))
    for first in range(0, len(x), _PIECE):
        part = torch.arange(first, min(first + _PIECE, len(x)), device=x.device)
        total.take(x[part], torch.ones(len(part), device=x.device), part)
    return total.means()


def _mean_of_data(model: EnergyModel, train: Split) -> dict[str, Tensor]:
    """Of dE/dtheta over all training rows, as often as they are drawn, float64."""
    weights = torch.ones(len(train)) if train.weights is None else train.weights
    shares, first, total = (weights / weights.sum()).to(train.stored.device), 0, dict[str, Tensor]()
    for x in train.pieces(_PIECE):
        _, pull = model.energy_vjp(x)
        for name, value in pull(shares[first : first + len(x)].to(x.dtype)).items():
            total[name] = total.get(name, 0) + value.detach().flatten().double()
        first += len(x)
    return total


def _lines(source: str, data: dict[str, Tensor], chains: Means, true: Means) -> list[Line]:
    """Of each parameter, and of all together."""
    each = {}
    for name, mean in data.items():
        own, best = mean - chains[name], mean - true[name]
        each[name] = Products(*((a @ b.T).cpu().numpy() for a, b in ((own, own), (best, best), (own, best))))
    whole = Products(*(sum(grams) for grams in zip(*each.values(), strict=True)))
    return [Line(source, name, compared(products)) for name, products in {**each, "all": whole}.items()]


def _numbers(name: str, interval: Interval | None) -> dict[str, float]:
    if interval is None:
        return {}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _shown(values: Numbers, name: str) -> str:
    """A figure and its interval, or that there is none."""
    keys = [f"gradient_bias/{name}{end}" for end in ("", "_low", "_high")]
    if not values.has(*keys):
        return "not told"
    value, low, high = (short(values[key]) for key in keys)
    return f"{value} [{low}, {high}]" if values[keys[0]] else f"at most {high}"


def _doubts(meeting: dict[str, float], found: dict[str, Bias], asked: GradientBias) -> Iterator[str]:
    if meeting["unmet"]:
        yield (
            f"{100 * meeting['unmet']:.3g} % of the pairs of chains did not meet in {asked.max_steps} steps: what the "
            "gradients are held to is biased itself; take a sampler that mixes faster, or a higher "
            "evaluation.gradient_bias.max_steps"
        )
    angle = found["chains"].angle if "chains" in found else None
    if angle is not None and angle.low > _OFF:
        yield (
            f"the run's own chains lead {angle.value:.0f} degrees away from the likelihood's gradient; take more "
            "chains.steps, a sampler that mixes faster, or a lower optimizer.lr"
        )


def _listed(found: list[Line]) -> str:
    names = [f"{figure}{end}" for figure in _FIGURES for end in ("", "_low", "_high")]
    lines = [",".join(["source", "parameter", *names])]
    for source, parameter, bias in found:
        intervals = [getattr(bias, figure) or ("", "", "") for figure in _FIGURES]
        numbers = [f"{value:.6g}" if value != "" else "" for interval in intervals for value in interval]
        lines.append(",".join([source, parameter, *numbers]))
    return "\n".join(lines) + "\n"


_FILE = "gradient_bias.csv"
_FIGURES = {"angle": "angle, degrees", "share": "difference / gradient", "difference": "difference"}
_CAPTION = (
    "on the training rows; cd_n: n steps from data; short_run_n: n steps from noise; chains: those of the run as they "
    "are. In brackets 95 % intervals; not told: so many chains do not tell the gradient from 0."
)
_CONVERGED = (
    "the likelihood's gradient is not told from 0 with so many chains, so that there are no angles and shares: "
    "differences alone say how far chains lead away from where training stands; more evaluation.gradient_bias.pairs, "
    "or an earlier checkpoint, tell more"
)
