"""Whether a run of a search is worse than the others by then.

Optuna's own median is of the trials that were done, which are those that were good enough: so it rises, and comes to
end runs that are better than most. Here a trial that ended early counts too, with the best that it had.
"""

from statistics import median
from typing import Any

WARM_UP = 5
"""More than one part in so many of the steps is trained before a run may end: until then all are alike."""


class Median:
    """A pruner of optuna: ends what is worse at its best so far than half of the others were by then.

    At least `fewest` others must be done.
    """

    def __init__(self, fewest: int, total: int) -> None:
        self.fewest, self.total = fewest, total

    def prune(self, study: Any, trial: Any) -> bool:
        """Whether the trial is to end at the last step that it reported."""
        step = max(trial.intermediate_values, default=0)
        if WARM_UP * step <= self.total:
            return False
        sign = 1 if study.direction.name == "MAXIMIZE" else -1
        others = [one for one in study.get_trials(deepcopy=False) if one.state.name in ("COMPLETE", "PRUNED")]
        known = [(one.state.name, best) for one in others if (best := _best(one, step, sign)) is not None]
        if not known or sum(name == "COMPLETE" for name, _ in known) < self.fewest:
            return False
        own = _best(trial, step, sign)
        return own is not None and own < median(best for _, best in known)


def _best(trial: Any, step: int, sign: int) -> float | None:
    """The best until this step, times the sign."""
    return max((sign * value for at, value in trial.intermediate_values.items() if at <= step), default=None)
