"""Small targets with every parameter non-zero, what the registry offers for them, and the statistics that judge draws.

A component added to the registry, with its YAML, is picked up here and so by the tests: nothing lists names by hand.
"""

import dataclasses
import itertools
import typing
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import yaml

from ebm_cli import philox, registry, rng, train
from ebm_cli.dataset.base import Data, Split, batch_index
from ebm_cli.device import Device
from ebm_cli.engine import EAGER, Engine
from ebm_cli.model.base import Bipartite, Blocked, EnergyModel
from ebm_cli.model.exponential_family import GaussianProduct
from ebm_cli.model.fhmm import FHMM
from ebm_cli.model.ising import Ising
from ebm_cli.rng import stream
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Binary, Real, Space, Spin, TwoValued

registry.load_components()

ROOT = Path(__file__).parents[1]
FALSE_ALARM = 1e-6  # of one statistical test; there are some hundred, and their keys are fixed
SIGMAS = 5  # |z| of a normal statistic is beyond this with probability 6e-7
SMALL_SPACES: dict[type[Space], Space] = {Binary: Binary((2, 2)), Spin: Spin((2, 2)), Real: Real((1, 2))}
SMALL = {
    "hidden": 3,
    "width": 2,
    "blocks": 1,
    "start": 0.3,
    "stay": 0.7,
    "noise": 3.0,
}  # what makes a shipped model small enough to enumerate and its rarest states not too rare, where it has such a key
INTERPOLATED = {"${batch_size}": 6}


def shipped(group: str) -> dict[str, dict]:
    """Every configuration of conf/GROUP by file name, without what it says to Hydra."""
    found = {}
    for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        values.pop("defaults", None)
        found[path.stem] = {key: INTERPOLATED.get(v, v) if isinstance(v, str) else v for key, v in values.items()}
    return found


def component(group: str, choice: str, **changes):
    """The component of a shipped file, some keys changed."""
    return registry.build(group, shipped(group)[choice] | changes)


# Models


def randomised(model: EnergyModel, seed: int = 1) -> EnergyModel:
    """Every parameter asymmetric and non-zero (a zero hides its own misuse), in float64.

    They come from numpy alone, so that the targets stay as they are when `ebm_cli.rng` gives other numbers.
    """
    model = model.double()
    scale = 1.0 if model.compiles else 0.4  # the energies of a network would else differ by hundreds
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            digest = np.frombuffer(stream(seed, "parameter", i).digest, np.uint64)
            values = np.random.Generator(np.random.Philox(key=digest)).standard_normal(tuple(parameter.shape))
            parameter.copy_(scale * torch.from_numpy(np.asarray(values)))
    return model


def small_model(choice: str, space: Space, seed: int = 1, **changes) -> EnergyModel:
    """A shipped model on a small space, randomised."""
    config = shipped("model")[choice]
    spec = registry.build("model", config | {k: v for k, v in SMALL.items() if k in config} | changes)
    return randomised(spec.build(space, torch.full(space.shape, 0.4), stream(seed, "model")), seed)


def _pairs() -> dict[str, tuple[str, Space]]:
    return {
        f"{choice}-{space.name}": (choice, SMALL_SPACES[space])
        for choice, config in shipped("model").items()
        for space in registry.components("model")[config["name"]].spaces
    }


PAIRS = _pairs()  # every shipped model on every space it takes
BINARY = [name for name, (_, space) in PAIRS.items() if isinstance(space, TwoValued)]


def target(name: str) -> EnergyModel:
    """One of PAIRS, in float64."""
    return small_model(*PAIRS[name])


def names_of(kind: type) -> list[str]:
    """Names of the targets that are models of this kind."""
    return [name for name in PAIRS if isinstance(target(name), kind)]


def double_states(model: EnergyModel) -> torch.Tensor:
    """Every configuration of a small binary space in float64, in counting order."""
    assert isinstance(model.space, TwoValued)
    return model.space.enumerate().double()


