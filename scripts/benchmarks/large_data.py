"""A data set of a million rows beside one of ten thousand: what it adds to a run in memory, and to each step."""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import _command
import numpy as np
from _case import MEGABYTES, MS, Case, Contender, Maker, Required, quotient

MANY, FEW = 1_000_000, 10_000
KINDS = {"bits": 2, "grey levels": 256}
"""How many values there are, each in a byte; those of the second stay in their file."""
_AT_ONCE = 10_000  # rows that are written
_SHORT, _LONG = 200, 1200  # steps
_SETTINGS = ("model=rbm", "evaluation=[]", "device.compile=never", "device=cpu", "tracker=none")
_folder = tempfile.TemporaryDirectory(prefix="ebm-bench-")


@cache
def file_of(rows: int, values: int) -> Path:
    """Numbers below `values` (rows, 784), uint8, in a .npy file."""
    path, draws = Path(_folder.name, f"{rows}-{values}.npy"), np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 784))
    for first in range(0, rows, _AT_ONCE):
        array[first : first + _AT_ONCE] = draws.integers(0, values, (_AT_ONCE, 784), np.uint8)
    array.flush()
    return path


def run(rows: int, values: int, steps: int) -> tuple[float, float]:
    """Peak resident memory in bytes, and seconds of CPU time, of a process that trains on them."""
    command = [sys.executable, str(Path(__file__).with_name("_train_memory.py")), str(_command.ROOT)]
    words = ["dataset=array", f"dataset.path={file_of(rows, values)}", *_SETTINGS, f"steps={steps}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="ebm-bench-") as parent:
        done = subprocess.run(
            [*command, *words, f"hydra.run.dir={parent}/run"], capture_output=True, text=True, cwd=_command.ROOT
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def added(values: int) -> Contender:
    """Bytes that many rows take beyond few."""
    return lambda: run(MANY, values, _SHORT)[0] - run(FEW, values, _SHORT)[0]


def step(rows: int, values: int) -> Contender:
    """Seconds of CPU time of one step, of those beyond the first."""
    return lambda: (run(rows, values, _LONG)[1] - run(rows, values, _SHORT)[1]) / (_LONG - _SHORT)


def _named(rows: int, kind: str) -> str:
    return f"{rows:,} rows of {kind}"


def memory_makers(quick: bool) -> Mapping[str, Maker]:
    """Of both kinds."""
    return {kind: partial(added, values) for kind, values in KINDS.items()}


def step_makers(quick: bool) -> Mapping[str, Maker]:
    """Of both kinds, with few rows and with many."""
    return {_named(rows, kind): partial(step, rows, values) for kind, values in KINDS.items() for rows in (FEW, MANY)}


def _megabytes(kind: str) -> Required:
    return Required(f"{kind}, MB", lambda samples: float(np.median(samples[kind])) / 1e6, 1000, at_least=False)


def _ratio(kind: str) -> Required:
    many, few = _named(MANY, kind), _named(FEW, kind)
    return Required(f"{many} / {few}", lambda samples: quotient(samples, many, few), 1.1, at_least=False)


CASES = (
    Case(
        "large_data_memory",
        f"Peak resident memory of `ebm train` on {MANY:,} x 784 bytes in a .npy file, beyond that of {FEW:,} rows.",
        memory_makers,
        tuple(map(_megabytes, KINDS)),
        unit=MEGABYTES,
        rounds=3,
        warmup=0,
    ),
    Case(
        "large_data_step",
        "CPU time of a training step of an RBM with 64 hidden units on such rows.",
        step_makers,
        tuple(map(_ratio, KINDS)),
        unit=MS,
        rounds=5,
        warmup=0,
    ),
)
