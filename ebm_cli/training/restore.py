"""What a resumed run goes on from: its newest valid checkpoint, which must be of this run and of these data."""

from dataclasses import dataclass

from ebm_cli.dataset.base import Data
from ebm_cli.errors import UserError
from ebm_cli.record import checkpoint
from ebm_cli.record.checkpoint import Checkpoint
from ebm_cli.record.checkpoint_space import described
from ebm_cli.record.run import Run
from ebm_cli.training.health import Watcher
from ebm_cli.training.schedule import Schedule
from ebm_cli.training.state import Best, Parts, TrainState

OTHER_DATA = "its dataset now reads other rows than it was trained on"


@dataclass(frozen=True)
class Restored:
    """What a resumed run goes on from. `health` is what a watcher had remembered, None if there was none."""

    metrics_bytes: int  # of metrics.jsonl when its checkpoint was saved
    behind: bool  # more was recorded than that checkpoint knows of
    notes: list[str]


def restore(run: Run, parts: Parts, state: TrainState, schedule: Schedule, watcher: Watcher) -> Restored:
    """Load the newest valid checkpoint into the state and the watcher; with a sentence for each newer, invalid one.

    A run that stopped before its first checkpoint stays at step 0. Raises UserError if checkpoints are lost, if none is
    valid, or if the data are not those it was trained on.
    """
    if not checkpoint.steps(run.checkpoints):
        _check_none_lost(run, schedule)
        return Restored(0, behind=True, notes=["no checkpoint was written yet, so the run starts again"])
    found, reasons = checkpoint.newest(run.checkpoints)
    if other_data(found, parts.data):
        raise UserError(f"resume = {run.path}: {OTHER_DATA}; put those back, or start a new run")
    try:
        _check_space(found, parts)
        state.load(found.step, found.tensors)
        if wrong := parts.components.optimizer.impossible(state.optimizer):
            raise ValueError(f"optimizer.{wrong} has negative numbers")
        best = found.numbers["best"]
        state.best = Best(int(best["step"]), float(best["value"]), _text(best.get("metric"))) if best else None
        size = int(found.numbers["metrics_bytes"])
        if "health" in found.numbers:
            watcher.load(found.numbers["health"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(f"{found.path} is a checkpoint of another model or run: {error}") from error
    run.check_metrics(size, found.numbers.get("metrics_sha256"))
    behind = bool(reasons) or run.recorded_step() > found.step
    edited = run.edited()
    notes = [f"not valid, so an older checkpoint is used: {reason}" for reason in reasons]
    return Restored(size, behind, [*notes, *([edited] if edited else [])])


def _check_space(found: Checkpoint, parts: Parts) -> None:
    """Raises ValueError if the checkpoint names another space than that of the data."""
    if found.numbers["space"] != described(parts.data.space):
        raise ValueError(f"it is of the space {found.numbers['space']}")


def _check_none_lost(run: Run, schedule: Schedule) -> None:
    """Raise UserError if there was a checkpoint: all that such a run recorded would be begun again.

    Who stops a run saves one, but not before the first step.
    """
    meta = run.read_json("metadata.json")
    ended = meta.get("status") in ("done", "pruned") or (meta.get("status") == "stopped" and meta.get("step") != 0)
    said = [f"its metadata.json says {meta['status']}"] if ended else []
    if isinstance(meta.get("checkpoint"), int):
        said.append(f"a checkpoint of step {meta['checkpoint']} was saved")
    logged = run.logged_step()
    if schedule.save_every and logged > schedule.save_every:
        said.append(f"its metrics.jsonl goes to step {logged}")
    if said:
        raise UserError(
            f"resume = {run.path}: its checkpoints are gone, though {said[0]}; put the folder checkpoints back, or "
            "start a new run"
        )


def _text(found: object) -> str | None:
    return None if found is None else str(found)


def other_data(saved: Checkpoint, data: Data) -> bool:
    """Whether these are not the data of the run that the checkpoint is of, which recorded their fingerprint."""
    return saved.numbers.get("data") not in (None, data.fingerprint)