def exact_p(model: EnergyModel) -> torch.Tensor:
    """p(x) of every configuration, from the energies alone."""
    with torch.no_grad():
        return torch.softmax(-model.double().energy(double_states(model)), 0)


# Samplers

EXTRA = {
    "metropolis": [{"flips": 2}, {"flips": 4}, {"step_size": 1.5}],
    "gibbs": [{"scan": "random", "updates": 2}],
    "gwg": [{"flips": 2}, {"flips": 4}, {"temperature": 0.7}],
    "dmala": [{"step_size": 1.5}],
    "block_gibbs": [{"backwards": True}],
}
ONLY_FOR = {
    ("metropolis", "flips"): TwoValued,
    ("metropolis", "step_size"): Real,
    ("block_gibbs", "backwards"): Spin,
}  # settings without effect elsewhere


def _samplers() -> dict[str, tuple[Sampler, type[Space]]]:
    """Every shipped sampler, every value of its choices and a few more settings; and the spaces they matter in."""
    found: dict[str, tuple[Sampler, type[Space]]] = {}
    for choice, config in shipped("sampler").items():
        hints = typing.get_type_hints(registry.components("sampler")[config["name"]])
        literals = [
            (key, typing.get_args(hints[key])) for key in config if typing.get_origin(hints.get(key)) is Literal
        ]
        settings = [{}, *({key: value} for key, values in literals for value in values), *EXTRA.get(choice, [])]
        for setting in settings:
            sampler = registry.build("sampler", config | setting)
            if sampler not in [known for known, _ in found.values()]:
                label = "-".join([choice, *(f"{value}" for value in setting.values())])
                found[label] = (
                    sampler,
                    next((ONLY_FOR[choice, key] for key in setting if (choice, key) in ONLY_FOR), Space),
                )
    return found


_SETTINGS = _samplers()
SAMPLERS = {label: sampler for label, (sampler, _) in _SETTINGS.items()}


def fits(sampler: Sampler, model: EnergyModel) -> bool:
    """What a sampler declares, asked of a model."""
    return isinstance(model.space, sampler.spaces) and all(isinstance(model, need) for need in sampler.needs)


FITTING = [
    (label, name)
    for label, name in itertools.product(SAMPLERS, PAIRS)
    if fits(SAMPLERS[label], target(name)) and isinstance(PAIRS[name][1], _SETTINGS[label][1])
]


def marked(pairs):
    """Parameters of a test: what `quick` leaves out is much the same, and long."""
    kept = quick(pairs)
    return [pair if pair in kept else pytest.param(*pair, marks=pytest.mark.long) for pair in pairs]


def quick(pairs):
    """All settings of all samplers on an RBM and an Ising model, the shipped ones on other closed forms, and for every
    model at least one."""
    one = {t: s for s, t in pairs if "-" not in s}
    whole = ("rbm-binary", "ising-spin", "exponential_family-real")
    return [(s, t) for s, t in pairs if one[t] == s or t in whole or ("-" not in s and target(t).compiles)]


INVARIANT = [(s, t) for s, t in FITTING if SAMPLERS[s].exact]
FITTING_BINARY = [(s, t) for s, t in FITTING if t in BINARY]


# Transition matrices T[x, x'] of one step, from the definitions of the kernels and the model's own conditionals


def gibbs_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """Product of single-site updates in the order of the scan; with random scan the D-th power of their mean."""
    sites = range(model.space.sites)
    one = torch.stack([_site_matrix(model, i) for i in sites])
    if sampler.scan == "random":
        return torch.linalg.matrix_power(one.mean(0), sampler.updates or len(sites))
    order = {"systematic": sites, "reverse": reversed(sites)}[sampler.scan]
    return torch.linalg.multi_dot([one[i] for i in order])


def _site_matrix(model: EnergyModel, site: int) -> torch.Tensor:
    states = double_states(model)
    with torch.no_grad():
        on = torch.sigmoid(model.sites(states).logit(site))
    matrix = torch.zeros(len(states), len(states), dtype=torch.float64)
    for x in range(len(states)):
        matrix[x, x | 1 << site] += on[x]
        matrix[x, x & ~(1 << site)] += 1 - on[x]
    return matrix


