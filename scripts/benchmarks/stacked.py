"""Many seeds of one job: in step, one after the other, and as an earlier build did them."""

import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from _case import SECONDS, AbsentError, Case, Contender, Maker, times_faster
from _command import ebm
from _earlier import BUILD, VARIABLE

SEEDS = 16
FEW = 4  # of those that go one after the other, whose time is in proportion to their number
STACKED, IN_TURN = "in step", "one after the other"


def makers(quick: bool) -> Mapping[str, Maker]:
    """The default job of `ebm train` for 16 seeds, the whole command."""
    words = ("tracker=none", *(("steps=500", "eval_every=0") if quick else ()))
    return {
        STACKED: partial(multirun, SEEDS, *words, "hydra/launcher=stacked"),
        IN_TURN: partial(multirun, FEW, *words),
        BUILD: partial(of_an_earlier_build, *words),
    }


def multirun(seeds: int, *words: str, root: str | None = None) -> Contender:
    """Seconds for all 16 seeds, found with so many."""

    def unit() -> float:
        with tempfile.TemporaryDirectory(prefix="ebm-bench-") as parent:
            every = ",".join(map(str, range(seeds)))
            line = ("train", "-m", f"seed={every}", *words, f"hydra.sweep.dir={Path(parent, 'sweep')}")
            return ebm(*line, root=root) * SEEDS / seeds

    return unit


def of_an_earlier_build(*words: str) -> Contender:
    """The same with the code of before."""
    clone = os.environ.get(VARIABLE)
    if not clone:
        raise AbsentError(f"{VARIABLE} names no clone")
    return multirun(FEW, *words, root=clone)


TITLE = (
    f"`ebm train -m` of {SEEDS} seeds, digits by a 64-64 RBM, 20 000 steps, with all evaluations: the whole command, "
    f"libraries found on disk. One after the other {FEW} seeds are done and their time is taken {SEEDS // FEW} times."
)
REQUIRED = (times_faster(BUILD, STACKED, 6.0),)
CASES = (Case("stacked_digits", TITLE, makers, REQUIRED, STACKED, unit=SECONDS, rounds=1, warmup=1),)
