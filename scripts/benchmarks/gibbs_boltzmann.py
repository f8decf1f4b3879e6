"""Single-site Gibbs sweeps of a dense Boltzmann machine."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from _case import Case, Maker, times_faster
from _ours import DEVICE, batch, component, engine

from ebm_cli.model.boltzmann import Boltzmann
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Binary

SITES, CHAINS = 784, 100


def model() -> Boltzmann:
    """Couplings ~ N(0, 0.05^2), the same for both."""
    spec = component("model", "boltzmann", weight_std=0.05)
    found = spec.build(Binary((SITES,)), torch.full((SITES,), 0.5), stream(0, "model"))
    return found.requires_grad_(requires_grad=False).to(DEVICE)


def ours() -> Callable[[], None]:
    """`run` with the sampler as shipped: sites in order, the caches of one run included."""
    machine, sampler, x, sweep = model(), component("sampler", "gibbs"), batch(CHAINS, SITES), 0

    def update() -> None:
        nonlocal x, sweep
        x, _ = run(sampler, machine, x, 1, stream(0, "sweep", sweep), engine(compiled=True))
        sweep += 1

    return update


def plain_torch(*, rows: bool) -> Callable[[], None]:
    """A loop over the sites, all chains at once; `rows` reads the symmetric matrix in the order of memory."""
    machine, x = model(), batch(CHAINS, SITES)
    couplings, b = machine.coupling(), machine.b.detach()
    couplings = couplings.T if rows else couplings  # the same numbers: its columns are then contiguous

    def update() -> None:
        for i in range(SITES):
            x[:, i] = (torch.rand(CHAINS, device=DEVICE) < (x @ couplings[:, i] + b[i]).sigmoid()).float()

    return update


def makers(quick: bool) -> Mapping[str, Maker]:
    """No peer has it: ours against the obvious loop, as one writes it and in the order of memory."""
    return {
        "ours": ours,
        "plain torch": partial(plain_torch, rows=False),
        "plain torch, W[i] for W[:, i]": partial(plain_torch, rows=True),
    }


TITLE = f"One sweep of a Boltzmann machine with {SITES} units, all coupled, {CHAINS} chains."
CASES = (Case("gibbs_boltzmann", TITLE, makers, (times_faster("plain torch", "ours", 3.0),), "ours", turn=3),)
