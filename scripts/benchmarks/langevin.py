"""Langevin chains on a convolutional network, beside TorchEBM's on the same network."""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from _case import Case, Contender, Maker, times_faster
from _ours import DEVICE, component, device
from torch import Tensor

from ebm_cli.model.convnet import ConvNet, transposed
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Box

STEPS, STEP_SIZE, NOISE = 60, 0.01, 0.005
OURS, BF16, PEER = "ours fp32", "ours bf16", "torchebm"
FLOOR = "convolutions alone, fp32"


def network(space: Box) -> ConvNet:
    """As shipped, the same weights for everyone."""
    model: ConvNet = component("model", "convnet").build(space, torch.zeros(space.shape), stream(0, "model"))
    return model.to(DEVICE)


def ours(space: Box, chains: int, precision: str = "fp32", *, compiled: bool = True) -> Contender:
    """Steps in a row, as training takes them."""
    where = device(precision, compiled=compiled)
    model, begin = network(space), [0]
    kernel = component("sampler", "langevin", step_size=STEP_SIZE, noise=NOISE)
    x = space.noise(chains, stream(0, "x"), DEVICE)

    def steps() -> None:
        begin[0] += 1
        with where.chain_precision():
            run(kernel, model, x, STEPS, stream(begin[0], "steps"), where.engine)

    return steps


def convolutions(space: Box, chains: int, dtype: torch.dtype) -> Contender:
    """Those of as many steps, forward and back to the image, on tensors that are there already."""
    model, last = network(space), torch.channels_last
    layers = list(model.convolutions.layers)
    weights = [layer.weight.detach().to(dtype).contiguous(memory_format=last) for layer in layers]
    x = space.noise(chains, stream(0, "x"), DEVICE).reshape(chains, *model.image).to(dtype)
    seen = [x.contiguous(memory_format=last)]
    for layer, weight in zip(layers, weights, strict=True):
        seen.append(F.conv2d(seen[-1], weight, None, layer.stride, 1))

    @torch.no_grad()
    def steps() -> None:
        for _ in range(STEPS):
            for layer, weight, x in zip(layers, weights, seen[:-1], strict=True):
                F.conv2d(x, weight, None, layer.stride, 1)
            for layer, weight, x, y in list(zip(layers, weights, seen[:-1], seen[1:], strict=True))[::-1]:
                transposed(y, weight, layer.stride[0], x.shape[2:])

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
    """Ours compiled and not, the one peer that has it, and what no way of ours can do without."""
    return {
        OURS: partial(ours, space, chains),
        BF16: partial(ours, space, chains, "bf16"),
        "ours fp32, eager": partial(ours, space, chains, compiled=False),
        PEER: partial(peer, space, chains),
        FLOOR: partial(convolutions, space, chains, torch.float32),
        "convolutions alone, bf16": partial(convolutions, space, chains, torch.bfloat16),
    }


def case(name: str, shape: tuple[int, ...], chains: int) -> Case:
    """At least half as fast again as the peer."""
    title = f"Langevin, {STEPS} steps on the ConvNet, {'x'.join(map(str, shape))}, batch {chains}."
    required = (times_faster(PEER, OURS, 1.5), times_faster(PEER, BF16, 2.5), times_faster(FLOOR, OURS, 0.6))
    return Case(f"langevin_{name}", title, partial(makers, Box(shape), chains), required, OURS, FLOOR, rounds=15)


CASES = (case("digits", (8, 8), 64), case("mnist", (1, 28, 28), 128))
