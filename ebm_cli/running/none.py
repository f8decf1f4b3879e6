"""Nothing follows the run."""

from torch import Tensor
from typing_extensions import override

from ebm_cli.evaluation.base import Subject
from ebm_cli.registry import register
from ebm_cli.running.base import Kept, Running


@register("running", "none")
class NoRunning(Running):
    """Estimate nothing along the way."""

    follows = False

    @override
    def begun(self, subject: Subject) -> Kept:
        return {}

    @override
    def followed(self, subject: Subject, kept: Kept) -> Kept:
        return {}

    @override
    def found(self, kept: Kept) -> dict[str, float]:
        return {}

    @override
    def of_rows(self, subject: Subject, kept: Kept, x: Tensor) -> dict[str, float]:
        return {}
