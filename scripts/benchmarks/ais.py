"""Annealed importance sampling of log Z of a 784-500 RBM with 100 chains."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from _case import Case, Maker, Unit, times_faster
from _ours import DEVICE, PRECISIONS, component, device

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.evaluation import ais
from ebm_cli.log_z.paths import BipartitePath
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.model.rbm import RBM
from ebm_cli.rng import stream
from ebm_cli.space import Binary

CHAINS, TEMPERATURES = 100, 200
SPACE = Binary((784,))


class Annealing(NamedTuple):
    """How many hidden units, chains and temperatures."""

    hidden: int = 500
    chains: int = CHAINS
    temperatures: int = TEMPERATURES


def model(hidden: int) -> RBM:
    """The same weights for everyone: W ~ N(0, 0.05^2), visible biases of units that are on one time in five."""
    spec = component("model", "rbm", hidden=hidden, weight_std=0.05)
    return spec.build(SPACE, torch.full((784,), 0.2), stream(0, "model")).requires_grad_(requires_grad=False).to(DEVICE)


def ours(of: Annealing, precision: str, *, compiled: bool = True) -> Callable[[], None]:
    """Our path from independent units, each temperature a region."""
    where = device(precision, compiled=compiled)
    base = BernoulliProduct(SPACE, torch.full((784,), 0.2)).to(DEVICE)
    path = BipartitePath(base, full_arithmetic(model(of.hidden), where))

    @torch.no_grad()
    def anneal() -> None:
        ais.forward(path, of.chains, of.temperatures, stream(0, "ais"), where.engine)

    return anneal


def rbms(of: Annealing) -> Callable[[], None]:
    """Its own `compute_partition_function_ais`: b temperatures make b - 1 transitions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.script
        from rbms.bernoulli_bernoulli.classes import BBRBM
        from rbms.partition_function.ais import compute_partition_function_ais
    same = model(of.hidden)
    peer = BBRBM(same.W.data, same.b.data, same.c.data)

    @torch.no_grad()
    def anneal() -> None:
        compute_partition_function_ais(of.chains, of.temperatures + 1, peer)

    return anneal


def makers(of: Annealing, quick: bool) -> Mapping[str, Maker]:
    """Ours in each arithmetic that AIS is done in, and the one peer that has it."""
    found = {f"ours {name}": partial(ours, of, name) for name in PRECISIONS if name in ("fp32", "fixed24")}
    return found | {"ours fp32, eager": partial(ours, of, "fp32", compiled=False), "rbms": partial(rbms, of)}


TITLE = f"AIS of a 784-500 RBM, {CHAINS} chains; {TEMPERATURES} temperatures are timed and 10 000 reported."
UNIT = Unit("s for 10 000 temperatures", 10_000 / TEMPERATURES)
CASES = (
    Case(
        "ais",
        TITLE,
        partial(makers, Annealing()),
        (times_faster("rbms", "ours fp32", 3.5),),
        "ours fp32",
        unit=UNIT,
        rounds=20,
    ),
)
