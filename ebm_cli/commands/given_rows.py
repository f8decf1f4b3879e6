"""`ebm sample given=FILE`: what is missing of the user's own rows is drawn, everything else stays."""

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.commands import own, tables
from ebm_cli.commands.trained import Trained
from ebm_cli.dataset.conformed import Conformed
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.dataset.table_rows import TableRows
from ebm_cli.device.memory import readable, room
from ebm_cli.errors import RunError, UserError
from ebm_cli.evaluation import conditional
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.conditional import QUANTILES, Cells, Wanted
from ebm_cli.evaluation.table import UNSURE
from ebm_cli.model.base import EnergyModel
from ebm_cli.record.run import Run
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.standstill import lost
from ebm_cli.space import Discrete, Measured, Mixed, Space, Words
from ebm_cli.terminal import log

_BY_CHANCE = 0.01  # of many values so few have an R-hat above the limit although chains are short alone
_NAMES = ("row", "value", "mean", "mode", *(f"q{100 * level:g}" for level in QUANTILES), "r_hat")


class Filled(NamedTuple):
    """Rows as they are, their draws (rows, n, *site_shape), one value for each cell, and what is known of those drawn:
    (cells, 2 + columns), the row and the site first; `share` (cells,) is how often the mode was drawn."""

    own: OwnRows
    samples: NDArray[Any]
    filled: NDArray[Any]
    cells: NDArray[np.float64]
    share: NDArray[np.float64] = np.empty(0)


class Asked(NamedTuple):
    """The rows, in the space of the run, and which of their sites are to be drawn, (rows, sites); of words the number
    that stands for those the vocabulary lacks, which is never drawn."""

    own: OwnRows
    known: Tensor
    missing: Tensor
    never: int | None = None


def read(trained: Trained, model: EnergyModel, sampler: Sampler[Any, Any], path: str, array: str | None) -> Asked:
    """The file, checked. Raises UserError for what cannot be drawn, before any work."""
    said = f"given = {path}"
    _check_draws(trained, model, sampler, said)
    return _asked(trained, model, sampler, own.read(trained, "given", path, array, gaps=True), said)


def taken(trained: Trained, found: tuple[OwnRows, Conformed], said: str) -> Asked:
    """The same of rows that have been read, `said` being how messages call them."""
    model, sampler = trained.state.averaged_model(), trained.parts.components.sampler
    _check_draws(trained, model, sampler, said)
    return _asked(trained, model, sampler, found, said)


def _check_draws(trained: Trained, model: EnergyModel, sampler: Sampler[Any, Any], said: str) -> None:
    why = conditional.refusal(model, sampler)
    if why:
        named = f"sampler={trained.choice['sampler']}"
        raise UserError(f"{said}: {why.replace('this sampler', named)}")


def _asked(
    trained: Trained, model: EnergyModel, sampler: Sampler[Any, Any], found: tuple[OwnRows, Conformed], said: str
) -> Asked:
    rows, (split, missing) = found
    flat = missing.flatten(1)
    if not flat.any():
        raise UserError(
            f"{said}: nothing is missing; mark what is to be drawn by NaN, -1 among whole numbers from 0, an "
            "array mask, or empty cells of a table"
        )
    why = conditional.refusal_of(flat, model, sampler)
    if why:
        raise UserError(f"{said}: {why}")
    here = trained.parts.device.torch
    return Asked(rows, split.all().to(here), flat.to(here), trained.parts.components.dataset.out_of_vocabulary)


def check_memory(asked: Asked, n: int, kind: type) -> None:
    """Raise UserError if n draws (rows, n, sites) of each row, and what is found of each value, do not fit."""
    drawn, left = int(asked.missing.sum()), room()
    size = n * asked.missing.numel() * np.dtype(kind).itemsize + 2 * len(_NAMES) * 8 * drawn
    if size > left:
        raise UserError(
            f"n = {n}: so many draws of {len(asked.missing)} rows take {readable(size)} of memory, {readable(left)} "
            "are available; take a lower n, or the rows in parts"
        )


def drawn(subject: Subject, asked: Asked, n: int, steps: int, kind: type) -> Filled:
    """n chains for each row, as numbers of this kind. Raises RunError if any is lost."""
    space = subject.model.space
    whole, wanted = _whole(space), Wanted(n, steps, asked.never)
    start = space.as_data(asked.known).cpu().numpy()
    samples: NDArray[Any] = np.repeat(start.astype(kind)[:, None], n, 1)
    flat, table, shares = start.astype(samples.dtype).reshape(len(start), -1), [], []
    for rows, where, ends, looks in conditional.draws(subject, asked.known, asked.missing, wanted):
        away = lost(ends.flatten(0, 1))
        if away:
            raise RunError(f"{away}; nothing was written")
        index, sites = rows.cpu().numpy(), where.cpu().numpy()
        counts = whole[sites.flatten()]
        found = conditional.cells(looks, whole=counts)
        samples[index] = ends.cpu().numpy().astype(samples.dtype)
        flat[index[:, None], sites] = np.where(counts, found.mode, found.mean).reshape(sites.shape)
        table.append(_lines(index, sites, found))
        shares.append(found.share)
    filled = flat.reshape(start.shape)
    if isinstance(space, Measured) and space.units is not None:
        _restore(asked.own, samples, filled)
    cells = np.concatenate(table)
    order = np.lexsort((cells[:, 1], cells[:, 0]))
    return Filled(asked.own, samples, filled, cells[order], np.concatenate(shares)[order])


def _whole(space: Space) -> NDArray[np.bool_]:
    """Which sites have finitely many values, (sites,)."""
    if isinstance(space, Mixed):
        return np.array(space.values) > 0
    return np.full(int(np.prod(space.site_shape)), isinstance(space, Discrete | Words))


