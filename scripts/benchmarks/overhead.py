"""What the record of a run costs: logging, evaluation while training, pictures, checkpoints, wandb (offline)."""

import os
from collections.abc import Mapping
from functools import partial

from _case import SECONDS, AbsentError, Case, Contender, Maker, Required, quotient
from _command import SHARED_DATA, train

DEFAULT, BARE = "as shipped", "nothing recorded"
DIGITS = ("dataset=digits",)
# A third of the recipe, with as many evaluations and checkpoints as the whole has.
MNIST = ("experiment=rbm_mnist", "eval_every=5000", "save_every=5000")


def makers(parts: tuple[str, ...], steps: int, quick: bool) -> Mapping[str, Maker]:
    """The same training with and without its record; a quick one still sees each of its parts once."""
    steps = 2000 if quick else steps
    common = (*parts, f"steps={steps}", "evaluation=[pseudo_likelihood]")
    bare = (f"log_every={steps}", "eval_every=0", "save_every=0", "tracker=none")
    return {
        DEFAULT: partial(training, *common, "tracker.mode=offline"),
        BARE: partial(training, *common, *bare),
    }


def training(*overrides: str) -> Contender:
    """Seconds of the training loop, as the run's own summary has them."""
    if "experiment=rbm_mnist" in overrides and "EBM_DATA" not in os.environ and not (SHARED_DATA / "MNIST").exists():
        raise AbsentError("no MNIST (EBM_DATA)")
    return lambda: train(*overrides).training


def case(name: str, parts: tuple[str, ...], steps: int) -> Case:
    """At most 3 % more than without."""
    title = f"`ebm train {' '.join(parts)} steps={steps}`: seconds of training, any compiling included."
    required = Required(f"{DEFAULT} / {BARE}", lambda samples: quotient(samples, DEFAULT, BARE), 1.03, at_least=False)
    how = partial(makers, parts, steps)
    return Case(f"overhead_{name}", title, how, (required,), BARE, unit=SECONDS, rounds=2, warmup=0)


CASES = (case("digits", DIGITS, 20_000), case("mnist", MNIST, 25_000))
