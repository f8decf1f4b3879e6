"""A sampler within a sampler."""

from collections.abc import Mapping
from typing import Any

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.sampler.base import Sampler

CHOOSE = "choose it with sampler@sampler.kernel=NAME"


def nested(settings: Mapping[str, Any] | Sampler[Any, Any]) -> Sampler[Any, Any]:
    """The sampler that `sampler.kernel` configures, not itself made of others. Raises UserError."""
    if isinstance(settings, Sampler):
        return settings
    if not isinstance(settings, Mapping):
        raise UserError(f"sampler.kernel = {settings}: must be a sampler and its keys; {CHOOSE}")
    found: Sampler[Any, Any] = registry.build("sampler", settings, at="sampler.kernel")
    if found.inner is not found:
        name = settings["name"]
        raise UserError(f"sampler.kernel = {name}: is made of another sampler, so it cannot be a kernel; {CHOOSE}")
    return found


def below(message: str) -> str:
    """A message about a sampler's key, said of the kernel's."""
    return registry.placed(message, "sampler", "sampler.kernel")
