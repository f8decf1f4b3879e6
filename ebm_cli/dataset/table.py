"""The user's own table: columns that are binary, categorical, ordinal or numeric, some cells perhaps missing."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset import table_columns, table_files
from ebm_cli.dataset.base import Arrays, Binarize, Dataset, Raw, Values
from ebm_cli.dataset.columns import Columns
from ebm_cli.dataset.table_files import Frame
from ebm_cli.errors import UserError
from ebm_cli.registry import register
from ebm_cli.space import Units

_FEWEST = 3  # one row for each split
_SPLITS = ("train", "valid", "test")


@register("dataset", "table")
class OwnTable(Dataset):
    """A table from a CSV or TSV file, packed by gzip or not, whose first line names the columns, or Parquet or Feather.

    `columns` says what columns are: binary, categorical, ordinal, a list of values in their order (ordinal), numeric,
    or ignore; of the others it is guessed. Two values: binary. Text, and whole numbers with a zero before them or
    beyond 64 bits: categorical. Whole numbers of ten values at most: ordinal. Other numbers: numeric, brought to mean 0
    and standard deviation 1 of the training rows, which is undone in samples and log-likelihoods. Ordinal columns are
    categories in their order, of which the model may learn anything; their order shows in the numbers of samples,
    quantiles and medians. `label` names a column that is carried along and not modelled.

    Columns that are all binary make binary data, all numeric ones real data, categorical ones of as many categories
    each categorical data, for any model of those; all others are mixed, for model=mixed_rbm. Models of mixed data alone
    take any.

    Cells are missing that are empty, NA, N/A, NaN, null or ?, and - among numbers. `missing` drop leaves such rows out.
    draw trains on them: at each visit `sweeps` block Gibbs sweeps of the model draw what is missing given the rest, so
    that the gradient is that of the likelihood of what is there, but for the sweeps being finite (Dempster, Laird,
    Rubin 1977 with the expectation by chains). They begin at values of the column in other rows. Held-out rows are
    whole ones in either case.
    """

    path: str | None
    columns: dict[str, str | list[Any]] | None
    label: str | None
    missing: Literal["drop", "draw"]
    sweeps: Annotated[int, Field(ge=1)]
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    binarize: Binarize
    values = None

    @override
    def read(self) -> Raw:
        """The file's rows. Raises UserError naming the first thing wrong with file, line, column or key."""
        if self.path is None:
            raise UserError("dataset.path = null: name the file of the table, dataset.path=FILE")
        said = f"dataset.path = {self.path}"
        frame = table_files.read(Path(self.path).expanduser(), said)
        columns = table_columns.found(frame, self.columns or {}, self.label, said)
        values = np.stack([table_columns.coded(frame, column, said) for column in columns.columns], 1)
        gaps = np.asarray(np.isnan(values).any(axis=1))
        index, remarks = self._splits(gaps, said)
        labels, more = _labels(frame, self.label, said)
        units = _units(values[index["train"]], columns, said)
        train, valid, test = (self._arrays(values, index[name], labels, (columns, units), name) for name in _SPLITS)
        kind = _kind(columns)
        return Raw(
            kind, train, valid, test, categories=columns.columns[0].count if kind == "categorical" else 0,
            remarks=(*remarks, *more, *self._guesses(columns)), units=units, columns=columns,
            sweeps=self.sweeps if train.missing is not None else 0,
        )  # fmt: skip

    def _splits(self, gaps: NDArray[np.bool_], said: str) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
        """The rows of each split, and a remark on those that are left out."""
        if len(gaps) < _FEWEST:
            raise UserError(f"{said}: has {len(gaps)} rows; the splits need {_FEWEST} at least")
        kept, index = np.arange(len(gaps)), {}
        for name in ("test", "valid"):
            out = max(1, round(self.held_out * len(kept)))
            order = rng.permutation(len(kept), rng.stream(0, "table", name)).numpy()
            index[name], kept = np.sort(kept[order[:out]]), np.sort(kept[order[out:]])
        index["train"] = kept
        if not gaps.any():
            return index, ()
        drops = {name: rows[gaps[rows]] for name, rows in index.items()}
        if self.missing == "draw":
            drops["train"] = drops["train"][:0]
        index = {name: np.setdiff1d(rows, drops[name]) for name, rows in index.items()}
        empty = next((name for name in _SPLITS if not len(index[name])), None)
        if empty is not None:
            way = "" if self.missing == "draw" else ", or set dataset.missing=draw"
            raise UserError(
                f"{said}: of {len(gaps)} rows none without a missing cell is left for {empty}; leave out columns "
                f"with many gaps, or raise dataset.held_out{way}"
            )
        return index, self._said_of_gaps(gaps, {name: len(rows) for name, rows in drops.items()})

    def _said_of_gaps(self, gaps: NDArray[np.bool_], drops: dict[str, int]) -> tuple[str, ...]:
        held = drops["valid"] + drops["test"]
        count = f"{int(gaps.sum())} of {len(gaps)} rows have missing cells"
        if self.missing == "draw":
            return (f"{count}: those for training are drawn by the model, {held} held-out rows are left out",)
        return (f"{count} and are left out; dataset.missing=draw trains on them",)

    def _arrays(
        self,
        values: NDArray[np.float64],
        index: NDArray[np.int64],
        labels: NDArray[np.int64] | None,
        known: tuple[Columns, Units | None],
        name: str,
    ) -> Arrays:
        """One split, in the units of the model."""
        columns, units = known
        own = values[index]
        missing = np.isnan(own)
        own = _filled(own, missing, rng.stream(0, "table", "filled")) if missing.any() else own
        if units is not None:
            own = (own - np.array(units.mean)) / np.array(units.deviation)
        form = np.float32 if any(not column.count for column in columns.columns) else np.uint8
        gaps = missing if name == "train" and missing.any() else None
        return Arrays(own.astype(form), None if labels is None else labels[index], missing=gaps)

    def _guesses(self, columns: Columns) -> tuple[str, ...]:
        """A remark on the kinds of the columns that are not said."""
        said = self.columns or {}
        by_kind: dict[str, list[str]] = {}
        for column in columns.columns:
            if column.name not in said:
                by_kind.setdefault(column.kind, []).append(column.name)
        if not by_kind:
            return ()
        kinds = "; ".join(f"{kind}: {table_columns.listed(names)}" for kind, names in by_kind.items())
        return (
            f"what columns are is guessed by their values ({kinds}); dataset.columns={{NAME: KIND}} says otherwise",
        )


