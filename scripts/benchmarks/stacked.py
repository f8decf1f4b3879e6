"""Many jobs of one multirun: in step, and one after the other as an earlier build did them."""

import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from _case import SECONDS, AbsentError, Case, Contender, Maker, times_faster
from _command import ebm, python_of
from _earlier import BUILD, VARIABLE

FEW = 2  # of those that go one after the other, whose time is in proportion to their number
STACKED = "in step"


class Sweep(NamedTuple):
    """A multirun: what its jobs are of, how many seeds, values of another key, and the steps that are timed."""

    words: tuple[str, ...]
    seeds: int
    others: tuple[str, ...]
    steps: int

    @property
    def jobs(self) -> int:
        """How many there are."""
        return self.seeds * len(self.others)

    def seconds(self, jobs: int, *words: str, root: str | None = None) -> Contender:
        """Of all jobs, found with so many: whole commands."""

        def unit() -> float:
            with tempfile.TemporaryDirectory(prefix="ebm-bench-") as parent:
                axes = [f"seed={','.join(map(str, range(min(jobs, self.seeds))))}"]
                axes += [f"{self.others[0].partition('=')[0]}={','.join(self._values(jobs))}"] if self.others[0] else []
                line = ("train", "-m", *self.words, f"steps={self.steps}", "tracker=none", *axes, *words)
                return ebm(*line, f"hydra.sweep.dir={Path(parent, 'sweep')}", root=root) * self.jobs / jobs

        return unit

    def _values(self, jobs: int) -> list[str]:
        return [one.partition("=")[2] for one in self.others[: max(1, jobs // self.seeds)]]

    def of_an_earlier_build(self) -> Contender:
        """The same with the code of before."""
        clone = os.environ.get(VARIABLE)
        if not clone:
            raise AbsentError(f"{VARIABLE} names no clone")
        python_of(clone)
        return self.seconds(FEW, root=clone)


def makers(sweep: Sweep, quick: bool) -> Mapping[str, Maker]:
    """All jobs in step, and some of them by the earlier build."""
    timed = sweep._replace(steps=20, seeds=2, others=sweep.others[:1]) if quick else sweep
    return {
        STACKED: partial(timed.seconds, timed.jobs, "hydra/launcher=stacked"),
        BUILD: timed.of_an_earlier_build,
    }


def case(name: str, what: str, sweep: Sweep, times: float) -> Case:
    """One of them, at least so many times as fast as the earlier build."""
    title = (
        f"`ebm train -m`, {sweep.jobs} jobs of {sweep.steps} steps: {what}; whole commands, libraries found on disk. "
        f"One after the other {FEW} jobs are done and their time is taken {sweep.jobs // FEW} times."
    )
    required = (times_faster(BUILD, STACKED, times),)
    return Case(name, title, partial(makers, sweep), required, STACKED, unit=SECONDS, rounds=1, warmup=1)


RATES = tuple(f"optimizer.lr={rate}" for rate in (0.0005, 0.001, 0.002, 0.004))
CASES = (
    case("stacked_digits", "16 seeds, digits by a 64-64 RBM with all evaluations", Sweep((), 16, ("",), 20_000), 6.0),
    case(
        "stacked_ising",
        "8 seeds of 4 rates, couplings of a 10 x 10 torus by GWG, 50 transitions a step",
        Sweep(("experiment=ising_recovery",), 8, RATES, 500),
        5.0,
    ),
    case("stacked_toy_2d", "16 seeds, a perceptron by PCD", Sweep(("experiment=toy_2d",), 16, ("",), 2000), 4.0),
)
