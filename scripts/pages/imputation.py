"""Missing cells of a mixed table: drawn by a mixed RBM, and filled in by scikit-learn's imputers."""

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _runs import EBM, Runs
from numpy.typing import NDArray

TRAINED: dict[str, str] = {}
EVALUATED: dict[str, tuple[str, str]] = {}

ROWS, BITS, CATEGORIES, REALS, FACTORS, CLASSES = 100_000, 20, 15, 15, 6, 5
GAPS = 0.1
FITTED = 20_000  # rows that IterativeImputer is fitted to
ROUNDS = 5  # of IterativeImputer
TRAIN = (
    "dataset=table dataset.missing=draw dataset.sweeps=2 model=mixed_rbm model.hidden=60 objective=pcd steps=5000 "
    "batch_size=400 chains.count=400 optimizer.lr=0.005 eval_every=0 checkpoint.monitor=null evaluation=[] "
    "device.threads=1"
)
SAMPLE = "n=20 steps=20 device.threads=1"


class Drawn(NamedTuple):
    """A table (rows, columns): numbers of categories, or real numbers; how many values each column has, 0 of real ones."""

    values: NDArray[np.float64]
    counts: list[int]


def law(rows: int, seed: int = 0) -> Drawn:
    """Rows with factors z ~ N(0, 1) and a class: bits are on where a factor model of z, z^2 and the class plus noise is
    above a threshold, categories the largest of K such sums, real numbers such sums themselves."""
    g = np.random.default_rng(seed)
    z, kind = g.normal(size=(rows, FACTORS)), g.integers(CLASSES, size=rows)
    inputs = np.concatenate([z, 0.7 * (z**2 - 1), 2 * np.eye(CLASSES)[kind]], 1)

    def sums(number: int) -> NDArray[np.float64]:
        loads = g.normal(size=(inputs.shape[1], number)) * (g.random((inputs.shape[1], number)) < 0.4)
        return inputs @ loads

    counts = [*[2] * BITS, *(3 + i % 4 for i in range(CATEGORIES)), *[0] * REALS]
    columns = []
    for count in counts:
        if count == 0:
            columns.append(10 + 5 * (sums(1)[:, 0] + g.normal(size=rows)))
        elif count == 2:
            columns.append((sums(1)[:, 0] + g.logistic(size=rows) > g.normal()).astype(float))
        else:
            columns.append((sums(count) + g.gumbel(size=(rows, count))).argmax(1).astype(float))
    return Drawn(np.stack(columns, 1), counts)


def write(table: Drawn, gaps: NDArray[np.bool_], path: Path) -> None:
    """A CSV file with a word for each category and empty cells."""
    import polars

    names = {2: "bit", 0: "number"}
    columns = []
    for i, count in enumerate(table.counts):
        own, name = table.values[:, i], f"{names.get(count, 'kind')}_{i + 1}"
        cells = (
            [f"{v:.6g}" for v in own]
            if count == 0
            else [("no", "yes")[int(v)] if count == 2 else f"k{int(v)}" for v in own]
        )
        columns.append(
            polars.Series(name, [None if gap else cell for cell, gap in zip(cells, gaps[:, i], strict=True)])
        )
    polars.DataFrame(columns).write_csv(path)


def read(path: Path, counts: list[int]) -> NDArray[np.float64]:
    """The numbers of a table that `write` wrote, gaps filled."""
    import polars

    frame = polars.read_csv(path, infer_schema=False)
    found = []
    for name, count in zip(frame.columns, counts, strict=True):
        own = frame[name].to_list()
        found.append([float(v) if count == 0 else float(v == "yes") if count == 2 else float(v[1:]) for v in own])
    return np.array(found).T


def judged(truth: Drawn, filled: NDArray[np.float64], gaps: NDArray[np.bool_]) -> dict[str, float]:
    """Share of held-out cells that are right, of bits and of categories, and the error of real ones in deviations."""
    counts, found = np.array(truth.counts), {}
    for name, these in (("binary", counts == 2), ("categorical", counts > 2)):
        hidden = gaps[:, these]
        found[name] = float((filled[:, these] == truth.values[:, these])[hidden].mean())
    real = counts == 0
    off = (filled[:, real] - truth.values[:, real]) / truth.values[:, real].std(0)
    found["numeric"] = float(np.sqrt((off[gaps[:, real]] ** 2).mean()))
    return found