def block_gibbs_matrix(sampler, model: Blocked) -> torch.Tensor:
    """sum_h p(h | v) p(v' | h); on a graph the sites of one colour after the other, which commute within a colour."""
    if isinstance(model, Ising):
        sites = [int(i) for _, colour in model.colours()[:: -1 if sampler.backwards else 1] for i in colour]
        return torch.linalg.multi_dot([_site_matrix(model, i) for i in sites])
    if isinstance(model, FHMM):
        length, chains = model.space.shape
        blocks = [range(k, length * chains, chains) for k in range(chains)][:: -1 if sampler.backwards else 1]
        return torch.linalg.multi_dot([_block_matrix(model, sites) for sites in blocks])
    assert isinstance(model, Bipartite)
    hidden = Binary((model.hidden,)).enumerate().double()
    with torch.no_grad():
        given_v = _bernoulli_table(model.hidden_logits(double_states(model)), hidden)
        given_h = _bernoulli_table(model.visible_logits(hidden), double_states(model).flatten(1))
    return given_v @ given_h


def _block_matrix(model: EnergyModel, block) -> torch.Tensor:
    """Some sites drawn given the others: p(x') over its sum where x' differs from x within the block alone."""
    p, code = exact_p(model), torch.arange(model.space.states)
    kept = code & ~sum(1 << site for site in block)
    matrix = p * (kept[:, None] == kept)
    return matrix / matrix.sum(1, keepdim=True)


def _bernoulli_table(logits: torch.Tensor, outcomes: torch.Tensor) -> torch.Tensor:
    """Probability of every outcome (column) for every row of logits."""
    p = logits.sigmoid()[:, None, :]
    return torch.where(outcomes > 0.5, p, 1 - p).prod(2)


def metropolis_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """1 to `flips` sites, each number and then each set equally likely, accepted with min(1, exp(E(x) - E(x')))."""
    with torch.no_grad():
        energy = model.energy(double_states(model))
    n, numbers = len(energy), range(1, min(sampler.flips, model.space.sites) + 1)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for x, number in itertools.product(range(n), numbers):
        sets = list(itertools.combinations(range(model.space.sites), number))
        for chosen in sets:
            y = x ^ sum(1 << site for site in chosen)
            accept = min(1.0, torch.exp(energy[x] - energy[y]).item())
            matrix[x, y] += accept / len(sets) / len(numbers)
            matrix[x, x] += (1 - accept) / len(sets) / len(numbers)
    return matrix


def _gains(model: EnergyModel) -> torch.Tensor:
    """-dE/dx_i times the change of x_i when it flips, by automatic differentiation, (states, sites)."""
    x = double_states(model).requires_grad_()
    (grad,) = torch.autograd.grad(model.energy(x).sum(), x)
    return (-grad * (model.space.low + model.space.high - 2 * x.detach())).flatten(1)


def gwg_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """Paths of 1 to `flips` distinct sites; each accepted against itself reversed (Grathwohl et al. 2021, alg. 1)."""
    with torch.no_grad():
        energy = model.energy(double_states(model))
    weight = (_gains(model) / sampler.temperature).exp()
    n, lengths = len(energy), range(1, sampler.flips + 1)
    matrix = torch.zeros(n, n, dtype=torch.float64)

    def probability(x: int, path: tuple[int, ...]) -> float:
        left, found = weight[x].clone(), 1.0
        for site in path:
            found *= (left[site] / left.sum()).item()
            left[site] = 0
        return found

    for x, length in itertools.product(range(n), lengths):
        for path in itertools.permutations(range(model.space.sites), length):
            y = x ^ sum(1 << site for site in path)
            forth, back = probability(x, path), probability(y, path[::-1])
            accept = min(1.0, torch.exp(energy[x] - energy[y]).item() * back / forth)
            matrix[x, y] += forth * accept / len(lengths)
            matrix[x, x] += forth * (1 - accept) / len(lengths)
    return matrix