def _restore(rows: OwnRows, samples: NDArray[Any], filled: NDArray[Any]) -> None:
    """Values that stay, as the file has them: there and back through the units of the run they may be rounded."""
    there: NDArray[np.bool_] = ~rows.missing
    values: NDArray[Any] = rows.values.astype(samples.dtype)
    filled[there] = values[there]
    np.copyto(samples, values[:, None], where=there[:, None])


def _lines(rows: NDArray[Any], sites: NDArray[Any], found: Cells) -> NDArray[np.float64]:
    """One line for each cell, (cells, columns of `_NAMES`): rows and values are numbered from 1."""
    row = np.repeat(rows, sites.shape[1])
    columns = (row + 1, sites.flatten() + 1, found.mean, found.mode, *found.quantiles.T, found.r_hat)
    return np.stack(columns, 1).astype(np.float64)


def written(home: Run, filled: Filled, form: tables.Format, letters: Sequence[str] | None = None) -> dict[str, str]:
    """The names of samples.npz, imputed.csv and filled.csv, with what each holds; of a table's rows the latter two are
    tables of that format, and imputed.csv of a run on `letters`, or words, has these."""
    rows: OwnRows = filled.own
    values: NDArray[Any] = filled.filled
    arrays = {"samples": filled.samples, "filled": values, "missing": rows.missing}
    if rows.labels is not None:
        arrays["labels"] = rows.labels
    home.write_npz("samples.npz", arrays)
    if isinstance(rows, TableRows):
        return {"samples.npz": "the draws", **_named(home, rows, filled, form)}
    home.write_text("imputed.csv", _table(filled.cells) if letters is None else _of_letters(filled, letters))
    own.written(home, "filled", own.beside(rows) | {"value": values.reshape(len(values), -1)}, "csv")
    return {
        "samples.npz": "the draws",
        "imputed.csv": "mean, mode, quantiles and R-hat of each value that was drawn"
        if letters is None
        else f"the likeliest {_called(letters)} of each site that was drawn, its share of the draws and R-hat",
        "filled.csv": "the rows with one value for each",
    }


def lines(filled: Filled) -> "np.recarray[Any, Any]":
    """What is known of each value that was drawn, by name, as imputed.csv has it."""
    kinds = [(name, np.int64 if name in ("row", "value") else np.float64) for name in _NAMES]
    return np.rec.fromarrays([*filled.cells.T], dtype=kinds)


def described(rows: TableRows, filled: Filled) -> Any:
    """The same of a table, a polars frame: by the names of its columns and of their categories."""
    figures = dict(zip(_NAMES, filled.cells.T, strict=True))
    first = {name: figures[name] for name in ("row", "value", "mean", "mode")}
    return tables.described(rows, {**first, "mode_share": filled.share, **figures})


def _named(home: Run, rows: TableRows, filled: Filled, form: tables.Format) -> dict[str, str]:
    """The table of the file without gaps, and what is known of each cell."""
    tables.written(home, "imputed", described(rows, filled), form)
    tables.written(home, "filled", tables.filled(rows, filled.filled.reshape(len(filled.filled), -1)), form)
    return {
        f"imputed.{form}": "mean, mode, quantiles and R-hat of each cell that was drawn",
        f"filled.{form}": "the table with one value for each",
    }


def _table(cells: NDArray[np.float64]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_NAMES)
    for line in cells.tolist():
        table.writerow([int(line[0]), int(line[1]), *("" if value != value else f"{value:.8g}" for value in line[2:])])
    return text.getvalue()


def _called(letters: Sequence[str]) -> str:
    return "letter" if isinstance(letters, str) else "word"


def _of_letters(filled: Filled, letters: Sequence[str]) -> str:
    """A line for each site that was drawn: rows and sites from 1, the likeliest letter and its share of the draws."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = filled.own.labels
    table.writerow(["row", *(["name"] if names is not None else []), "site", _called(letters), "share", "r_hat"])
    for (row, site, *_), mode, share, r_hat in zip(
        filled.cells.tolist(), filled.cells[:, 3], filled.share, filled.cells[:, -1], strict=True
    ):
        name = [] if names is None else [names[int(row) - 1]]
        shown = "" if np.isnan(r_hat) else f"{r_hat:.8g}"
        table.writerow([int(row), *name, int(site), letters[int(mode)], f"{share:.6g}", shown])
    return text.getvalue()


def said(filled: Filled, n: int) -> str:
    """How much was drawn, with a warning of chains that have not forgotten where they began."""
    r_hat = filled.cells[:, -1]
    apart = int((r_hat > UNSURE).sum())
    if apart > _BY_CHANCE * len(r_hat):
        log.warning(
            "of %d values %d have chains that disagree (R-hat above %g): take more steps, or another sampler",
            len(r_hat), apart, UNSURE,
        )  # fmt: skip
    moved = r_hat[~np.isnan(r_hat)]
    beyond = f", above {UNSURE:g} of {apart}" if apart else ""
    worst = f", R-hat at most {moved.max():.3f}{beyond}" if len(moved) else ""
    return f"{own.counted(filled.own)}, {len(r_hat)} values drawn by {n} chains each{worst}"


def keys_apart(path: str, start: str, length: int | None, label: int | None) -> None:
    """Raise UserError for keys of `ebm sample` that say nothing of rows that are given."""
    keys = {"length": length is not None, "label": label is not None, "start = chains": start == "chains"}
    for key, used in keys.items():
        if used:
            raise UserError(f"{key}: says nothing of rows that are given (given = {path}); leave it out")
