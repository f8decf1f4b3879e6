"""All jobs of a multirun looked at before the first is begun: what is wrong with one is said while nothing is lost."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ebm_cli.commands import composition, sweep
from ebm_cli.commands.configuration import check_whole, choices, load_plugins
from ebm_cli.commands.sweep import Wanted
from ebm_cli.errors import UserError
from ebm_cli.record import ledger
from ebm_cli.record.ledger import Ledger
from ebm_cli.record.run import CONFIG
from ebm_cli.terminal import told

_SAID = 3  # things that are wrong, of which each may be wrong with many jobs
_NUMBERS = 5


def check(found: Ledger, wanted: Sequence[Wanted]) -> None:
    """Raise UserError if jobs that would begin now cannot be, by their keys and by how their parts fit together.

    What their data say is seen when they begin; a job that goes on has been looked at before.
    """
    numbers = {entry.identity: entry.number for entry in found.entries if not (found.home(entry) / CONFIG).exists()}
    bad: dict[str, list[int]] = {}
    composed: dict[str, str | None] = {}
    for one in told(wanted, "jobs checked"):
        number = numbers.get(ledger.identity(sweep.identifying(one.config)))
        why = None if number is None else _refusal(one, composed)
        if number is not None and why is not None:
            bad.setdefault(why, []).append(number)
    if bad:
        raise UserError(f"{_sentence(bad)}; no job was begun")


def _sentence(bad: Mapping[str, Sequence[int]]) -> str:
    said = [f"{_jobs(numbers)}: {why}" for why, numbers in bad.items()]
    more = sum(map(len, [*bad.values()][_SAID:]))
    return "; ".join([*said[:_SAID], *([f"and {more} more job{'s' if more > 1 else ''}"] if more else [])])


def _jobs(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_NUMBERS]))
    more = len(numbers) - _NUMBERS
    return f"job{'s' if len(numbers) > 1 else ''} {shown}{f' and {more} more' if more > 0 else ''}"


def _refusal(one: Wanted, composed: dict[str, str | None]) -> str | None:
    """Why a job cannot begin; what a model is composed of is read once for all."""
    try:
        load_plugins(one.config["plugins"])
        check_whole(one.config, choices(one.config, one.chosen))
    except UserError as error:
        return str(error)
    model = json.dumps(one.config["model"], sort_keys=True)
    if model not in composed:
        composed[model] = _unread(one.config)
    return composed[model]


def _unread(config: Mapping[str, Any]) -> str | None:
    try:
        composition.resolved(config)
    except UserError as error:
        return str(error)
    return None
