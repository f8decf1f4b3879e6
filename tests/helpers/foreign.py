"""Models of other packages as this one builds them."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ebm_cli.model.base import EnergyModel
from ebm_cli.peers import formats
from ebm_cli.peers.foreign import Foreign
from ebm_cli.rng import stream
from helpers.components import component


def read(path: Path, form: str = "auto", checkpoint: str | None = None, letters: str | None = None) -> Foreign:
    """The model in a file, read anew."""
    formats.read.cache_clear()
    return formats.read(path, form, checkpoint, letters)


def built(found: Foreign) -> EnergyModel:
    """The model with the weights of a file, in float64."""
    keys = {key: value for key, value in found.model.items() if key != "name"}
    model = component("model", found.model["name"], **keys).build(
        found.space, torch.full(found.space.shape, 0.5), stream(0)
    )
    model.load_state_dict(dict(found.weights), strict=False)
    return model.double()


def needs(name: str) -> pytest.MarkDecorator:
    """Skips a test where a package is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed: extra bench")
