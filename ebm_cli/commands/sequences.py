"""Samples of runs on letters as FASTA files, with their energies."""

import torch
from torch import Tensor

from ebm_cli.commands import own
from ebm_cli.commands.trained import Trained
from ebm_cli.dataset.alignment import Aligned
from ebm_cli.model.base import EnergyModel, Intractable

NAME = "samples.fasta"


def files(trained: Trained, x: Tensor) -> dict[str, str]:
    """Samples x (n, *shape) as letters, under the name of a file; nothing of a run that is not on letters.

    The header of each is its name and E(x) in nats, `>sample_1 energy=-12.5`, or `free_energy=` where hidden units are
    summed out; a model without an energy has the name alone.
    """
    dataset = trained.parts.components.dataset
    if not isinstance(dataset, Aligned):
        return {}
    numbers = trained.parts.data.space.as_data(x).flatten(1).tolist()
    rows = ("".join(dataset.alphabet[k] for k in row) for row in numbers)
    about = _energies(trained.state.averaged_model(), x)
    return {
        NAME: "".join(f">sample_{i}{said}\n{row}\n" for i, (said, row) in enumerate(zip(about, rows, strict=True), 1))
    }


@torch.no_grad()
def _energies(model: EnergyModel, x: Tensor) -> list[str]:
    """What follows the names of the samples."""
    if isinstance(model, Intractable):
        return [""] * len(x)
    first = next(model.parameters())
    found = torch.cat([model.energy(part.to(first)) for part in x.split(own.ROWS_AT_ONCE)])
    return [f" {model.energy_is}={energy:.6f}" for energy in found.tolist()]
