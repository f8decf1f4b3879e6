"""`ebm score`: energies, log-likelihoods and pseudo-likelihoods of the user's own rows."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ebm_cli.commands import known_log_z, own, results
from ebm_cli.commands.configuration import checked
from ebm_cli.commands.known_log_z import Known
from ebm_cli.commands.trained import Trained
from ebm_cli.dataset.base import Split
from ebm_cli.device.memory import watched
from ebm_cli.errors import UserError
from ebm_cli.evaluation.pseudo_likelihood import log_pseudo_likelihood
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import Conditional, EnergyModel, Intractable
from ebm_cli.signals import finishing
from ebm_cli.space import Counts, Discrete
from ebm_cli.terminal import log, logging_to, output


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of `ebm score` beside its groups."""

    run: Annotated[str, Field(min_length=1)]
    data: Annotated[str, Field(min_length=1)]
    array: Annotated[str, Field(min_length=1)] | None
    checkpoint: str  # last, best or a step
    pseudo_likelihood: bool
    format: own.Format
    out: Annotated[str, Field(min_length=1)] | None  # a new folder for the scores; None: scores/<time> of the run
    plugins: list[str]


@watched(torch.device("cpu"))
def score(config: Mapping[str, Any]) -> int:
    """Write `scores/<time>/scores.csv` or .npz, a line for each row of the file; the exit code."""
    asked = checked(Settings, own.settings(config))
    with results.folder(Path(asked.run), "scores", asked.out) as home, logging_to(None):
        trained = own.opened(asked.run, asked.checkpoint, asked.plugins, config)
        if isinstance(trained.state.model, Intractable):
            raise UserError(
                f"run = {asked.run}: its model, {trained.choice['model']}, has no energy that can be computed; "
                f"ebm transform run={asked.run} data={asked.data} gives its hidden activities"
            )
        rows, (split, _) = own.read(trained, "data", asked.data, asked.array)
        own.check_all_there(rows, "data", asked.data)
        with torch.no_grad():
            columns, said = scores(trained, split.to(trained.parts.device.torch), pseudo=asked.pseudo_likelihood)
        finishing()
        file = own.written(home, "scores", own.beside(rows) | columns, asked.format)
    for sentence in said:
        output.print(sentence, highlight=False, soft_wrap=True)
    output.print(f"{own.counted(rows)}: {file}", soft_wrap=True)
    return 0


def scores(trained: Trained, split: Split, *, pseudo: bool) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Columns (rows,) by name, in nats, and sentences on them.

    `energy` or `free_energy` is E(x); `log_p` = -E(x) - log Z, `log_p_lower` and `log_p_upper` its ends where log Z is
    an estimate, of the data in their own units; `log_pseudo_likelihood` is sum_i log p(x_i | rest).
    """
    model = trained.state.averaged_model()
    exact = isinstance(model, Conditional) or enumeration.refusal(model) is None
    model = copy.deepcopy(model).double() if exact else model
    energy = _of_pieces(model, split, lambda x: model.energy(x))
    columns, said = {model.energy_is: energy}, [_mean(model.energy_is, energy)]
    lost = int((~np.isfinite(energy)).sum())
    if lost:
        log.warning("%d of %d rows have no finite energy: the model gives them no density", lost, len(energy))
    known = None if exact else known_log_z.found(trained)
    volume = model.space.log_volume
    if exact:
        columns["log_p"] = _of_pieces(model, split, lambda x: _log_p(model, x)) - volume
        said.append(f"{_mean('log_p', columns['log_p'])}, exact{_given(model)}")
    elif known is not None:
        columns |= _between(energy + volume, known)
        said.append(f"{_mean('log_p', columns['log_p'])}, {_ends(columns)}, log Z {known.value:.4f} {known.said}")
    else:
        said.append(_no_log_z(trained))
    if pseudo and isinstance(model.space, Discrete):
        found = _of_pieces(model, split, lambda x: log_pseudo_likelihood(model, x))
        columns["log_pseudo_likelihood"] = found
        said.append(_mean("log_pseudo_likelihood", found))
    return columns, said


def _of_pieces(model: EnergyModel, split: Split, value: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
    """value(x), (batch,), of all rows."""
    kind = next(model.parameters()).dtype
    found = torch.cat([value(x.to(kind)).double().cpu() for x in split.pieces(own.ROWS_AT_ONCE)])
    array: NDArray[np.float64] = found.numpy()
    return array


def _log_p(model: EnergyModel, x: Tensor) -> Tensor:
    return model.log_prob(x) if isinstance(model, Conditional) else enumeration.log_likelihood(model, x)


def _given(model: EnergyModel) -> str:
    """What it is given, in words."""
    if isinstance(model, Conditional):
        return ", of the last word given those before it"
    return ", of the words in their order given how many they are" if isinstance(model.space, Counts) else ""


def _between(energy: NDArray[np.float64], known: Known) -> dict[str, NDArray[Any]]:
    """log p by the estimate of log Z, and by the ends of what is known of it."""
    by = {"log_p": known.value, "log_p_lower": known.high, "log_p_upper": known.low}
    return {name: -energy - log_z for name, log_z in by.items()}


def _mean(name: str, column: NDArray[np.float64]) -> str:
    return f"{name.replace('_', ' ')}: mean {column.mean():.4f} nats"


def _ends(columns: Mapping[str, NDArray[Any]]) -> str:
    return f"between {columns['log_p_lower'].mean():.4f} and {columns['log_p_upper'].mean():.4f}"


def _no_log_z(trained: Trained) -> str:
    step = trained.state.step
    return (
        f"log p is not known: no evaluation of {trained.run.path} at step {step} has found log Z; ebm evaluate "
        f"run={trained.run.path} evaluation=[ais] checkpoint={step} does, where it can"
    )
