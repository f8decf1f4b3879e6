"""`ebm transform`: what a trained model makes of the user's own rows on the way to their energy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ebm_cli.commands import own, results
from ebm_cli.commands.configuration import checked
from ebm_cli.commands.trained import Trained
from ebm_cli.dataset.base import Split
from ebm_cli.device.memory import watched
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel
from ebm_cli.signals import finishing
from ebm_cli.terminal import logging_to, output


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of `ebm transform` beside its groups."""

    run: Annotated[str, Field(min_length=1)]
    data: Annotated[str, Field(min_length=1)]
    array: Annotated[str, Field(min_length=1)] | None
    checkpoint: str  # last, best or a step
    format: own.Format
    out: Annotated[str, Field(min_length=1)] | None  # a new folder for the features; None: features/<time> of the run
    plugins: list[str]


@watched(torch.device("cpu"))
def transform(config: Mapping[str, Any]) -> int:
    """Write `features/<time>/features.csv` or .npz, a line for each row of the file; the exit code."""
    asked = checked(Settings, own.settings(config))
    with logging_to(None), results.folder(Path(asked.run), "features", asked.out) as home, torch.no_grad():
        trained = own.opened(asked.run, asked.checkpoint, asked.plugins, config)
        model = trained.state.averaged_model()
        check_features(model, trained)
        rows, (split, _) = own.read(trained, "data", asked.data, asked.array)
        own.check_all_there(rows, f"data = {asked.data}", f"ebm sample given={asked.data}")
        columns = features(model, split.to(trained.parts.device.torch))
        finishing()
        file = own.written(home, "features", own.beside(rows) | columns, asked.format)
    for name, column in columns.items():
        output.print(f"{name}: {column.shape[1]} numbers a row", highlight=False, soft_wrap=True)
    output.print(f"{own.counted(rows)}: {file}", soft_wrap=True)
    return 0


def check_features(model: EnergyModel, trained: Trained) -> None:
    """Raise UserError for a model without any, before any row is read."""
    here = trained.parts.device.torch
    if not model.features(trained.parts.data.train.all().to(here)):
        raise UserError(
            f"run = {trained.run.path}: its model, {trained.choice['model']}, has neither hidden units nor layers; "
            "ebm score gives energies of rows"
        )


def features(model: EnergyModel, split: Split) -> dict[str, NDArray[Any]]:
    """`model.features` of all rows, (rows, numbers) float32 by name."""
    return of_pieces(model, split.pieces(own.ROWS_AT_ONCE))


def of_pieces(model: EnergyModel, pieces: Iterable[Tensor]) -> dict[str, NDArray[Any]]:
    """The same of rows that come in pieces (batch, *shape)."""
    parts = [model.features(x) for x in pieces]
    return {name: np.concatenate([part[name].float().cpu().numpy() for part in parts]) for name in parts[0]}
