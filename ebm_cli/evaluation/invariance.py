"""Which samplers leave a model invariant, so that estimates of its log Z can go by their moves."""

from collections.abc import Iterator
from importlib import resources
from typing import Any

import yaml

from ebm_cli import registry
from ebm_cli.model.base import EnergyModel
from ebm_cli.sampler.base import Sampler


def refusal_to_anneal(model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
    """Why nothing can be annealed by this sampler, and those it can be by, or None."""
    if sampler.inner.leaves_invariant:
        return None
    fits = ", ".join(invariant(model)) or "none"
    return f"this sampler does not leave the model invariant; samplers that do and fit this model: {fits}"


def invariant(model: EnergyModel) -> Iterator[str]:
    """Names of the shipped samplers that with their default keys leave the model invariant."""
    for file in sorted((resources.files("ebm_cli.conf") / "sampler").iterdir(), key=lambda file: file.name):
        settings = yaml.safe_load(file.read_text())
        if "defaults" in settings:  # of another sampler, which is in the list itself
            continue
        sampler: Sampler[Any, Any] = registry.build("sampler", settings)
        able = type(model.space) in sampler.spaces and all(isinstance(model, need) for need in sampler.needs)
        if able and sampler.leaves_invariant and sampler.refusal(model.space) is None:
            yield file.name.removesuffix(".yaml")
