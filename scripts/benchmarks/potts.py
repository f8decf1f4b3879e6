"""Potts models: proteins of 53 and 200 letters of 21 kinds beside adabmDCA, and a lattice, beside an earlier build."""

import time
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from _case import MEGABYTES, Case, Contender, Maker, Required, times_faster
from _earlier import BUILD, earlier
from _ours import DEVICE, component, configuration, device, engine, updates
from _peak import of_program
from torch import Tensor

from ebm_cli import registry
from ebm_cli.dataset.base import Data, Split
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Categorical

OURS, EAGER, PEER = "ours", "ours, eager", "adabmDCA"
LETTERS, CHAINS, SWEEPS, STEPS, SIDE = 21, 1000, 10, 20, 64


def parameters(sites: int) -> tuple[Tensor, Tensor]:
    """J (sites, 21, sites, 21), symmetric, N(0, 0.1^2), and h, N(0, 0.5^2): the same for all."""
    draws = torch.Generator().manual_seed(0)
    J = 0.1 * torch.randn(sites, LETTERS, sites, LETTERS, generator=draws).tril()
    J = J + J.permute(2, 3, 0, 1)
    J[range(sites), :, range(sites)] = 0
    return J, 0.5 * torch.randn(sites, LETTERS, generator=draws)


def protein(sites: int) -> EnergyModel:
    """All pairs coupled."""
    space = Categorical((sites, LETTERS))
    spec = component("model", "potts")
    model: EnergyModel = spec.build(space, torch.full(space.shape, 1 / LETTERS), stream(0, "model"))
    J, h = parameters(sites)
    first, second = torch.triu_indices(sites, sites, 1)
    with torch.no_grad():
        named = dict(model.named_parameters())
        named["J"].copy_(J.permute(0, 2, 1, 3)[first, second])
        named["h"].copy_(h)
    return model.requires_grad_(requires_grad=False).to(DEVICE)


def ours(sampler: str, steps: int, sites: int = 53, *, compiled: bool = False) -> Contender:
    """`run` with the sampler as shipped, from the same chains each time; seconds of one step."""
    model, kernel, begin = protein(sites), component("sampler", sampler), [0]
    x = model.space.noise(CHAINS, stream(0, "x"), DEVICE)

    def unit() -> float:
        begin[0] += 1
        start = time.perf_counter()
        run(kernel, model, x, steps, stream(begin[0], "steps"), engine(compiled=compiled))
        return (time.perf_counter() - start) / steps

    return unit


def adabmdca(sites: int = 53, *, scripted: bool = False) -> Contender:
    """Its `gibbs_sampling`, or that as its training has it; seconds of one sweep, sites in random order."""
    from adabmDCA.sampling import gibbs_sampling, prepare_sampler

    J, h = parameters(sites)
    given = {"bias": h.to(DEVICE), "coupling_matrix": J.to(DEVICE)}
    x = Categorical((sites, LETTERS)).noise(CHAINS, stream(0, "x"), DEVICE)
    sweep = prepare_sampler("gibbs", DEVICE) if scripted else gibbs_sampling

    def unit() -> float:
        start = time.perf_counter()
        sweep(x, given, SWEEPS)
        return (time.perf_counter() - start) / SWEEPS

    return unit


def gibbs_makers(quick: bool) -> Mapping[str, Maker]:
    """Ours sweeps in order, the peer visits as many random sites."""
    return {
        OURS: partial(ours, "gibbs", SWEEPS),
        BUILD: earlier("potts", "ours", "gibbs", SWEEPS),
        PEER: adabmdca,
        f"{PEER}, scripted": partial(adabmdca, scripted=True),
    }


def gwg_makers(quick: bool) -> Mapping[str, Maker]:
    """Compiled and not."""
    return {
        OURS: partial(ours, "gwg", STEPS, compiled=True),
        EAGER: partial(ours, "gwg", STEPS),
        BUILD: earlier("potts", "ours", "gwg", STEPS, compiled=True),
        f"{BUILD}, eager": earlier("potts", "ours", "gwg", STEPS),
    }


# The lattice


def lattice(side: int = SIDE, chains: int = 100, sweeps: int = 1) -> Contender:
    """Sweeps of block Gibbs, not compiled, of 4 values, couplings near the transition; seconds of one."""
    space = Categorical((side, side, 4))
    spec = component("model", "potts", graph="lattice", coupling=1.0)
    model = spec.build(space, torch.full(space.shape, 0.25), stream(0, "model")).to(DEVICE)
    kernel, x = component("sampler", "block_gibbs"), space.noise(chains, stream(0, "x"), DEVICE)

    def unit() -> float:
        start = time.perf_counter()
        run(kernel, model, x, sweeps, stream(0, "sweeps"))
        return (time.perf_counter() - start) / sweeps

    return unit


def lattice_makers(quick: bool) -> Mapping[str, Maker]:
    """With all its chains at once."""
    return {OURS: partial(lattice, sweeps=5), BUILD: earlier("potts", "lattice")}


def memory_makers(quick: bool) -> Mapping[str, Maker]:
    """The peak of a process that makes sweeps, beyond that of one with a lattice of four sites."""
    return {OURS: lambda: lambda: resident(SIDE, 100) - smallest(1 if quick else 3)}


