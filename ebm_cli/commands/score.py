"""`ebm score`: energies, log-likelihoods and pseudo-likelihoods of the user's own rows, and what mutations cost."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.commands import data_again, known_log_z, mutants, own, results
from ebm_cli.commands.configuration import checked
from ebm_cli.commands.trained import Trained
from ebm_cli.dataset.base import Split
from ebm_cli.device.memory import watched
from ebm_cli.errors import UserError
from ebm_cli.evaluation.pseudo_likelihood import log_pseudo_likelihood
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import Conditional, EnergyModel, Intractable
from ebm_cli.record.run import Run
from ebm_cli.signals import finishing
from ebm_cli.space import Counts, Discrete
from ebm_cli.terminal import log, logging_to, output


@dataclass(frozen=True, kw_only=True)
class Settings(mutants.Asked):
    """The keys of `ebm score` beside its groups."""

    run: Annotated[str, Field(min_length=1)]
    data: Annotated[str, Field(min_length=1)] | None
    array: Annotated[str, Field(min_length=1)] | None
    checkpoint: str  # last, best or a step
    pseudo_likelihood: bool
    format: own.Format
    out: Annotated[str, Field(min_length=1)] | None  # a new folder for the scores; None: scores/<time> of the run
    plugins: list[str]


@watched(torch.device("cpu"))
def score(config: Mapping[str, Any]) -> int:
    """Write `scores/<time>/scores.csv` or .npz, a line for each row of the file, or mutants.csv; the exit code."""
    given = own.settings(config)
    asked = checked(Settings, given)
    mutants.check_apart(given)
    with logging_to(None), results.folder(Path(asked.run), "scores", asked.out) as home:
        trained = own.opened(asked.run, asked.checkpoint, asked.plugins, config)
        by = scoring(trained)
        done = _of_mutants if asked.data is None else _of_rows
        counted, file, said = done(home, by, asked)
    for sentence in said:
        output.print(sentence, highlight=False, soft_wrap=True)
    output.print(f"{counted}: {file}", soft_wrap=True)
    return 0


def _of_rows(home: Run, by: "Scoring", asked: Settings) -> tuple[str, Path, list[str]]:
    """Scores of the rows of `data`: how many there are, where they were written, and sentences on them."""
    assert asked.data is not None
    rows, (split, _) = own.read(by.trained, "data", asked.data, asked.array)
    own.check_all_there(rows, f"data = {asked.data}", f"ebm sample given={asked.data}")
    columns, said = scores(by, split.to(by.trained.parts.device.torch), pseudo=asked.pseudo_likelihood)
    finishing()
    return own.counted(rows), own.written(home, "scores", own.beside(rows) | columns, asked.format), said


def _of_mutants(home: Run, by: "Scoring", asked: Settings) -> tuple[str, Path, list[str]]:
    """The same of the mutants of `wild_type`."""
    found = mutants.scored(by.trained, asked)
    finishing()
    file = own.written(home, "mutants", found.columns, asked.format)
    home.write_all("", found.images, {})
    said = [f"picture: {home.path / name}.png" for name in found.images]
    return f"{len(found.columns['delta'])} mutants", file, [*found.said, *said]


class LogLikelihood(NamedTuple):
    """log p = -E - log Z of rows, (rows,) in nats, with its ends, and in words what log Z is known from.

    The ends are those of what is known of log Z; where that is exact they are the value.
    """

    value: Any
    low: Any
    high: Any
    said: str
    exact: bool

    @override
    def __repr__(self) -> str:
        """The mean, and how well it is known."""
        known = "exact" if self.exact else _ends(self)
        return f"LogLikelihood({self.value.mean():.4f} nats, the mean of {len(self.value)} rows, {known})"


@dataclass(frozen=True)
class Scoring:
    """A trained run whose rows are scored: its model, in float64 where log Z is `exact`."""

    trained: Trained
    model: EnergyModel
    exact: bool

    @torch.no_grad()
    def energy(self, split: Split) -> NDArray[np.float64]:
        """E(x) of all rows, (rows,) in nats, with a warning of those where it is not finite."""
        energy = self._of_pieces(split, lambda x: self.model.energy(x))
        lost = int((~np.isfinite(energy)).sum())
        if lost:
            log.warning("%d of %d rows have no finite energy: the model gives them no density", lost, len(energy))
        return energy

    @torch.no_grad()
    def log_likelihood(self, split: Split, energy: NDArray[np.float64] | None = None) -> LogLikelihood | None:
        """Of the data in their own units; None where no evaluation of the run at that step has found log Z.

        `energy` is that of the rows, where it has been computed already.
        """
        volume = self.model.space.log_volume
        if self.exact:
            value = self._of_pieces(split, lambda x: _log_p(self.model, x)) - volume
            return LogLikelihood(value, value, value, f"exact{_given(self.model)}", exact=True)
        known = known_log_z.found(self.trained)
        if known is None:
            return None
        energy = (self.energy(split) if energy is None else energy) + volume
        value, low, high = (-energy - log_z for log_z in (known.value, known.high, known.low))
        return LogLikelihood(value, low, high, f"log Z {known.value:.4f} {known.said}", exact=False)

    @torch.no_grad()
    def log_pseudo_likelihood(self, split: Split) -> NDArray[np.float64] | None:
        """sum_i log p(x_i | rest) of all rows, (rows,) in nats; None where sites do not have finitely many values."""
        if not isinstance(self.model.space, Discrete):
            return None
        return self._of_pieces(split, lambda x: log_pseudo_likelihood(self.model, x))

    def no_log_z(self) -> str:
        """Why log p is not known, and what finds it."""
        home, step = self.trained.run.path, self.trained.state.step
        data = data_again.asked_for(self.trained.parts.components)
        return (
            f"log p is not known: no evaluation of {home} at step {step} has found log Z; ebm evaluate run={home} "
            f"evaluation=[ais] checkpoint={step}{data} does, where it can"
        )

    def _of_pieces(self, split: Split, value: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
        """value(x), (batch,), of all rows."""
        kind = next(self.model.parameters()).dtype
        found = torch.cat([value(x.to(kind)).double().cpu() for x in split.pieces(own.ROWS_AT_ONCE)])
        array: NDArray[np.float64] = found.numpy()
        return array


def scoring(trained: Trained) -> Scoring:
    """What scores rows by that run. Raises UserError for a model without an energy."""
    model = trained.state.averaged_model()
    if isinstance(model, Intractable):
        raise UserError(
            f"run = {trained.run.path}: its model, {trained.choice['model']}, has no energy that can be computed; "
            "ebm transform gives its hidden activities"
        )
    exact = isinstance(model, Conditional) or enumeration.refusal(model) is None
    return Scoring(trained, copy.deepcopy(model).double() if exact else model, exact)


def scores(by: Scoring, split: Split, *, pseudo: bool) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Columns (rows,) by name, in nats, and sentences on them.

    `energy` or `free_energy` is E(x); `log_p` = -E(x) - log Z, `log_p_lower` and `log_p_upper` its ends where log Z is
    an estimate, of the data in their own units; `log_pseudo_likelihood` is sum_i log p(x_i | rest).
    """
    energy, name = by.energy(split), by.model.energy_is
    columns, said = {name: energy}, [_mean(name, energy)]
    found = by.log_likelihood(split, energy)
    if found is None:
        said.append(by.no_log_z())
    elif found.exact:
        columns["log_p"] = found.value
        said.append(f"{_mean('log_p', found.value)}, {found.said}")
    else:
        columns |= {"log_p": found.value, "log_p_lower": found.low, "log_p_upper": found.high}
        said.append(f"{_mean('log_p', found.value)}, {_ends(found)}, {found.said}")
    likely = by.log_pseudo_likelihood(split) if pseudo else None
    if likely is not None:
        columns["log_pseudo_likelihood"] = likely
        said.append(_mean("log_pseudo_likelihood", likely))
    return columns, said


def _log_p(model: EnergyModel, x: Tensor) -> Tensor:
    return model.log_prob(x) if isinstance(model, Conditional) else enumeration.log_likelihood(model, x)


def _given(model: EnergyModel) -> str:
    """What it is given, in words."""
    if isinstance(model, Conditional):
        return ", of the last word given those before it"
    return ", of the words in their order given how many they are" if isinstance(model.space, Counts) else ""


def _mean(name: str, column: NDArray[np.float64]) -> str:
    return f"{name.replace('_', ' ')}: mean {column.mean():.4f} nats"


def _ends(found: LogLikelihood) -> str:
    return f"between {found.low.mean():.4f} and {found.high.mean():.4f}"
