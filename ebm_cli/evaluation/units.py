"""Hidden units that do no work: dead, saturated, or the same as another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.evaluation.base import Result, Subject, some_rows
from ebm_cli.evaluation.table import Numbers
from ebm_cli.health.stuck import stuck

_ROWS = 1000
_SAME_COURSE, _SAME_LEVEL = 0.99, 0.05  # correlation over rows, and mean difference
_MANY = 4  # one unit in so many


@torch.no_grad()
def idle_units(subject: Subject) -> Result:
    """`units/hidden`, how many there are in all layers, and how many are idle on at most 1000 training rows.

    With p the probability that a unit is on: `units/dead` have p < 0.01 and `units/saturated` p > 0.99 on 99.9 % of the
    rows. Of the others `units/duplicate` have a unit before them in the layer whose p has a correlation above 0.99 with
    theirs and differs by less than 0.05 on average. A layer with a quarter of its units idle is a warning. Nothing is
    found for a model without hidden units.
    """
    rows = some_rows(subject.data.train, _ROWS, rng.stream(0, "units"))
    layers = [p.double() for p in subject.model.activities(rows)]
    if not layers:
        return Result({})
    counts = [_counted(p) for p in layers]
    metrics = {f"units/{name}": float(sum(count[name] for count in counts)) for name in counts[0]}
    warnings = [_warning(count, _layer(i, layers)) for i, count in enumerate(counts)]
    return Result(metrics, warnings=tuple(warning for warning in warnings if warning))


def _counted(p: Tensor) -> dict[str, int]:
    """Of one layer, p (rows, units)."""
    dead, saturated = stuck(p)
    return {
        "hidden": p.shape[1],
        "dead": int(dead.sum()),
        "saturated": int(saturated.sum()),
        "duplicate": _duplicates(p[:, ~(dead | saturated)]),
    }


def _duplicates(p: Tensor) -> int:
    """Units that go the way of one before them."""
    if p.shape[1] < 2 or len(p) < 2:
        return 0
    off = p - p.mean(0)
    off = off / off.norm(dim=0).clamp_min(torch.finfo(p.dtype).tiny)
    alike = (off.T @ off > _SAME_COURSE) & (torch.cdist(p.T, p.T, p=1) / len(p) < _SAME_LEVEL)
    return int(alike.triu(1).any(0).sum())


def _layer(number: int, layers: Sequence[Tensor]) -> str:
    return "" if len(layers) == 1 else f" of layer {number + 1}"


def _warning(count: dict[str, int], layer: str) -> str | None:
    """A sentence where many do no work."""
    idle = count["dead"] + count["saturated"] + count["duplicate"]
    if idle * _MANY < count["hidden"]:
        return None
    stuck = count["dead"] + count["saturated"] >= count["duplicate"]
    way = "a lower optimizer.lr" if stuck else "more steps, in which they grow apart"
    return (
        f"{idle} of {count['hidden']} hidden units{layer} do no work ({count['dead']} off and {count['saturated']} on "
        f"for practically all training rows, {count['duplicate']} the same as another); take {way}, or fewer hidden "
        "units"
    )


def lines(values: Numbers, split: str) -> dict[str, str]:
    """How many there are, and how many are idle."""
    keys = [f"units/{name}" for name in ("hidden", "dead", "saturated", "duplicate")]
    if not values.has(*keys):
        return {}
    hidden, dead, saturated, duplicate = (f"{values[key]:.0f}" for key in keys)
    return {"hidden units": f"{hidden}, of these {dead} dead, {saturated} saturated, {duplicate} duplicates"}