@cache
def smallest(times: int) -> float:
    """Of the imports, the threads and all else that every run needs."""
    return min(resident(2, 2) for _ in range(times))


def resident(side: int, chains: int) -> float:
    """Peak resident memory, in bytes, of a fresh process."""
    return of_program("_potts_memory.py", side, chains)


# Training


def letters(sites: int, rows: int = 4000) -> Tensor:
    """Data of every contender, (rows, sites) bytes; each letter half of the time that of the site before."""
    draws = torch.Generator().manual_seed(1)
    found = torch.randint(0, LETTERS, (rows, sites), generator=draws)
    same = torch.rand(rows, sites, generator=draws) < 0.5
    for i in range(1, sites):
        found[:, i] = torch.where(same[:, i], found[:, i - 1], found[:, i])
    return found.byte()


def training(objective: str, sites: int) -> Callable[[], None]:
    """One update by SGD, drawing the batch of 1000 rows and reporting included."""
    registry.load_components()
    chains = configuration("chains", "persistent", steps=SWEEPS, count=CHAINS)
    config = {
        "dataset": configuration("dataset", "protein"),
        "model": configuration("model", "potts"),
        "sampler": configuration("sampler", "gibbs"),
        "chains": chains if objective == "pcd" else configuration("chains", "data"),
        "noise": configuration("noise", "fitted"),
        "objective": configuration("objective", objective),
        "optimizer": configuration("optimizer", "sgd", lr=0.01),
    }
    split = Split(Categorical((sites, LETTERS)), letters(sites), scale=1.0, stochastic=False, labels=None)
    return updates(config, Data(split.space, split, None, split).to(DEVICE), CHAINS, device("fp32", compiled=False))


def adabmdca_training(sites: int) -> Callable[[], None]:
    """The loop of its `train_graph`: update, weights of the likelihood, chains, moments; of data those of all rows."""
    from adabmDCA.sampling import prepare_training_sampler
    from adabmDCA.statmech import _update_weights_AIS
    from adabmDCA.stats import get_freq_single_point, get_freq_two_points
    from adabmDCA.training import update_params
    from adabmDCA.utils import get_mask_save, init_parameters

    space = Categorical((sites, LETTERS))
    x = space.encode(letters(sites)).to(DEVICE)
    one, two = get_freq_single_point(x, None, 0.001), get_freq_two_points(x, None, 0.001)
    values, mask = init_parameters(one), torch.ones_like(two)
    mask[range(sites), :, range(sites)] = 0
    sampler, chains = prepare_training_sampler("gibbs", DEVICE), space.noise(CHAINS, stream(0, "x"), DEVICE)
    log_weights = torch.zeros(CHAINS, device=DEVICE)
    get_mask_save(sites, LETTERS, device=DEVICE)

    def update() -> None:
        nonlocal values, chains, log_weights
        before = {name: value.clone() for name, value in values.items()}
        moments = get_freq_single_point(chains), get_freq_two_points(chains)
        values = update_params(one, two, *moments, values, mask, 0.01)
        log_weights = _update_weights_AIS(before, values, chains, log_weights)
        chains = sampler(chains=chains, params=values, nsweeps=SWEEPS)

    return update


def training_makers(sites: int, quick: bool) -> Mapping[str, Maker]:
    """The peer has no pseudo-likelihood."""
    found: dict[str, Maker] = {}
    for what in ("pcd", "pseudo_likelihood"):
        found[f"{OURS}, {what}"] = partial(training, what, sites)
        found[f"{BUILD}, {what}"] = earlier("potts", "training", what, sites)
    return found | {PEER: partial(adabmdca_training, sites)}


def training_case(sites: int, rounds: int) -> Case:
    """PCD with as many sweeps as the peer."""
    title = (
        f"One update of a Potts model of {sites} x {LETTERS}: PCD-{SWEEPS} with {CHAINS} chains, or pseudo-likelihood "
        f"on {CHAINS} rows."
    )
    makers = partial(training_makers, sites)
    return Case(f"potts_training_{sites}", title, makers, ours=f"{OURS}, pcd", rounds=rounds, warmup=1)


def most(samples: Mapping[str, object]) -> float:
    """MB."""
    return float(torch.as_tensor(samples[OURS]).max()) * MEGABYTES.scale


SIZE = f"{CHAINS} chains of a Potts model of 53 x {LETTERS}, all pairs coupled"
LATTICE = f"a {SIDE} x {SIDE} Potts lattice of 4 values, 100 chains, block Gibbs"
CASES = (
    Case("potts_gibbs", f"A Gibbs sweep of {SIZE}.", gibbs_makers, (times_faster(PEER, OURS, 6.0),), OURS, rounds=12),
    Case("potts_gwg", f"A step of Gibbs-with-Gradients, {SIZE}.", gwg_makers, (times_faster(BUILD, OURS, 6.0),), OURS,
         rounds=8, warmup=2),
    Case("potts_lattice", f"A sweep of {LATTICE}.", lattice_makers, (times_faster(BUILD, OURS, 50.0),), OURS,
         rounds=3, warmup=1),
    Case("potts_lattice_memory", f"Peak resident memory of sweeps of {LATTICE}.", memory_makers,
         (Required("MB", most, 200.0, at_least=False),), OURS, unit=MEGABYTES, rounds=3, warmup=0),
    training_case(53, 5),
    training_case(200, 2),
)  # fmt: skip
