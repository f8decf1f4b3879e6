"""Missing cells of a mixed table: drawn by a mixed RBM, and filled in by scikit-learn's imputers."""

import json
import subprocess
import time
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
    "dataset=table dataset.missing=draw model=mixed_rbm model.hidden=100 objective=pcd steps=20000 batch_size=200 "
    "chains.count=200 optimizer.lr=0.003 eval_every=0 checkpoint.monitor=null evaluation=[chains] device.threads=1"
)
SAMPLE = "n=10 steps=40 device.threads=1"


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
    """Of SimpleImputer, or of IterativeImputer on one-hot columns, whose largest is the category."""
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
        width = count if count > 2 else 1
        own = filled[:, first : first + width]
        found[:, i] = own.argmax(1) if count > 2 else own[:, 0] > 0.5 if count == 2 else own[:, 0]
        first += width
    return np.where(gaps, found, table.values)


def _spread(column: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    if count <= 2:
        return column[:, None]
    return np.where(np.isnan(column)[:, None], np.nan, column[:, None] == np.arange(count))


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
    """What each way gets right, with the seconds of CPU time that scikit-learn's take; kept once they are there."""
    table = law(ROWS)
    gaps = np.random.default_rng(1).random(table.values.shape) < GAPS
    csv, kept = runs.folder / "table.csv", runs.folder / "figures.json"
    if not csv.exists():
        write(table, gaps, csv)
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in ("SimpleImputer", "IterativeImputer", "mixed_rbm"):
        if name not in found:
            began = time.process_time()
            filled = ours(runs, csv, table.counts) if name == "mixed_rbm" else by_scikit(name, table, gaps)
            found[name] = judged(table, filled, gaps) | {"seconds": time.process_time() - began}
            kept.write_text(json.dumps(found))
    return found


def text(runs: Runs, pictures: Path) -> str:
    """The page."""
    found = figures(runs)
    words = {
        "SimpleImputer": "scikit-learn's SimpleImputer: the most frequent value, of real numbers the mean",
        "IterativeImputer": f"scikit-learn's IterativeImputer, {ROUNDS} rounds, fitted to {FITTED} rows, categories one-hot",
        "mixed_rbm": "`model=mixed_rbm`, mode or mean of 10 chains",
    }
    lines = [
        f"| {words[name]} | {by['binary']:.3f} | {by['categorical']:.3f} | {by['numeric']:.3f} |"
        for name, by in found.items()
    ]
    return PAGE.format(table="\n".join(lines), train=TRAIN, sample=SAMPLE)


PAGE = """# Filling in a table

{table}
"""
