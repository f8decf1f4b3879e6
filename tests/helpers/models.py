"""Small targets with every parameter non-zero: every shipped model on every space it takes."""

from functools import lru_cache

import numpy as np
import torch

from ebm_cli import registry
from ebm_cli.model.base import EnergyModel, Intractable
from ebm_cli.model.exponential_family import TruncatedProduct
from ebm_cli.model.gaussian_rbm import GaussianRBM
from ebm_cli.model.harmonium import DiscreteHarmonium
from ebm_cli.model.mixed_rbm import MixedRBM
from ebm_cli.model.policy import PolicyModel
from ebm_cli.rng import stream
from ebm_cli.space import Box, Categorical, Counts, Discrete, Mixed, Space, Spin, Words
from helpers.components import SMALL, SMALL_SPACES, shipped


def randomised(model: EnergyModel, seed: int = 1) -> EnergyModel:
    """Every parameter asymmetric and non-zero (a zero hides its own misuse), in float64.

    They come from numpy alone, so that the targets stay as they are when `ebm_cli.rng` gives other numbers.
    """
    model = model.double()
    layers = any(isinstance(layer, torch.nn.Linear) for layer in model.modules())
    scale = 0.4 if layers else 1.0  # the energies of a network would else differ by hundreds
    if isinstance(model, DiscreteHarmonium) and isinstance(model.space, Spin):
        scale = 0.5  # spins lie twice as far apart as bits
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            digest = np.frombuffer(stream(seed, "parameter", i).digest, np.uint64)
            values = np.random.Generator(np.random.Philox(key=digest)).standard_normal(tuple(parameter.shape))
            parameter.copy_(scale * torch.from_numpy(np.asarray(values)))
        if isinstance(model, GaussianRBM | MixedRBM):
            model.r.mul_(0.3)  # over widths of 4 a step of 0.1 would take thousands
    return model


def mean_of(space: Space) -> torch.Tensor:
    """A mean that data could have."""
    if isinstance(space, Categorical):
        return torch.arange(1.0, space.values + 1).expand(space.shape) / (space.values * (space.values + 1) / 2)
    return torch.full((space.width,) if isinstance(space, Mixed) else space.shape, 0.4)


def small_model(choice: str, space: Space, seed: int = 1, **changes) -> EnergyModel:
    """A shipped model on a small space, randomised."""
    config = shipped("model")[choice]
    spec = registry.build("model", config | {k: v for k, v in SMALL.items() if k in config} | changes)
    return randomised(spec.build(space, mean_of(space), stream(seed, "model")), seed)


def _pairs() -> dict[str, tuple[str, Space]]:
    specs = {choice: registry.components("model")[config["name"]] for choice, config in shipped("model").items()}
    return {
        f"{choice}-{space.name}": (choice, SMALL_SPACES[space])
        for choice, spec in specs.items()
        if "parts" not in shipped("model")[choice]  # a composition is of nothing as shipped
        if not issubclass(spec.builds, Intractable)
        for space in spec.spaces
        if space not in (Words, Counts)  # of no single states: test_log_bilinear.py, test_replicated_softmax.py
    }


def for_energies(component) -> bool:
    """Whether a sampler or an objective is made for models of its own kind whose energy can be computed."""
    return not any(issubclass(need, (Intractable, PolicyModel)) for need in component.needs)


PAIRS = _pairs()  # every shipped model whose energy can be computed on every space it takes
DISCRETE = [name for name, (_, space) in PAIRS.items() if isinstance(space, Discrete)]


WALLED = "truncated-boxed"  # no shipped model of a box has a log Z that is known, this one has, and mass at its walls


def truncated() -> TruncatedProduct:
    """Two Gaussians, one cut off at the upper wall near its top, one at both."""
    mean, std = torch.tensor([[1.5, -0.2]], dtype=torch.float64), torch.tensor([[0.7, 1.5]], dtype=torch.float64)
    return TruncatedProduct(Box((1, 2), -1.0, 2.0), mean, std)


def target(name: str) -> EnergyModel:
    """One of PAIRS, or that with mass at its walls, in float64."""
    return truncated() if name == WALLED else small_model(*PAIRS[name])


@lru_cache
def example(name: str) -> EnergyModel:
    """The target as something to ask and never to change: building it for each question would take longer."""
    return target(name)


def names_of(kind: type) -> list[str]:
    """Names of the targets that are models of this kind."""
    return [name for name in PAIRS if isinstance(example(name), kind)]


def double_states(model: EnergyModel) -> torch.Tensor:
    """Every configuration of a small discrete space in float64, in counting order."""
    assert isinstance(model.space, Discrete)
    return model.space.enumerate().double()


def exact_p(model: EnergyModel) -> torch.Tensor:
    """p(x) of every configuration, from the energies alone."""
    with torch.no_grad():
        return torch.softmax(-model.double().energy(double_states(model)), 0)
