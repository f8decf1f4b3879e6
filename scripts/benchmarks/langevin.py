"""Langevin chains on a convolutional network, beside TorchEBM's on the same network."""

from collections.abc import Mapping
from functools import partial

import torch
from _case import Case, Contender, Maker, times_faster
from _ours import DEVICE, component, engine
from torch import Tensor

from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Box

STEPS, STEP_SIZE, NOISE = 60, 0.01, 0.005
OURS, PEER = "ours", "torchebm"


def network(space: Box) -> EnergyModel:
    """As shipped, the same weights for everyone."""
    model: EnergyModel = component("model", "convnet").build(space, torch.zeros(space.shape), stream(0, "model"))
    return model.to(DEVICE)


def ours(space: Box, chains: int, *, compiled: bool = True) -> Contender:
    """Steps in a row, as training and sampling take them."""
    model, begin = network(space), [0]
    kernel = component("sampler", "langevin", step_size=STEP_SIZE, noise=NOISE)
    x = space.noise(chains, stream(0, "x"), DEVICE)

    def steps() -> None:
        begin[0] += 1
        run(kernel, model, x, STEPS, stream(begin[0], "steps"), engine(compiled=compiled))

    return steps


def peer(space: Box, chains: int) -> Contender:
    """`LangevinDynamics.sample`: its noise is noise_scale * sqrt(2 step_size); clamped to the same box."""
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Wrapped(BaseModel):
        def __init__(self) -> None:
            super().__init__(device=DEVICE)
            self.network = network(space).requires_grad_(requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.network.energy(x)

    scale = NOISE / (2 * STEP_SIZE) ** 0.5
    box = (space.low, space.high)
    sampler = LangevinDynamics(Wrapped(), step_size=STEP_SIZE, noise_scale=scale, clamp=box, device=DEVICE)
    x = space.noise(chains, stream(0, "x"), DEVICE)

    def steps() -> None:
        sampler.sample(x=x, n_steps=STEPS)

    return steps


def makers(space: Box, chains: int, quick: bool) -> Mapping[str, Maker]:
    """Ours compiled and not, and the one peer that has it."""
    return {
        OURS: partial(ours, space, chains),
        "ours, eager": partial(ours, space, chains, compiled=False),
        PEER: partial(peer, space, chains),
    }


def case(name: str, shape: tuple[int, ...], chains: int) -> Case:
    """At least half as fast again as the peer."""
    title = f"Langevin, {STEPS} steps on the ConvNet, {'x'.join(map(str, shape))}, batch {chains}."
    required = (times_faster(PEER, OURS, 1.5),)
    return Case(f"langevin_{name}", title, partial(makers, Box(shape), chains), required, OURS, rounds=15)


CASES = (case("digits", (8, 8), 64), case("mnist", (1, 28, 28), 128))