def dmala_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """q(x' | x) normalised over all x' by brute force (Zhang et al. 2022, eq. 3), then the acceptance test, if any."""
    states = double_states(model)
    with torch.no_grad():
        energy = model.energy(states)
    change = states.flatten(1)[None] - states.flatten(1)[:, None]
    grad = -_gains(model) / (model.space.low + model.space.high - 2 * states.flatten(1))
    q = torch.softmax((-grad[:, None] * change / 2 - (change != 0) / (2 * sampler.step_size)).sum(2), 1)
    if not sampler.adjusted:
        return q
    accept = ((energy[:, None] - energy[None]).exp() * q.T / q).clamp_max(1)
    matrix = q * accept
    return matrix + torch.diag(1 - matrix.sum(1))


MATRICES = {
    "gibbs": gibbs_matrix,
    "block_gibbs": block_gibbs_matrix,
    "metropolis": metropolis_matrix,
    "gwg": gwg_matrix,
    "dmala": dmala_matrix,
}


def matrix_of(sampler: Sampler, model: EnergyModel) -> torch.Tensor | None:
    """The transition matrix of one step, or None for a kernel that has no definition written down here."""
    names = {cls: name for name, cls in registry.components("sampler").items()}
    build = MATRICES.get(names[type(sampler)])
    return build(sampler, model) if build else None


# Statistics


def chi_square(count, expected, cells_lost: int = 1) -> float:
    """p-value of counts (..., cells) against expected ones; cells_lost are the constraints (one per row of draws).

    Cells where fewer than 5 are expected are pooled: below that the statistic has no chi-square distribution.
    """
    count, expected = np.asarray(count, float).ravel(), np.asarray(expected, float).ravel()
    assert (count[expected == 0] == 0).all(), "an impossible outcome was drawn"
    rare = expected < 5
    pooled_count = np.append(count[~rare], count[rare].sum())
    pooled = np.append(expected[~rare], expected[rare].sum())
    pooled_count, pooled = pooled_count[pooled > 0], pooled[pooled > 0]
    statistic = ((pooled_count - pooled) ** 2 / pooled).sum()
    return chi_square_tail(statistic, len(pooled) - cells_lost)


def chi_square_tail(statistic: float, freedom: int) -> float:
    """P(chi-square > statistic); scipy.stats has it too, and takes longer to import than most tests to run."""
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return torch.special.gammaincc(half[0], half[1]).item()


def assert_close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    """|found - expected| <= atol + rtol |expected| in one shape and type.

    As `torch.testing.assert_close`, whose first use imports sympy and torch.distributed for two seconds.
    """
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    error = (found - expected).abs()
    good = (found == expected) | (error <= atol + rtol * expected.abs())
    assert good.all(), f"{(~good).sum()} of {good.numel()} differ, by up to {error.max():.3g}: {found}, not {expected}"


