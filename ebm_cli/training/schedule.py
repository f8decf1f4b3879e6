"""When what is due in a run."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Every = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When what is due, in steps (0: never), and which checkpoints stay."""

    log_every: Annotated[int, Field(ge=1)]
    eval_every: Every
    save_every: Every
    keep_last: Annotated[int, Field(ge=1)]
    log_spaced: Every
    monitor: str | None


def due_at(step: int, every: int, total: int) -> bool:
    """Whether what is due every so many steps, and after the last, is due at this one; never for 0."""
    return every > 0 and (step % every == 0 or step == total)
