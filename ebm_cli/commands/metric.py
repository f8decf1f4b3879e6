"""What a search is judged by: can a run have it, and is it an honest thing to choose by?"""

from collections.abc import Mapping
from typing import Any

from ebm_cli import registry
from ebm_cli.commands import composition
from ebm_cli.commands.configuration import check_keys, evaluations, loop_and_schedule, reporting
from ebm_cli.commands.search import Search, measured_while_training
from ebm_cli.errors import UserError, nearest
from ebm_cli.evaluation.base import Evaluation, on_split
from ebm_cli.tracker import several


def check_config(config: Mapping[str, Any]) -> None:
    """Raise UserError for a key or a value that no run can have. Whether the parts fit each other, each trial sees."""
    check_keys(config)
    found = composition.resolved(config)
    loop_and_schedule(found)
    reporting(found)
    evaluations(found)
    several.built(found["tracker"])
    for group in registry.GROUPS:
        if group not in ("evaluation", "tracker"):
            registry.build(group, found[group])


def check_metric(config: Mapping[str, Any], search: Search) -> list[str]:
    """Sentences on what it means to choose by these metrics. Raises UserError for one that no run can have."""
    chosen, (loop, schedule) = evaluations(config), loop_and_schedule(config)
    notes = []
    for name in search.metric:
        if "/" not in name:  # of the training itself, such as seconds: the first trial shows whether it is there
            continue
        evaluation = _of(name, chosen)
        if not measured_while_training(name):
            notes.append(_optimistic(name))
        elif not (evaluation.while_training and schedule.eval_every):
            how = (
                "eval_every=N" if evaluation.while_training else f"evaluation.{_name(name, chosen)}.while_training=true"
            )
            raise UserError(f"metric = {name}: is not measured while training; have it measured with {how}")
    if search.pruner != "none" and not 0 < schedule.eval_every < loop.steps:
        notes.append(
            f"no trial ends early: eval_every = {schedule.eval_every} leaves no evaluation before step {loop.steps}; "
            f"eval_every={max(1, loop.steps // 10)} would"
        )
    return notes


def _of(name: str, chosen: Mapping[str, Evaluation]) -> Evaluation:
    """The evaluation that measures it."""
    found = _name(name, chosen)
    if found is not None and found in chosen:
        return chosen[found]
    there: Mapping[str, Any] = registry.components("evaluation")
    if found is not None:
        raise UserError(
            f"metric = {name}: evaluation has no {found} here; choose it, evaluation=[{','.join([*chosen, found])}]"
        )
    declared = {key for one in there.values() for key in one.compared}
    known = sorted({*declared, *on_split(dict.fromkeys(declared, 0), "valid")})
    near = nearest(name, known) or f"; evaluations are {', '.join(chosen)}"
    raise UserError(f"metric = {name}: no evaluation reports it{near}")


def _name(name: str, chosen: Mapping[str, Evaluation]) -> str | None:
    """Of the evaluation that reports under such a name, one that is chosen first."""
    there = registry.components("evaluation")
    prefix = name.split("/")[0]
    found = [one for one in (*chosen, *there) if prefix in _prefixes(one, there.get(one))]
    return found[0] if found else None


def _prefixes(name: str, component: type[Evaluation] | None) -> set[str]:
    return {name} | {key.split("/")[0] for key in (component.compared if component else ())}


def _optimistic(name: str) -> str:
    """Whoever chooses by the rows that judge finds what suits these rows."""
    evaluation, _, metric = name.partition("/")
    return (
        f"metric = {name}: the final evaluation measures it, on the test split where it is of rows; the best of many "
        f"trials is then better there than on new rows. To choose on the validation split: metric={evaluation}/valid/"
        f"{metric} evaluation.{evaluation}.while_training=true"
    )
