"""What data take of memory: a whole run on as many bits as MNIST has, beyond one on hardly any."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import _command
import numpy as np
from _case import MEGABYTES, Case, Contender, Maker, Required, quotient
from _earlier import BUILD, earlier

OURS, PLAIN = "ours", "ours, file not compressed"
BUILD_PLAIN = f"{BUILD}, file not compressed"
ROWS, FEW = 60_000, 100
_SETTINGS = (
    "model.hidden=16", "batch_size=50", "steps=300", "evaluation=[]", "device.compile=never", "device=cpu",
    "tracker=none",
)  # fmt: skip
_folder = tempfile.TemporaryDirectory(prefix="ebm-bench-")


@cache
def file_of(rows: int, *, compressed: bool) -> Path:
    """Bits (rows, 28, 28), of which a fifth is 1, one to a byte."""
    path = Path(_folder.name, f"{rows}-{compressed}.npz")
    bits = (np.random.default_rng(0).random((rows, 28, 28), np.float32) < 0.2).astype(np.uint8)
    (np.savez_compressed if compressed else np.savez)(path, train=bits)
    return path


def resident(rows: int, *, compressed: bool) -> float:
    """Peak resident memory, in bytes, of a process that trains on them."""
    command = [sys.executable, str(Path(__file__).with_name("_train_memory.py")), str(_command.ROOT)]
    words = ["dataset=array", f"dataset.path={file_of(rows, compressed=compressed)}", *_SETTINGS]
    with tempfile.TemporaryDirectory(prefix="ebm-bench-") as parent:
        done = subprocess.run(
            [*command, *words, f"hydra.run.dir={parent}/run"], capture_output=True, text=True, cwd=_command.ROOT
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout)


def beyond_few(*, compressed: bool) -> Contender:
    """What the data add."""
    return lambda: resident(ROWS, compressed=compressed) - smallest()


@cache
def smallest() -> float:
    """Of the imports, the model and all else that a run needs whatever its data."""
    return min(resident(FEW, compressed=True) for _ in range(3))


def makers(quick: bool) -> Mapping[str, Maker]:
    """Of a file as `numpy.savez_compressed` writes it, and as `numpy.savez` does."""
    return {
        OURS: partial(beyond_few, compressed=True),
        PLAIN: partial(beyond_few, compressed=False),
        BUILD: earlier("mnist_memory", "beyond_few", compressed=True),
        BUILD_PLAIN: earlier("mnist_memory", "beyond_few", compressed=False),
    }


def _at_most(ours: str, before: str, bound: float) -> Required:
    return Required(f"{ours} / {before}", lambda samples: quotient(samples, ours, before), bound, at_least=False)


CASES = (
    Case(
        "mnist_memory",
        f"Peak resident memory of `ebm train` on {ROWS:,} rows of 784 bits, beyond that of {FEW} rows.",
        makers,
        (_at_most(OURS, BUILD, 0.25), _at_most(PLAIN, BUILD_PLAIN, 0.25)),
        OURS,
        unit=MEGABYTES,
        rounds=3,
        warmup=0,
    ),
)
