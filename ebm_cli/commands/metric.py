"""What a search is judged by: can a run have it, and is it an honest thing to choose by?"""

from collections.abc import Mapping
from typing import Any

from ebm_cli import registry
from ebm_cli.commands import composition
from ebm_cli.commands.configuration import check_keys, evaluations, loop_and_schedule, prefixes, reporting
from ebm_cli.commands.search import Search, measured_while_training
from ebm_cli.errors import UserError, nearest
from ebm_cli.evaluation.base import Evaluation, of_split, on_split
from ebm_cli.tracker import several

_OF_A_RUN = ("seconds", "training_seconds", "steps", "judged_step", "loss", "gradient_norm", "learning_rate")
_OF_OBJECTIVES = ("log_z", "accuracy", "cross_entropy")  # which some log by the name that an evaluation has too
_BESIDE = (
    *("units/hidden", "units/dead", "units/saturated", "units/duplicate"),
    *("baseline/independent", "best/step", "last/step"),
)
"""What the end of a run finds besides its evaluations."""


def check_config(config: Mapping[str, Any]) -> None:
    """Raise UserError for a key or a value that no run can have. Whether the parts fit each other, each trial sees."""
    check_keys(config)
    found = composition.resolved(config)
    loop_and_schedule(found)
    reporting(found)
    evaluations(found)
    several.built(found["tracker"])
    for group in registry.TOP:
        if group not in ("evaluation", "tracker"):
            registry.build(group, found[group])


def check_metric(config: Mapping[str, Any], search: Search) -> list[str]:
    """Sentences on what it means to choose by these metrics. Raises UserError for one that no run can have."""
    chosen, (loop, schedule) = evaluations(config), loop_and_schedule(config)
    notes = []
    for name in search.metric:
        if "/" not in name:
            _check_of_the_run(name, chosen, plugins=bool(config["plugins"]))
            continue
        if name in (*_BESIDE, f"best/{schedule.monitor}", f"last/{schedule.monitor}"):
            continue
        evaluation = _of(name, chosen)
        _check_reported(name, evaluation)
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


def _check_of_the_run(name: str, chosen: Mapping[str, Evaluation], *, plugins: bool) -> None:
    """A name without an evaluation: of the run itself, or logged by its objective, as the first evaluation shows.

    Raises UserError for one that is spelt nearly as one that every run has, or that an evaluation reports.
    """
    if name in _OF_A_RUN:
        return
    reported = [_while_trained(each) for one in chosen.values() for each in one.reports]
    owners = [each for each in reported if each.rpartition("/")[2] == name and name not in _OF_OBJECTIVES]
    if owners:
        raise UserError(f"metric = {name}: say whose it is, metric={' or '.join(owners)}")
    near = "" if plugins else nearest(name, [*_OF_A_RUN])
    if near:
        raise UserError(f"metric = {name}: no run reports it{near}")


def _check_reported(name: str, evaluation: Evaluation) -> None:
    """Raises UserError for what the evaluation is known not to find."""
    found = evaluation.reports
    if found and not {*found} & {name, *(of_split({name: 0}, split).popitem()[0] for split in ("valid", "train"))}:
        known = [_while_trained(each) for each in found] if measured_while_training(name) else [*found]
        alike = nearest(name.rpartition("/")[2], [each.rpartition("/")[2] for each in known])
        near = nearest(name, known) if alike else f"; it reports {', '.join(known)}"
        raise UserError(f"metric = {name}: {name.partition('/')[0]} does not report it{near}")


def _while_trained(name: str) -> str:
    """What a metric is called on the validation split."""
    return on_split({name: 0}, "valid").popitem()[0]


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
    return {name} | (set() if component is None else prefixes(component))


def _optimistic(name: str) -> str:
    """Whoever chooses by the rows that judge finds what suits these rows."""
    evaluation, _, metric = name.partition("/")
    return (
        f"metric = {name}: the final evaluation measures it, on the test split where it is of rows; the best of many "
        f"trials is then better there than on new rows. To choose on the validation split: metric={evaluation}/valid/"
        f"{metric} evaluation.{evaluation}.while_training=true"
    )
