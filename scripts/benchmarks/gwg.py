"""Gradient-informed samplers: one step of 100 chains, beside a plain implementation of the paper's pseudo-code."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from _case import Case, Contender, Maker, times_faster
from _ours import DEVICE, component, engine
from torch import Tensor

from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Binary, Spin

CHAINS, STEPS = 100, 20
OURS = "ours"


def rbm() -> EnergyModel:
    """784-500, with weights of some size."""
    model: EnergyModel = component("model", "rbm", hidden=500, weight_std=0.1).build(
        Binary((784,)), torch.full((784,), 0.2), stream(0, "model")
    )
    return model.to(DEVICE)


def ising() -> EnergyModel:
    """A 50 x 50 torus at sigma 0.2, with fields."""
    spec = component("model", "ising", coupling=0.4, bias=0.0)
    model: EnergyModel = spec.build(Spin((50, 50)), torch.full((50, 50), 0.5), stream(0, "model"))
    with torch.no_grad():
        dict(model.named_parameters())["b"].copy_(0.1 * normal((2500,), stream(0, "fields")))
    return model.to(DEVICE)


def ours(make: Callable[[], EnergyModel], chains: int, sampler: str, *, compiled: bool = True) -> Contender:
    """STEPS steps in a row, as training and sampling take them; seconds of one."""
    model, kernel, begin = make(), component("sampler", sampler), [0]
    x = model.space.noise(chains, stream(0, "x"), DEVICE)

    def steps() -> None:
        begin[0] += 1
        run(kernel, model, x, STEPS, stream(begin[0], "steps"), engine(compiled=compiled))

    return steps


def plain(make: Callable[[], EnergyModel], chains: int) -> Contender:
    """Algorithm 1 of Grathwohl et al. 2021 as it is written, by automatic differentiation."""
    model = make()
    x = model.space.noise(chains, stream(0, "x"), DEVICE).flatten(1)
    spins, shape = isinstance(model.space, Spin), model.space.shape

    def f(x: Tensor) -> Tensor:
        return -model.energy(x.reshape(-1, *shape))

    def proposal(x: Tensor) -> tuple[Tensor, torch.distributions.OneHotCategorical]:
        x = x.requires_grad_()
        value = f(x)
        (grad,) = torch.autograd.grad(value.sum(), x)
        gain = -2 * x * grad if spins else -(2 * x - 1) * grad
        return value.detach(), torch.distributions.OneHotCategorical(logits=gain.detach() / 2)

    def step(x: Tensor) -> Tensor:
        value, forth = proposal(x)
        x = x.detach()
        flip = forth.sample()
        moved = x * (1 - 2 * flip) if spins else (1 - x) * flip + x * (1 - flip)
        value_moved, back = proposal(moved)
        log_ratio = value_moved - value + back.log_prob(flip) - forth.log_prob(flip)
        accept = (log_ratio.exp() > torch.rand_like(log_ratio)).float()[:, None]
        return moved.detach() * accept + x * (1 - accept)

    def steps() -> None:
        y = x.clone()
        for _ in range(STEPS):
            y = step(y)

    return steps


def makers(make: Callable[[], EnergyModel], chains: int, quick: bool) -> Mapping[str, Maker]:
    """GWG each way; discrete Langevin and, on the lattice, its checkerboard beside it."""
    found: dict[str, Maker] = {
        OURS: partial(ours, make, chains, "gwg"),
        "ours, eager": partial(ours, make, chains, "gwg", compiled=False),
        "plain": partial(plain, make, chains),
        "ours, DMALA": partial(ours, make, chains, "dmala"),
    }
    return found | {"ours, block Gibbs": partial(ours, make, chains, "block_gibbs")}


def case(name: str, make: Callable[[], EnergyModel], what: str) -> Case:
    """At least twice as fast as the pseudo-code."""
    title = f"{STEPS} steps of Gibbs-with-Gradients, {CHAINS} chains of {what}; other samplers beside it."
    return Case(
        f"gwg_{name}", title, partial(makers, make, CHAINS), (times_faster("plain", OURS, 2.0),), OURS, rounds=15
    )


CASES = (case("rbm", rbm, "an RBM, 784-500"), case("ising", ising, "an Ising model on a 50 x 50 torus"))
