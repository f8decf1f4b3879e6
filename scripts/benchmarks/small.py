"""The update of a small model, where calls take longer than products: the job that `ebm train` does as shipped."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import _ours
import _peers
import torch
from _case import Case, Contender, Maker, times_faster
from _earlier import BUILD, earlier
from _ours import Size

from ebm_cli.device.engine import EAGER
from ebm_cli.training import step

SIZE = Size(batch=100, chains=100, sites=64, hidden=64)
WHOLE, EACH = "ours", "ours, operation by operation"
_UPDATES = 500  # counted at once: the processor's time is known to a hundredth of a second


def makers(quick: bool) -> Mapping[str, Maker]:
    """Ours, an earlier build's own way, and the same by hand and of scikit-learn."""
    return {
        WHOLE: lambda: spent(digits()),
        EACH: lambda: spent(digits(whole=False)),
        BUILD: earlier("small", "of_an_earlier_build"),
        "plain torch": lambda: spent(_peers.plain_torch(SIZE)),
        "scikit-learn": lambda: spent(_peers.scikit_learn(SIZE)),
    }


def spent(update: Callable[[], object]) -> Contender:
    """Seconds of the processor for an update, on one thread, which all of these are fastest on."""
    torch.set_num_threads(1)
    gc.freeze()  # as training does

    def unit() -> float:
        began = time.process_time()
        for _ in range(_UPDATES):
            update()
        return (time.process_time() - began) / _UPDATES

    return unit


def digits(*, whole: bool = True) -> Callable[[], object]:
    """An update of the default job: dataset=digits model=rbm objective=pcd, weights averaged."""
    where = replace(_ours.device("fp32", compiled=False), engine=EAGER)
    parts, state = _ours.run_of(default_job(), _ours.digits(), SIZE.batch, where)
    if not whole:
        return lambda: step.train_step(parts, state)
    from ebm_cli.training import whole_step  # an earlier build has none

    how = whole_step.execution(parts, state)
    return lambda: step.train_step(parts, state, how)


def of_an_earlier_build() -> Contender:
    """The same with the code of before."""
    return spent(_ours.updates(default_job(), _ours.digits(), SIZE.batch, _ours.device("fp32", compiled=False)))


def default_job() -> dict[str, dict[str, object]]:
    """The parts of `ebm train` as shipped."""
    averaged = {"lr": 0.1, "schedule": "linear", "ema": 0.998, "ema_start": 0.0}
    return {
        "dataset": _ours.configuration("dataset", "digits"),
        "model": _ours.configuration("model", "rbm", hidden=SIZE.hidden),
        "sampler": _ours.configuration("sampler", "block_gibbs"),
        "chains": _ours.configuration("chains", "persistent", count=SIZE.chains),
        "noise": _ours.configuration("noise", "fitted"),
        "objective": _ours.configuration("objective", "pcd"),
        "optimizer": _ours.configuration("optimizer", "sgd", **averaged),
    }


TITLE = (
    "One update of the default job, digits by a 64-64 RBM, 100 rows and chains: time of the processor, on one thread."
)
REQUIRED = (
    times_faster(BUILD, WHOLE, 5.0),
    times_faster("plain torch", WHOLE, 1.0),
    times_faster("scikit-learn", WHOLE, 1.7),
)
CASES = (Case("rbm_digits", TITLE, makers, REQUIRED, WHOLE, rounds=10, warmup=1),)
