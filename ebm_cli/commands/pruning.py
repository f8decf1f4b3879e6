"""The run of a search reports what it measures while it trains, and is told whether others were better by then."""

import math
from collections.abc import Mapping

from ebm_cli.commands import study
from ebm_cli.commands.search import Trial
from ebm_cli.errors import RunError, nearest
from ebm_cli.training.loop import Judge


def judge(trial: Trial, total: int) -> Judge:
    """For the recorder of a run of so many steps. What was decided before the run was interrupted stays decided.

    Raises RunError, when asked, if the run does not measure what is searched for.
    """
    shared, metric = study.running(trial), trial.search.metric[0]
    frozen = shared.study.get_trials(deepcopy=False)[trial.number]
    last = max(frozen.intermediate_values, default=0)
    over: int | None = frozen.user_attrs.get(study.PRUNED)

    def ends(step: int, values: Mapping[str, float]) -> bool:
        nonlocal over
        if over is not None or not values:
            return over is not None and step >= over
        if metric not in values:
            raise RunError(no_such_metric(metric, values))
        if not math.isfinite(values[metric]):
            return False
        with study.quiet():
            shared.report(values[metric], step)
            if last <= step < total and shared.should_prune():
                over = step
                shared.set_user_attr(study.PRUNED, step)
        return over is not None

    return ends


def no_such_metric(metric: str, there: Mapping[str, object]) -> str:
    """In words, with what is measured instead."""
    names = [name for name in there if isinstance(there[name], int | float) or there[name] is None]
    return f"metric = {metric}: a run does not report it{nearest(metric, names)} (it reports {', '.join(names)})"
