"""Training goes to its last step."""

from typing_extensions import override

from ebm_cli.dataset.base import Data
from ebm_cli.registry import register
from ebm_cli.stop.base import Stop, Watch


@register("stop", "none")
class NoStop(Stop):
    """Train all steps."""

    @override
    def watch(self, data: Data) -> Watch | None:
        """Nothing."""
        return None
