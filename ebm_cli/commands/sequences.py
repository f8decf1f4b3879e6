"""Samples of runs on letters, and sequences whose open sites were drawn, as FASTA files with their energies; of runs on
windows of a text as lines of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.commands import own
from ebm_cli.commands.documents import vocabulary
from ebm_cli.commands.given_rows import Filled
from ebm_cli.commands.trained import Trained
from ebm_cli.dataset.alignment import Aligned
from ebm_cli.dataset.text_windows import TextWindows
from ebm_cli.model.base import EnergyModel, Intractable
from ebm_cli.space import Categorical

NAME = "samples.fasta"
_LINES = "samples.txt"


def letters(trained: Trained) -> Sequence[str] | None:
    """The alphabet of a run on letters, the vocabulary of one on windows of a text."""
    dataset = trained.parts.components.dataset
    return dataset.letters if isinstance(dataset, Aligned) else _words(trained)


def _words(trained: Trained) -> tuple[str, ...] | None:
    """Of a run on windows of a text; None of others, and where they are lost."""
    space = trained.parts.data.space
    windows = isinstance(trained.parts.components.dataset, TextWindows) and isinstance(space, Categorical)
    return vocabulary(trained.run, space) if windows else None


def _lines(trained: Trained, values: NDArray[Any]) -> str | None:
    """Windows by the numbers of their words (n, length), a line each; None of runs on anything else."""
    words, dataset = _words(trained), trained.parts.components.dataset
    if words is None:
        return None
    between = " " if getattr(dataset, "unit", "words") == "words" else ""
    found = np.array(words, dtype=object)[values.astype(np.int64)].tolist()
    return "".join(f"{between.join(row)}\n" for row in found)


def files(trained: Trained, x: Tensor) -> dict[str, str]:
    """Samples x (n, *shape) as letters or lines of words, under the name of a file; nothing of a run on neither.

    The header of each is its name and E(x) in nats, `>sample_1 energy=-12.5`, or `free_energy=` where hidden units are
    summed out; a model without an energy has the name alone.
    """
    values = trained.parts.data.space.as_data(x).flatten(1).numpy()
    lines = _lines(trained, values)
    if lines is not None:
        return {_LINES: lines}
    content = _fasta(trained, values, [f"sample_{i}" for i in range(1, len(x) + 1)])
    return {} if content is None else {NAME: content}


def of_filled(trained: Trained, filled: Filled) -> dict[str, str]:
    """The draws, `>NAME_1`, `>NAME_2`, ... of each sequence, and filled.fasta, each sequence with the likeliest letter
    of each open site by itself; of windows of a text lines of words; nothing of a run on neither.

    Sequences have their names of the file, those without one row_1, row_2, ...
    """
    rows, n = filled.samples.shape[:2]
    lines = [_lines(trained, part) for part in (filled.samples.reshape(rows * n, -1), filled.filled.reshape(rows, -1))]
    if lines[0] is not None and lines[1] is not None:
        return {_LINES: lines[0], "filled.txt": lines[1]}
    labels = filled.own.labels
    names = [f"row_{i}" for i in range(1, rows + 1)] if labels is None else labels.astype(str).tolist()
    of_draws = [f"{name}_{draw}" for name in names for draw in range(1, n + 1)]
    draws = _fasta(trained, filled.samples.reshape(rows * n, -1), of_draws)
    whole = _fasta(trained, filled.filled.reshape(rows, -1), names)
    return {} if draws is None or whole is None else {NAME: draws, "filled.fasta": whole}


def _fasta(trained: Trained, values: NDArray[Any], names: list[str]) -> str | None:
    """Sequences by the numbers of their letters (n, length), and E of each behind its name."""
    dataset, space = trained.parts.components.dataset, trained.parts.data.space
    if not isinstance(dataset, Aligned):
        return None
    letters = ["".join(row) for row in np.array(list(dataset.letters))[values.astype(np.int64)].tolist()]
    x = space.encode(torch.from_numpy(values.astype(np.int64)).reshape(-1, *space.site_shape))
    about = _energies(trained.state.averaged_model(), x)
    return "".join(f">{name}{said}\n{row}\n" for name, said, row in zip(names, about, letters, strict=True))


@torch.no_grad()
def _energies(model: EnergyModel, x: Tensor) -> list[str]:
    """What follows the names of the samples."""
    if isinstance(model, Intractable):
        return [""] * len(x)
    first = next(model.parameters())
    found = torch.cat([model.energy(part.to(first)) for part in x.split(own.ROWS_AT_ONCE)])
    return [f" {model.energy_is}={energy:.6f}" for energy in found.tolist()]
