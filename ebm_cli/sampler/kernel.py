"""A sampler within another part."""

from collections.abc import Mapping
from typing import Any

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Space, names


def choose(at: str) -> str:
    """How a sampler at this key is chosen."""
    return f"choose it with sampler@{at}=NAME"


def nested(settings: Mapping[str, Any] | Sampler[Any, Any], at: str = "sampler.kernel") -> Sampler[Any, Any]:
    """The sampler that the key `at` configures, not itself made of others. Raises UserError."""
    if isinstance(settings, Sampler):
        return settings
    if not isinstance(settings, Mapping):
        raise UserError(f"{at} = {settings}: must be a sampler and its keys; {choose(at)}")
    found: Sampler[Any, Any] = registry.build("sampler", settings, at=at)
    if found.inner is not found:
        name = settings["name"]
        raise UserError(f"{at} = {name}: is made of another sampler, so it cannot be a kernel; {choose(at)}")
    return found


def exact(settings: Mapping[str, Any] | Sampler[Any, Any], at: str = "sampler.kernel") -> Sampler[Any, Any]:
    """The same, of samplers that leave the model invariant. Raises UserError."""
    found = nested(settings, at)
    if not found.leaves_invariant:
        name = found.chosen_as or (settings["name"] if isinstance(settings, Mapping) else type(found).__name__)
        raise UserError(f"{at} = {name}: does not leave the model invariant; {choose(at)}")
    return found


def below(message: str) -> str:
    """A message about a sampler's key, said of the kernel's."""
    return registry.placed(message, "sampler", "sampler.kernel")


def refusal_of_space(kernel: Sampler[Any, Any], space: Space, at: str) -> str | None:
    """Why a sampler at the key `at` does not move in a space, in one sentence, or None."""
    if type(space) not in kernel.spaces:
        return f"{at} moves in {names(kernel.spaces)} spaces, the data are {space.name}; {choose(at)}"
    why = kernel.refusal(space)
    return registry.placed(why, "sampler", at) if why else None


def refusal_of_needs(kernel: Sampler[Any, Any], at: str) -> str | None:
    """That a sampler at the key `at` asks a model for more than energies and gradients, in one sentence, or None."""
    return f"{at}: {choose(at)}, such as mala" if kernel.needs else None