def _filled(values: NDArray[np.float64], missing: NDArray[np.bool_], key: rng.Key) -> NDArray[np.float64]:
    """With a value of the same column in another row for each that is missing, every row equally likely."""
    found = values.copy()
    for site in np.flatnonzero(missing.any(0)):
        there = values[~missing[:, site], site]
        u = rng.uniform((int(missing[:, site].sum()),), key.fold(int(site))).numpy()
        found[missing[:, site], site] = there[(u * len(there)).astype(int).clip(max=len(there) - 1)]
    return found


def _units(train: NDArray[np.float64], columns: Columns, said: str) -> Units | None:
    """Mean and standard deviation of numeric columns in the training rows, 0 and 1 of others; None if all are."""
    if all(column.count for column in columns.columns):
        return None
    mean, deviation = np.zeros(train.shape[1]), np.ones(train.shape[1])
    for site, column in enumerate(columns.columns):
        own = train[~np.isnan(train[:, site]), site]
        if not len(own) or (not column.count and own.min() == own.max()):
            raise UserError(
                f"{said}: column {column.name!r} is constant in the {len(train)} training rows; leave it out, "
                f"dataset.columns={{{column.name}: ignore}}"
            )
        if not column.count:
            mean[site], deviation[site] = own.mean(), own.std()
    return Units(tuple(mean.tolist()), tuple(deviation.tolist()))


def _kind(columns: Columns) -> Values:
    counts = {column.count for column in columns.columns}
    if counts == {2}:
        return "binary"
    if counts == {0}:
        return "real"
    return "categorical" if len(counts) == 1 else "mixed"


def _labels(frame: Frame, label: str | None, said: str) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """The numbers of labels, and which they are."""
    if label is None:
        return None, ()
    polars = table_files.library()
    series = frame.data[label].cast(polars.String)
    gaps = series.is_null()
    if gaps.any():
        raise UserError(
            f"{said}, {frame.place(int(gaps.arg_true()[0]))}: column {label!r} has no label; give each row one"
        )
    names = series.unique().sort()
    if names.cast(polars.Int64, strict=False).is_not_null().all():
        return series.cast(polars.Int64).to_numpy().astype(np.int64), ()
    number = {name: i for i, name in enumerate(names.to_list())}
    found = series.replace_strict(number, return_dtype=polars.Int64).to_numpy().astype(np.int64)
    return found, (f"labels of column {label!r} are numbered from 0: {table_columns.listed(names.to_list())}",)
