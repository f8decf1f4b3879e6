"""One bracket of the log-likelihood: exact where that is possible, else annealed until it is narrow enough."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import resources
from typing import Annotated, Any, NamedTuple

import torch
import yaml
from pydantic import Field
from typing_extensions import override

from ebm_cli import registry
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.ais import AIS, Count, Runs, lower_log_p
from ebm_cli.evaluation.annealing import annealing_path, without_part
from ebm_cli.evaluation.base import Evaluation, Result, Subject, likelihoods
from ebm_cli.evaluation.bracket import WIDE, doubt, few_chains
from ebm_cli.evaluation.exact import Exact
from ebm_cli.evaluation.invariance import refusal_to_anneal
from ebm_cli.evaluation.table import Numbers, plus_minus
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import Later, register
from ebm_cli.sampler.base import Sampler, shown

_MORE = 4  # times as many temperatures, where the bracket is too wide
_SURE = 1.96  # standard errors: 95 % of a normal law
_CHECKPOINTS = 10  # so many models before, for a way along them
_ADVICE = "; raise evaluation.log_likelihood.most_temperatures"
_AIS = "; raise evaluation.ais.temperatures"


class Bracket(NamedTuple):
    """log Z between `low` and `high`, `middle` the best guess, nats; `rows` and `own` are by how much those say more.

    `rows`: the mean over held-out rows of what AIS says of them minus what RAISE says, and its standard error; `own`:
    the same of the run's own chains, or None where there are none.
    """

    low: float
    middle: float
    high: float
    rows: tuple[float, float]
    own: tuple[float, float] | None

    @property
    def width(self) -> float:
        """Between the ends, nats."""
        return self.high - self.low

    @property
    def missed(self) -> bool:
        """Whether own chains are where annealed chains hardly come, although these come to where the rows are."""
        if self.own is None:
            return False
        error = (self.own[1] ** 2 + self.rows[1] ** 2) ** 0.5
        return self.own[0] - self.rows[0] > WIDE + _SURE * error


@register("evaluation", "log_likelihood")
class LogLikelihood(Evaluation):
    """One bracket of the mean log p(x) = -E(x) - log Z of held-out rows, and the reasons for it.

    Where Z can be summed over all states, or is known, exactly (`evaluation=exact`). Else by AIS from independent units
    with `temperatures` steps in beta, and four times as many again up to `most_temperatures`, until more than two of
    the chains carry the estimate and the bracket of log Z is at most `width` nats wide. Its lower end is that of the
    95 % interval of AIS, for E[Z_hat] = Z; its upper end is the highest of that interval's and of

        log Z_hat + mean_x[log f(x) - log Z_hat - RAISE(x)] + 1.96 standard errors

    for `points` held-out rows x, and for as many of the run's own chains. E[RAISE(x)] <= log p_annealed(x), so that the
    mean is of an upper bound on log Z where x are draws of the model (Grosse, Ghahramani, Adams 2015, bidirectional
    Monte Carlo). Wherever they are, it is large where annealed chains hardly come to x: AIS and RAISE of rows may agree
    and miss a mode that own chains are in, and this tells.

    Where it is too wide still, the run's checkpoints are gone along (`evaluation=trajectory`), if ten or more are
    there. What that finds within the bracket takes its place; where it lies apart, the bracket is of both.

    `log_likelihood/width` is of the bracket, nats, `log_likelihood/temperatures` how many steps there were at last. A
    mode of the model in which no row, no chain of the run and no annealed chain is remains unseen.
    """

    while_training: bool
    width: Annotated[float, Field(gt=0)]
    chains: Annotated[int, Field(ge=2)]
    temperatures: Count
    most_temperatures: Count
    points: Annotated[int, Field(ge=2)]
    raise_chains: Count
    base_mix: Annotated[float, Field(ge=0, le=1)]
    bootstrap: Annotated[int, Field(ge=100)]
    particles: Annotated[int, Field(ge=1), Later(1)]

    standing = 5
    compared = ("log_likelihood/log_likelihood", "log_likelihood/width")
    reports = (
        *likelihoods("log_likelihood", "log_z", "log_z_low", "log_z_high", "learned_log_z", "learned_log_z_error"),
        *(f"log_likelihood/{name}" for name in ("bits_per_dimension", "kl", "weight_ess", "width", "temperatures")),
    )

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The log-likelihood and its bracket."""
        name = "log_likelihood"
        if not values.has(*(f"{name}/{key}" for key in ("log_likelihood", "log_z", "log_z_low", "log_z_high"))):
            return {}
        middle, log_z = values[f"{name}/log_likelihood"], values[f"{name}/log_z"]
        ends = values[f"{name}/log_z_low"], values[f"{name}/log_z_high"]
        high, low = (middle + log_z - end for end in ends)
        values.leave(f"{name}/width", f"{name}/temperatures", f"{name}/weight_ess")
        unsure = "" if doubt(name, values.unseen) is None else ", not to be relied on"
        how = "exact" if low == high else f"bracket [{low:.2f}, {high:.2f}]{unsure}"
        found = f"{log_z:.2f}" if low == high else f"{log_z:.2f}, in [{ends[0]:.2f}, {ends[1]:.2f}]"
        return {f"log-likelihood ({split})": f"{plus_minus(values, name)} nats, {how}", "  log Z": found}

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Where Z cannot be summed, each intermediate distribution must be invariant under the sampler's moves."""
        return refusal_to_anneal(model, sampler) if enumeration.refusal(model) else None

    @override
    def while_it_trains(self) -> "LogLikelihood":
        """With the fewest temperatures."""
        return replace(self, most_temperatures=self.temperatures)

    @property
    @override
    def work(self) -> Work:
        """At first; how often it is done again is not known yet."""
        chains = (self.chains + 2 * self.points * self.raise_chains) * self.particles
        return Work(chains * self.temperatures, 3 * self.temperatures)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`log_likelihood/...`."""
        if enumeration.refusal(subject.model) is None:
            found = _renamed(Exact(while_training=False, if_too_large="refuse").evaluate(subject), "exact")
            log_z = found.metrics["log_likelihood/log_z"]
            ends = {"log_z_low": log_z, "log_z_high": log_z, "width": 0.0}
            metrics = {**found.metrics, **{f"log_likelihood/{key}": value for key, value in ends.items()}}
            return replace(found, metrics=metrics, said=("log_likelihood: exact, log Z is summed over all states",))
        return self._annealed(subject)

    def _annealed(self, subject: Subject) -> Result:
        widths = list[str]()
        for temperatures in self._levels():
            found = self._ais(temperatures).evaluate(subject)
            if "ais/log_z" not in found.metrics:
                return Result({}, warnings=tuple(_own_advice(found.warnings)))
            bracket = self._bracket(subject, temperatures, found)
            few = few_chains(found.metrics["ais/weight_ess"], self.chains)
            widths.append(f"{bracket.width:.2g} by {temperatures} temperatures")
            if bracket.width <= self.width and few is None:
                break
        result = _renamed(found, "ais")
        metrics = {
            **result.metrics,
            **_ends(bracket),
            "log_likelihood/temperatures": float(temperatures),
        }
        said = (f"log_likelihood: by AIS and RAISE, log Z within nats: {', '.join(widths)}{_of_own(bracket)}",)
        doubts = [] if bracket.width <= self.width else [self._wide(bracket, temperatures)]
        doubts += [] if few is None else [few + _ADVICE]
        annealed = replace(result, metrics=metrics, warnings=tuple(doubts), said=(*without_part(subject), *said))
        return self._along(subject, annealed, bracket) if doubts else annealed

    def _levels(self) -> Iterator[int]:
        """How many temperatures, one after the other."""
        level = self.temperatures
        while level < self.most_temperatures:
            yield level
            level = min(_MORE * level, self.most_temperatures)
        yield self.most_temperatures

    def _ais(self, temperatures: int) -> AIS:
        return AIS(
            while_training=False,
            chains=self.chains,
            temperatures=temperatures,
            training_temperatures=None,
            base_mix=self.base_mix,
            raise_points=self.points,
            raise_chains=self.raise_chains,
            bootstrap=self.bootstrap,
            particles=self.particles,
        )

    def _bracket(self, subject: Subject, temperatures: int, found: Result) -> Bracket:
        """By what AIS has found, and by the run's own chains."""
        log_z, low, high = (found.metrics[f"ais/log_z{end}"] for end in ("", "_low", "_high"))
        rows = found.metrics["ais/gap"], found.metrics["ais/gap_standard_error"]
        own = self._of_own(subject, temperatures, log_z)
        highest = max(high, *(log_z + mean + _SURE * error for mean, error in (rows, own or rows)))
        return Bracket(min(low, log_z + rows[0] + _SURE * rows[1]), log_z, highest, rows, own)

    def _of_own(self, subject: Subject, temperatures: int, log_z: float) -> tuple[float, float] | None:
        """Of the run's own chains the mean of log f - log Z_hat - RAISE, and its standard error."""
        own = shown(subject.store, subject.model.space)
        if len(own) < 2:
            return None
        which = torch.linspace(0, len(own) - 1, min(self.points, len(own))).long().unique()
        path, x = annealing_path(subject, self.base_mix), own[which.to(own.device)].float()
        key, engine = subject.key.fold("own"), subject.device.repeating
        lower = lower_log_p(path, x, Runs(self.raise_chains, self.particles, temperatures), key, engine)
        gaps = -subject.model.energy(x).double() - log_z - lower
        return gaps.mean().item(), gaps.std().item() / len(gaps) ** 0.5

    def _wide(self, bracket: Bracket, temperatures: int) -> str:
        """Why the bracket is no narrower."""
        asked = f"width={self.width:g} asked"
        if not bracket.missed:
            return (
                f"the bracket is {bracket.width:.4g} nats wide after {temperatures} temperatures, {asked}{_ADVICE}, or "
                "take another sampler"
            )
        assert bracket.own is not None
        return (
            f"annealed chains hardly come to where the run's own chains are: AIS and RAISE differ by "
            f"{bracket.own[0]:.4g} nats there and by {bracket.rows[0]:.4g} on held-out rows. They may agree on rows "
            f"and both miss a mode, so that log Z is too low{_ADVICE}, or train with chains=trajectory"
        )

    def _along(self, subject: Subject, annealed: Result, bracket: Bracket) -> Result:
        """What the checkpoints say, if there are enough of them: in its place, or beside it where they contradict."""
        if len(subject.passed()) < _CHECKPOINTS:
            return annealed
        found = _along_checkpoints().evaluate(subject)
        if "trajectory/log_z" not in found.metrics or found.warnings:
            return replace(annealed, said=(*annealed.said, "log_likelihood: the checkpoints give no better estimate"))
        log_z, low, high = (found.metrics[f"trajectory/log_z{end}"] for end in ("", "_low", "_high"))
        if max(low, bracket.low) <= min(high, bracket.high):
            better = _renamed(found, "trajectory")
            said = (*annealed.said, "log_likelihood: along the checkpoints, within that bracket")
            return replace(better, metrics={**better.metrics, "log_likelihood/width": high - low}, said=said)
        both = _ends(bracket._replace(low=min(low, bracket.low), high=max(high, bracket.high)))
        apart = (
            f"log Z along the checkpoints, {log_z:.4g} in [{low:.4g}, {high:.4g}], is apart from "
            f"[{bracket.low:.4g}, {bracket.high:.4g}] by AIS and RAISE; the bracket is of both"
        )
        return replace(annealed, metrics={**annealed.metrics, **both}, warnings=(*annealed.warnings, apart))


def _along_checkpoints() -> Evaluation:
    file = resources.files("ebm_cli.conf") / "evaluation" / "trajectory.yaml"
    built: Evaluation = registry.build("evaluation", yaml.safe_load(file.read_text()))
    return built


def _ends(bracket: Bracket) -> dict[str, float]:
    ends = {"log_z_low": bracket.low, "log_z_high": bracket.high, "width": bracket.width}
    return {f"log_likelihood/{key}": value for key, value in ends.items()}


def _renamed(result: Result, name: str) -> Result:
    """What the evaluation `name` found, as found by this one: what both report."""
    metrics = {key.replace(f"{name}/", "log_likelihood/", 1): value for key, value in result.metrics.items()}
    by_row = {"log_likelihood/log_likelihood": result.by_row[f"{name}/log_likelihood"]}
    return Result({key: value for key, value in metrics.items() if key in LogLikelihood.reports}, by_row=by_row)


def _of_own(bracket: Bracket) -> str:
    if bracket.own is None:
        return "; the run has no chains of its own to compare with"
    return "" if bracket.missed else "; the run's own chains are where annealed chains come to"


def _own_advice(warnings: Iterable[str]) -> Iterator[str]:
    return (warning.replace(_AIS, _ADVICE) for warning in warnings)
