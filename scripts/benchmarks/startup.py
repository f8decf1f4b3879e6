"""How long one waits before anything happens; each in a process of its own."""

from collections.abc import Mapping

import numpy as np
from _case import SECONDS, Case, Maker, Required, Samples
from _command import ebm, train

ONE_STEP = ("dataset=digits", "steps=1", "log_every=1", "tracker=none", "evaluation=[]", "device.compile=never")
FIRST_STEP = "ebm train: the first step is done and written down"


def makers(quick: bool) -> Mapping[str, Maker]:
    """The help, and a run of one step up to its line in metrics.jsonl and up to its end."""
    return {
        "ebm --help": lambda: lambda: ebm("--help"),
        FIRST_STEP: lambda: lambda: train(*ONE_STEP).first_record,
        "ebm train steps=1: start to end": lambda: lambda: train(*ONE_STEP).whole,
    }


def first_step(samples: Samples) -> float:
    """Seconds from the start of the process."""
    return float(np.median(samples[FIRST_STEP]))


TITLE = "From the start of the process; `ebm train dataset=digits` without compiling."
REQUIRED = (Required(FIRST_STEP, first_step, 4.0, at_least=False),)
CASES = (Case("startup", TITLE, makers, REQUIRED, unit=SECONDS, rounds=5, warmup=1),)
