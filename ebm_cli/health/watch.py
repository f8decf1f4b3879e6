"""A run is looked at while it trains, and what looks wrong is said."""

from typing import Annotated

from pydantic import Field
from typing_extensions import override

from ebm_cli.health.base import Act, Health
from ebm_cli.registry import Later, register


@register("health", "watch")
class WatchHealth(Health):
    """A verdict every `every` steps by `limits.py`: healthy, suspicious or failing, with reasons.

    What steps report is free. Chains and energies are looked at after 100, 200, 400, ... steps, and from then on as
    often as keeps the work of these looks at `share` of that of training (`probe.py`). With `act` recover a run that is
    failing goes back to where it was healthy, at most `attempts` times (`training/recovery.py`).
    """

    every: Annotated[int, Field(ge=10)]
    share: Annotated[float, Field(gt=0, lt=1)]
    act: Annotated[Act, Later("warn")]
    attempts: Annotated[int, Field(ge=1), Later(3)]
    extra_steps: Annotated[float, Field(ge=0, le=1), Later(0.0)]

    @property
    @override
    def period(self) -> int:
        return self.every

    @property
    @override
    def allowance(self) -> float:
        return self.share

    @property
    @override
    def acts(self) -> Act:
        return self.act

    @property
    @override
    def most(self) -> int:
        return self.attempts if self.act == "recover" else 0

    @property
    @override
    def extra(self) -> float:
        return self.extra_steps
