"""Nobody looks how training goes."""

from typing_extensions import override

from ebm_cli.health.base import Health
from ebm_cli.registry import register


@register("health", "none")
class NoHealth(Health):
    """No looks, no verdict."""

    @property
    @override
    def period(self) -> int:
        return 0

    @property
    @override
    def allowance(self) -> float:
        return 0.0