def cells(model: EnergyModel, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Draws x counted in cells, and the probability of each cell under the model.

    Binary: one cell per configuration. Gaussian: eight equally likely intervals in each coordinate, all combinations.
    """
    assert model.space.contains(x)
    if isinstance(model.space, TwoValued):
        return np.bincount(model.space.code(x), minlength=model.space.states), exact_p(model).numpy()
    assert isinstance(model, GaussianProduct), f"say here how draws of {type(model).__name__} fall into cells"
    deviation = (x.flatten(1).double() - model.m.double()) * (model.r.double() / 2).exp()
    interval = (torch.special.ndtr(deviation) * 8).long().clamp_max(7)
    code = (interval * 8 ** torch.arange(model.space.sites)).sum(1)
    count = 8**model.space.sites
    return np.bincount(code, minlength=count), np.full(count, 1 / count)


def assert_distributed(model: EnergyModel, x: torch.Tensor) -> None:
    """x are independent draws from the model, as far as a chi-square test can tell."""
    count, p = cells(model, x)
    assert chi_square(count, p * len(x)) > FALSE_ALARM


def assert_mean(values: torch.Tensor, expected: float) -> None:
    """The mean of independent values is the expected one, within SIGMAS standard errors."""
    values = values.double()
    error = values.std().item() / len(values) ** 0.5
    assert abs(values.mean().item() - expected) < SIGMAS * error, (values.mean().item(), expected, error)


def assert_uncorrelated(x: torch.Tensor) -> None:
    """Rows of numbers of mean 0 and variance 1 are independent of each other, at lags 0 and 1.

    Correlations of n numbers are N(0, 1/n) under independence; there are hundreds of pairs, so 6 rather than 5.
    """
    n = x.shape[1] - 1
    for a, b in ((x[:, :-1], x[:, :-1]), (x[:, :-1], x[:, 1:])):
        correlation = (a @ b.T) / n
        if a is b or torch.equal(a, b):
            correlation.fill_diagonal_(0)
        assert correlation.abs().max() < 6 / n**0.5


# Keys


class RegionsAsTheyAre(Engine):
    """What a compiling engine hands to its regions, counters and numbers as tensors, and no compiler."""

    def __init__(self) -> None:
        super().__init__(compiled=False)
        self.compiled = True

    def region(self, function):
        return function


COUNTING = RegionsAsTheyAre()
ENGINES = {
    "keys": EAGER,
    "counters": COUNTING,
}  # the two forms of a key; the first reaches numpy, the second Philox4x32


def form(engine: Engine, key: rng.Key) -> rng.AnyKey:
    """A key as the regions of this engine take it."""
    return engine.keys([key], "cpu")[0]


def keys_used(monkeypatch) -> list:
    """Filled from now on with the key of every draw: no key may serve two, their numbers would be the same."""
    used: list = []
    numpy_words, words = rng._philox4x64, philox.words
    monkeypatch.setattr(rng, "_philox4x64", lambda key: used.append(key) or numpy_words(key))
    monkeypatch.setattr(
        philox,
        "words",
        lambda rows, count, key, lane: used.append((*key.tolist(), lane)) or words(rows, count, key, lane),
    )
    return used


# Data


def small_data(space: Space, n: int = 40, seed: int = 5) -> Data:
    """n rows of the space; all of them training and test rows, the first half validation rows."""
    x = space.noise(n, stream(seed, "data"))
    if isinstance(space, TwoValued):
        x = space.bits(x)
        x = (x * rng.bernoulli(torch.linspace(0, 2, n * space.sites).reshape(x.shape), stream(seed, "mask"))).byte()
    split = Split(x, 1.0, stochastic=False, labels=None, spins=isinstance(space, Spin))
    return Data(space, split, dataclasses.replace(split, grey=x[: n // 2]), split)


# Training


def gradients(objective, model, x, x_neg):
    """Gradients of an objective by name, and its metrics."""
    found = objective.gradient(model, x, x_neg, stream(0, "objective"))
    return objective.finish(model, found), found.metrics


def batch(data: Data, step: int, size: int, seed: int) -> torch.Tensor:
    """Training batch number `step`."""
    return data.train.rows(batch_index(len(data.train), step, size, seed), stream(seed, "binarize", step))


def small_run(engine: Engine = EAGER, where: str = "cpu", **changes):
    """Parts and state of a small RBM on 2 x 2 bars and stripes."""
    config = {
        "dataset": shipped("dataset")["bars_and_stripes"] | {"side": 2},
        "model": shipped("model")["rbm"] | {"hidden": 3},
        "sampler": shipped("sampler")["block_gibbs"],
        "chains": shipped("chains")["persistent"],
        "objective": shipped("objective")["pcd"],
        "optimizer": shipped("optimizer")["sgd"],
    }
    choice = {group: values["name"] for group, values in config.items()}
    components = train.build_components(config | changes, choice)
    device = Device(torch.device(where), where, "fp32", engine)
    loop = train.Loop(steps=50, batch_size=INTERPOLATED["${batch_size}"], seed=0)
    return train.assemble(components, loop, device, train.load_data(components), choice)