def by_scikit(name: str, table: Drawn, gaps: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of SimpleImputer, or of IterativeImputer on indicators of all values but the first, whose largest is the category.

    With an indicator for each value, which add up to 1, its ridge regressions leave every gap at the mean.
    """
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, SimpleImputer

    counts, holed = np.array(table.counts), np.where(gaps, np.nan, table.values)
    if name == "SimpleImputer":
        found = np.empty_like(holed)
        for these, way in ((counts > 0, "most_frequent"), (counts == 0, "mean")):
            found[:, these] = SimpleImputer(strategy=way).fit_transform(holed[:, these])
        return found
    wide = np.concatenate([_spread(holed[:, i], count) for i, count in enumerate(counts)], 1)
    scale = np.where(np.nanstd(wide, 0) > 0, np.nanstd(wide, 0), 1)
    imputer: Any = IterativeImputer(max_iter=ROUNDS, random_state=0).fit(wide[:FITTED] / scale)
    filled, first, found = imputer.transform(wide / scale) * scale, 0, np.empty_like(holed)
    for i, count in enumerate(counts):
        own = filled[:, first : first + _width(count)]
        first += _width(count)
        found[:, i] = np.concatenate([1 - own.sum(1, keepdims=True), own], 1).argmax(1) if count else own[:, 0]
    return np.where(gaps, found, table.values)


def _width(count: int) -> int:
    return count - 1 if count else 1


def _spread(column: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    if not count:
        return column[:, None]
    return np.where(np.isnan(column)[:, None], np.nan, column[:, None] == np.arange(1, count))


def ours(runs: Runs, csv: Path, counts: list[int]) -> NDArray[np.float64]:
    """By a run on the table with its gaps, which then draws them."""
    runs.train({"mixed_rbm": f"dataset.path={csv} {TRAIN}"})
    out = runs.folder / "filled"
    if not (out / "filled.csv").exists():
        words = [*EBM, "sample", f"run={runs.folder / 'mixed_rbm'}", f"given={csv}", f"out={out}", *SAMPLE.split()]
        print(*words, flush=True)
        subprocess.run(words, check=True)
    return read(out / "filled.csv", counts)


def figures(runs: Runs) -> dict[str, dict[str, float]]:
    """What each way gets right; kept once it is there."""
    table = law(ROWS)
    gaps = np.random.default_rng(1).random(table.values.shape) < GAPS
    csv, kept = runs.folder / "table.csv", runs.folder / "figures.json"
    if not csv.exists():
        write(table, gaps, csv)
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in ("SimpleImputer", "IterativeImputer", "mixed_rbm"):
        if name not in found:
            filled = ours(runs, csv, table.counts) if name == "mixed_rbm" else by_scikit(name, table, gaps)
            found[name] = judged(table, filled, gaps)
            kept.write_text(json.dumps(found))
    return found


def text(runs: Runs, pictures: Path) -> str:
    """The page; it has no pictures."""
    rows = [f"| {WAYS[name]} | {_figures(by)} |" for name, by in figures(runs).items()]
    table = "\n".join(["| way | bits right | categories right | real numbers, RMSE |", "|---|---|---|---|", *rows])
    return "\n\n".join([HEAD, table, NOTES, f"```\n{_commands()}\n```"]) + "\n"


def _figures(by: dict[str, float]) -> str:
    return f"{by['binary']:.4f} | {by['categorical']:.4f} | {by['numeric']:.4f}"


def _commands() -> str:
    return f"""ebm train dataset.path=TABLE.csv {TRAIN} hydra.run.dir=outputs/TABLE
ebm sample run=outputs/TABLE given=TABLE.csv {SAMPLE}   # filled.csv"""


def _spaced(number: int) -> str:
    return f"{number:_}".replace("_", " ")


WAYS = {
    "SimpleImputer": "`SimpleImputer`: the most frequent value, of real numbers the mean",
    "IterativeImputer": f"`IterativeImputer`, {ROUNDS} rounds, fitted to {_spaced(FITTED)} of the rows",
    "mixed_rbm": "`model=mixed_rbm`, the mode, of real numbers the mean, of 20 chains for each row",
}
HEAD = f"""# Filling in a table

Made by `scripts/results imputation`. A table of {_spaced(ROWS)} rows with {BITS} bits, {CATEGORIES} categories of 3 to 6 values and {REALS} real numbers, drawn from a law that none of
the models below is of: {FACTORS} Gaussian factors, their squares and a class of {CLASSES} move thresholds of bits, maxima of categories and real
numbers. Each cell is emptied with probability {GAPS}, and each way fills in the same cells. Shares of bits and of categories that are
right, and the root mean squared error of real numbers in their standard deviations; of some 200 000, 150 000 and 150 000 cells, so that shares are known to 0.001."""
NOTES = """* Both imputers are scikit-learn's. `IterativeImputer` gets categories as indicators of all values but the first, each column divided by its standard
  deviation; with an indicator for each value, which add up to 1, its regressions leave every gap at the mean.
* `mixed_rbm` is trained on the rows with their gaps (`dataset.missing=draw`): no row is left out.
* The mean of 20 draws has a twentieth of their variance more in its squared error than the mean of the law that they are drawn from, which
  is 2.5 % of RMSE here; more chains (`n`) take as much longer."""
