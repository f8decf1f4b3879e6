"""metrics.jsonl as a data frame."""

import json
from typing import TYPE_CHECKING, Any

from ebm_cli.errors import UserError, install
from ebm_cli.record import files
from ebm_cli.record.run import Run

if TYPE_CHECKING:
    import pandas as pd


def metrics(run: Run) -> "pd.DataFrame":
    """A line for each step that was logged, by its number, and a column for each metric; NaN where it was not measured.

    Raises UserError without pandas.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise UserError(f"pandas is not installed; it comes with an extra, {install('notebook')}") from error
    if not files.there(run.path, run.metrics.name):
        raise UserError(f"{run.path} has no {run.metrics.name}: it is no directory of a run that was trained here")
    steps: dict[int, dict[str, Any]] = {}
    for line in files.read(run.path, run.metrics.name).splitlines():
        found = _values(line)
        steps.setdefault(int(found.pop("step", 0)), {}).update(found)
    table = pd.DataFrame.from_dict(steps, orient="index").astype(float)
    return table.rename_axis("step")


def _values(line: bytes) -> dict[str, Any]:
    """Of one line; none of one that is no JSON, such as the last of a process that was killed."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
