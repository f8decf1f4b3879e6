"""`ebm score mutations=`: how much more energy mutants of a sequence have than the sequence itself."""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.commands import own
from ebm_cli.commands.trained import Trained
from ebm_cli.dataset import mutations
from ebm_cli.dataset.alignment import Aligned
from ebm_cli.dataset.mutations import Columns, Mutants, WildType
from ebm_cli.errors import UserError, nearest
from ebm_cli.evaluation.base import Picture
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.substitution import energies, substitutions
from ebm_cli.record import picture
from ebm_cli.space import Categorical
from ebm_cli.yardstick.rank_correlation import FEWEST, spearman

ALL = "all"
Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The keys of `ebm score` that are about mutants."""

    mutations: Name | None  # all, or a file of mutants
    wild_type: Name | None  # a sequence, a file with one, or the name of one in the run's alignment
    first_site: int  # what its first site is counted as
    mutant_column: Name
    measured_column: Name


class Scored(NamedTuple):
    """Columns (mutants,) by name, sentences on them, and pictures by name."""

    columns: dict[str, NDArray[Any]]
    said: list[str]
    images: dict[str, Picture]


def scored(trained: Trained, asked: Asked) -> Scored:
    """E(mutant) - E(wild type) of all single substitutions, or of the mutants of a file. Raises UserError."""
    dataset = trained.parts.components.dataset
    if not isinstance(dataset, Aligned):
        space = trained.parts.data.space
        again = (
            ", or import its model anew, ebm import MODEL dataset.alphabet=protein"
            if isinstance(space, Categorical)
            else ""
        )
        raise UserError(
            f"mutations = {asked.mutations}: is for runs on letters, this one is on "
            f"dataset={trained.choice['dataset']}; score rows of it with data=FILE{again}"
        )
    if asked.wild_type is None:
        raise UserError(
            f"mutations = {asked.mutations}: of which sequence? say wild_type=NAME of the run's alignment, the "
            "sequence itself, or a FASTA file"
        )
    values = _wild_type(trained, dataset, asked.wild_type)
    wild = WildType(values, dataset.letters, asked.first_site)
    model = copy.deepcopy(trained.state.averaged_model()).double()
    if asked.mutations == ALL:
        return _of_all(model, wild)
    said = f"mutations = {asked.mutations}"
    path = Path(str(asked.mutations)).expanduser()
    if not path.is_file():
        raise UserError(f"{said}: there is no such file; name a table of mutants, or write mutations=all")
    columns = Columns(asked.mutant_column, asked.measured_column)
    return _of_file(model, wild, mutations.read(path, said, columns, wild), columns.measured)


def _wild_type(trained: Trained, dataset: Aligned, given: str) -> NDArray[np.int64]:
    """The numbers of its letters, (length,): of a sequence as it is, one in a file, or one by its name."""
    length, said = trained.parts.data.space.sites, f"wild_type = {given}"
    if len(given) == length and set(given) <= set(dataset.letters):
        return np.array([dataset.letters.index(letter) for letter in given])
    if os.path.isfile(os.path.expanduser(given)):  # unlike the method, also of texts that no file can be called
        rows, (split, _) = own.read(trained, "wild_type", given, None)
        own.check_all_there(rows, said, "its letter")
        if len(rows.values) > 1:
            raise UserError(f"{said}: holds {len(rows.values)} sequences; give a file with the one that is meant")
        return _numbers(trained, split.all())
    why = _why_not(given, dataset, length)
    return _named(trained, dataset, given, f"{said}: is no sequence of {length} letters{why} and no file")


def _why_not(given: str, dataset: Aligned, length: int) -> str:
    """What keeps a text from being a sequence of the run, in brackets, where it looks like one."""
    if set(given) <= set(dataset.letters):
        return f" (it has {len(given)})"
    if set(given.upper()) <= set(dataset.letters) and not any(letter.isdigit() for letter in given):
        return " (its letters are lower case, which marks insert columns; write it in upper case)"
    if len(given) == length:
        place, letter = next((i, each) for i, each in enumerate(given, 1) if each not in dataset.letters)
        return f" (it has {length}, but letter {place} is {letter!r}, and the alphabet is {dataset.letters})"
    return ""


def _named(trained: Trained, dataset: Aligned, name: str, said: str) -> NDArray[np.int64]:
    """The sequence of that name in the run's own alignment. Raises UserError, beginning with `said`."""
    path, way = getattr(dataset, "path", None), "give the sequence or a file of it, or name the alignment"
    if path is None:
        built_in = f"the built-in rows of dataset={trained.choice['dataset']}, which have no names"
        raise UserError(f"{said}, and the run is on {built_in}; {way} with names, dataset.path=FILE")
    if not Path(path).is_file():
        raise UserError(
            f"{said}, and the alignment of the run is not there, {path}; {way} where it lies, dataset.path=FILE"
        )
    rows, names = dataset.named(Path(path), f"dataset.path = {path}", name)
    if not names:
        raise UserError(f"{said}, and sequences of {path} have no names; {way} with names, dataset.path=FILE")
    if not len(rows):
        near = nearest(name, names) or f"; the first ones there are {', '.join(names[:3])}"
        raise UserError(f"{said}, and {path} has no sequence of that name{near}")
    if len(rows) > 1:
        raise UserError(
            f"wild_type = {name}: {len(rows)} different sequences of {path} have that name; give the sequence"
        )
    return rows.astype(np.int64).reshape(-1)


