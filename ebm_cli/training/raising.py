"""A rate that was lowered is raised again, nearer to what failed, once the run has been healthy for a while."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ebm_cli.training.remedies import LOWER, added, applied
from ebm_cli.training.state import Parts

_MOST = LOWER**-0.5  # times as high, each time
_WIDE, _NARROW = 1.1 * _MOST, 1.5  # times as high as the rate of now is the one that failed
_PATIENT = 4  # times as long must a rate have held that is nearer than the first of these, to be raised all the same
_LOOKS = 2  # periods that a run must be healthy for, at least
_VERIFIED = 2  # times as many steps must be left, so that a rate that fails again is found out and taken back


def failed(parts: Parts, recoveries: Sequence[Mapping[str, Any]]) -> float | None:
    """The lowest rate that failed, and was lowered for it; None if none was."""
    rates = [parts.components.optimizer.lr, *(float(did["lr"]) for did in recoveries)]
    return min((before for before, after in itertools.pairwise(rates) if after < before), default=None)


def attempts(recoveries: Sequence[Mapping[str, Any]]) -> int:
    """How often a run went back, but for rates that were raised and failed: these only end what was tried."""
    return len(_attempts(recoveries))


def holds_raised(recoveries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the rate of now is higher than the one that the run last went back with, as one of its attempts."""
    tried = _attempts(recoveries)
    return bool(tried) and float(recoveries[-1]["lr"]) > float(tried[-1]["lr"])


def _attempts(recoveries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Records that neither raise a rate nor take back one that was raised."""
    return [did for before, did in itertools.pairwise([{}, *recoveries]) if not {"raised"} & {*before, *did}]


def raised(
    parts: Parts, recoveries: Sequence[Mapping[str, Any]], step: int, period: int, *, free: bool
) -> dict[str, Any] | None:
    """The record of a rate that is raised now, at a step at which all is well; None if it stays as it is.

    With f the rate that failed and r that of now, which held for as many steps as f took to fail and for `_LOOKS`
    periods: sqrt(f r), but at most sqrt(5) r. So it comes back to f / sqrt(5) or more. Nearer than that, f / r below
    `_WIDE`, there is less to gain, and a rate that fails costs the steps that it took: r must have held four times as
    long. Nothing is tried from `_NARROW` on. `free`: steps that are lost are taken again, so that nothing waits.
    """
    too_high = failed(parts, recoveries)
    if too_high is None:
        return None
    last, going = recoveries[-1], applied(parts, recoveries)
    now = going.components
    since = [0, *(int(did["step"]) for did in recoveries)]
    held = max(since[-1] - since[-2], _LOOKS * period)
    held *= 1 if free or too_high >= _WIDE * now.optimizer.lr else _PATIENT
    near = too_high < _NARROW * now.optimizer.lr
    if near or step - since[-1] < held or going.loop.steps - step < _VERIFIED * held:
        return None
    rate = min(math.sqrt(too_high * now.optimizer.lr), _MOST * now.optimizer.lr)
    kept = {
        "chains.steps": last["chains.steps"],
        "keys": last["keys"],
        "chains": "kept",
        "raised": True,
        "more": added(recoveries),
    }
    why = f"healthy since step {since[-1]}"
    return {"step": step, "back_to": step, "why": why, "lr": rate, **kept}
