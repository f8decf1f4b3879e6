"""How time and memory of an update grow with rows, chains and units, for models of each kind of arithmetic."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from _case import MEGABYTES, Case, Contender, Maker, Required, Samples, quotient
from _ours import binary_rows, configuration, device, updates
from _peak import of_program
from scipy.sparse import csr_matrix
from torch import Tensor

from ebm_cli import registry
from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.space import Binary, Box, Categorical, Counts, Space

FACTORS = (2, 4, 8)
LETTERS = 21
SLACK = 1.1  # of the noise of two measurements


class Shape(NamedTuple):
    """Rows of a batch, chains, sites (words known, letters, pixels) and hidden units."""

    batch: int
    chains: int
    visible: int
    hidden: int


class Kind(NamedTuple):
    """The update of one model: where it begins, and the axes that it has, each with the power its arithmetic has."""

    base: Shape
    axes: Mapping[str, int]
    update: Callable[[Shape], Callable[[], None]]

    def shapes(self) -> dict[str, Shape]:
        """The first, and each axis by itself some times as large."""
        found = {"as it begins": self.base}
        for axis in self.axes:
            for n in FACTORS:
                found[f"{axis} x {n}"] = self.base._replace(**{axis: n * getattr(self.base, axis)})
        return found


def rbm(shape: Shape) -> Callable[[], None]:
    """PCD-1 by block Gibbs."""
    return _rbm(shape, "block_gibbs")


def gwg(shape: Shape) -> Callable[[], None]:
    """PCD-1 by Gibbs-with-Gradients on the same model."""
    return _rbm(shape, "gwg")


def potts(shape: Shape) -> Callable[[], None]:
    """PCD-1 by Gibbs sweeps, all pairs of letters coupled."""
    letters = torch.randint(LETTERS, (shape.batch, shape.visible), generator=torch.Generator().manual_seed(0))
    space = Categorical((shape.visible, LETTERS))
    return _pcd(shape, space, letters.byte(), "gibbs", "potts")


def rsm(shape: Shape) -> Callable[[], None]:
    """CD-1 of documents of 90 words, so that more words known are more that are absent."""
    draws, share = np.random.default_rng(0), 1 / np.arange(10, shape.visible + 10)
    rows = SparseRows.of(csr_matrix(draws.multinomial(90, share / share.sum(), shape.batch)))
    parts = {
        "dataset": configuration("dataset", "bag_of_words"),
        "model": configuration("model", "replicated_softmax", hidden=shape.hidden),
        "sampler": configuration("sampler", "block_gibbs"),
        "chains": configuration("chains", "data"),
        "objective": configuration("objective", "cd"),
    }
    return _update(parts, shape.batch, Counts((shape.visible,), 90), rows)


def convnet(shape: Shape) -> Callable[[], None]:
    """Ten Langevin steps; images twice as wide have twice as many pixels."""
    space = Box((1, 8, shape.visible // 8))
    rows = torch.rand(shape.batch, *space.shape, generator=torch.Generator().manual_seed(0))
    return _pcd(shape, space, rows, "langevin", "convnet", steps=10)


def _rbm(shape: Shape, sampler: str) -> Callable[[], None]:
    rows = binary_rows(shape.batch, shape.visible)
    return _pcd(shape, Binary((shape.visible,)), rows, sampler, "rbm", hidden=shape.hidden)


def _pcd(
    shape: Shape, space: Space, rows: Tensor, sampler: str, model: str, *, steps: int = 1, **keys: Any
) -> Callable[[], None]:
    parts = {
        "dataset": configuration("dataset", "digits"),
        "model": configuration("model", model, **keys),
        "sampler": configuration("sampler", sampler),
        "chains": configuration("chains", "persistent", count=shape.chains, steps=steps),
        "objective": configuration("objective", "pcd"),
    }
    return _update(parts, shape.batch, space, rows)


def _update(
    parts: dict[str, dict[str, Any]], batch: int, space: Space, rows: Tensor | SparseRows
) -> Callable[[], None]:
    registry.load_components()
    split = Split(space, rows, scale=1.0, stochastic=False, labels=None)
    of_all = {"noise": configuration("noise", "fitted"), "optimizer": configuration("optimizer", "sgd", lr=1e-4)}
    return updates(parts | of_all, Data(space, split, None, split), batch, device("fp32", compiled=False))


_ALL = {"batch": 1, "chains": 1, "visible": 1, "hidden": 1}
KINDS = {
    "rbm": Kind(Shape(100, 100, 784, 500), _ALL, rbm),
    "gwg": Kind(Shape(100, 100, 784, 500), _ALL, gwg),
    "potts": Kind(Shape(100, 100, 20, 0), {"batch": 1, "chains": 1, "visible": 2}, potts),
    "rsm": Kind(Shape(100, 0, 2000, 50), {"batch": 1, "visible": 1, "hidden": 1}, rsm),
    "convnet": Kind(Shape(64, 64, 256, 0), {"batch": 1, "chains": 1, "visible": 1}, convnet),
}


def time_makers(name: str, quick: bool) -> Mapping[str, Maker]:
    """An update of each shape."""
    kind = KINDS[name]
    return {shape: partial(kind.update, values) for shape, values in kind.shapes().items()}


def memory_makers(name: str, quick: bool) -> Mapping[str, Maker]:
    """The peak of a process that makes some updates, beyond that of one with a tiny model."""
    return {shape: partial(_memory, name, values) for shape, values in KINDS[name].shapes().items()}


def _memory(name: str, shape: Shape) -> Contender:
    return lambda: resident(name, shape) - smallest(name)


@cache
def smallest(name: str) -> float:
    """Of the imports, the threads and all else that every run needs."""
    return min(resident(name, Shape(2, 2, 16, 2)) for _ in range(3))


def resident(name: str, shape: Shape) -> float:
    """Peak resident memory, in bytes, of a fresh process."""
    return of_program("_growth_memory.py", name, *shape)


def _required(name: str) -> tuple[Required, ...]:
    found = []
    for axis, power in KINDS[name].axes.items():
        for n in FACTORS:
            value = partial(_growth, over=f"{axis} x {n}", by=n**power)
            found.append(Required(f"growth / {n**power}: {axis} x {n}", value, SLACK, at_least=False))
    return tuple(found)


def _growth(samples: Samples, over: str, by: int) -> float:
    return quotient(samples, over, "as it begins") / by


def _cases(name: str) -> tuple[Case, Case]:
    base = ", ".join(f"{axis} {getattr(KINDS[name].base, axis)}" for axis in KINDS[name].axes)
    of = f"{name} ({KINDS[name].update.__doc__}) At first: {base}."
    required = _required(name)
    return (
        Case(f"growth_time_{name}", f"An update of {of}", partial(time_makers, name), required, rounds=9),
        Case(
            f"growth_memory_{name}",
            f"Peak resident memory of updates of {of}",
            partial(memory_makers, name),
            required,
            unit=MEGABYTES,
            rounds=3,
            warmup=0,
        ),
    )


CASES = tuple(case for name in KINDS for case in _cases(name))