def _numbers(trained: Trained, x: Tensor) -> NDArray[np.int64]:
    found: NDArray[np.int64] = trained.parts.data.space.as_data(x).reshape(-1).cpu().numpy()
    return found


def _on(model: EnergyModel, values: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(values).to(next(model.parameters()).device)


def _of_all(model: EnergyModel, wild: WildType) -> Scored:
    """Every site with every other letter, and a map of them."""
    table = substitutions(model, _on(model, wild.values)).cpu().numpy()
    letters = np.arange(len(wild.alphabet))
    site, letter = np.nonzero(letters != wild.values[:, None])
    names = np.array(list(wild.alphabet))
    columns = {
        "position": site + wild.first,
        "wild": names[wild.values[site]],
        "mutant": names[letter],
        "delta": table[site, letter],
    }
    said = [
        _sentence(columns["delta"], "single substitutions"),
        f"sites are counted from {wild.first} to {wild.first + len(table) - 1}",
    ]
    return Scored(columns, said, {"mutants": _map(table, wild)})


def _of_file(model: EnergyModel, wild: WildType, listed: Mutants, measured: str) -> Scored:
    """Each mutant of the file, and how well they are ordered as what was measured."""
    delta = _differences(model, wild, listed)
    columns: dict[str, NDArray[Any]] = {"mutant": np.array(listed.written), "delta": delta}
    said = [_sentence(delta, "mutants")]
    if listed.measured is None:
        return Scored(columns, [*said, f"no column {measured} of measurements to compare with (measured_column)"], {})
    there = ~np.isnan(listed.measured)
    found = spearman(-delta[there], listed.measured[there], rng.stream(0, "spearman"))
    if found is None:
        said.append(f"no order to compare: {measured} has {there.sum()} values, {FEWEST} different ones are needed")
    else:
        said.append(
            f"Spearman's rho of -delta and {measured}: {found.rho:.3f}, 95 % interval {found.low:.3f} to "
            f"{found.high:.3f} ({there.sum()} mutants)"
        )
    return Scored(columns | {measured: listed.measured}, said, {})


def _differences(model: EnergyModel, wild: WildType, listed: Mutants) -> NDArray[np.float64]:
    """E(mutant) - E(wild type), (mutants,): of single ones from one table, of the others by their energies."""
    table = substitutions(model, _on(model, wild.values)).cpu().numpy()
    delta = np.array([table[changes[0]] if len(changes) == 1 else np.nan for changes in listed.changes])
    several = [i for i, changes in enumerate(listed.changes) if len(changes) > 1]
    if several:
        rows = np.repeat(wild.values[None], len(several) + 1, 0)
        for row, i in zip(rows[1:], several, strict=True):
            for change in listed.changes[i]:
                row[change.site] = change.letter
        found = energies(model, _on(model, rows)).cpu().numpy()
        delta[several] = found[1:] - found[0]
    return delta


def _sentence(delta: NDArray[np.float64], what: str) -> str:
    """How many there are, and how they lie."""
    lower = int((delta < 0).sum())
    return (
        f"{len(delta)} {what}: energy above that of the wild type {delta.mean():.4f} nats in the mean, below it {lower}"
    )


def _map(table: NDArray[np.float64], wild: WildType) -> Picture:
    """Sites from left to right, letters from top to bottom: red where the energy rises; dots are the wild type."""
    limit = max(float(np.quantile(np.abs(table), 0.99)), 1e-12)
    with picture.axes(1, 2) as drawing:
        axis, beside = drawing.at[0]
        shown = axis.imshow(
            table.T, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest",
            extent=(wild.first - 0.5, wild.first + len(table) - 0.5, len(wild.alphabet) - 0.5, -0.5),
        )  # fmt: skip
        axis.scatter(wild.first + np.arange(len(table)), wild.values, s=3, c="black")
        axis.set(xlabel="site", title="energy above that of the wild type (nats)")
        axis.set_yticks(range(len(wild.alphabet)), list(wild.alphabet), fontsize=6)
        axis.figure.colorbar(shown, ax=axis)
        others = table.sum(1) / max(1, table.shape[1] - 1)
        beside.bar(wild.first + np.arange(len(table)), others, width=1)
        beside.set(xlabel="site", title="mean over the other letters")
    return drawing.pixels


def check_apart(keys: Mapping[str, Any]) -> None:
    """Raise UserError unless it is either rows or mutants that are to be scored, by the keys `data` and `mutations`."""
    data, mutants = keys["data"], keys["mutations"]
    if (data is None) == (mutants is None):
        said = "data is missing" if data is None else f"data = {data} and mutations = {mutants}: are two things"
        raise UserError(f"{said}; give data=FILE, or mutations=all|FILE with wild_type=NAME")
    if data is not None and keys["wild_type"] is not None:
        raise UserError(f"wild_type = {keys['wild_type']}: is for mutants; add mutations=all, or leave it out")
