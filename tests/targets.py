"""Small targets with every parameter non-zero, what the registry offers for them, and the statistics that judge draws.

A component added to the registry, with its YAML, is picked up here and so by the tests: nothing lists names by hand.
"""

import copy
import dataclasses
import itertools
import os
import re
import typing
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import yaml

from ebm_cli import philox, registry, rng
from ebm_cli.dataset.base import Data, Split, batch_index
from ebm_cli.device.base import Device
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.model.base import Bipartite, Blocked, EnergyModel, Intractable
from ebm_cli.model.exponential_family import GaussianProduct, TruncatedProduct
from ebm_cli.model.fhmm import FHMM
from ebm_cli.model.gaussian_rbm import GaussianRBM
from ebm_cli.objective.base import Batch
from ebm_cli.rng import stream
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Binary, Box, Categorical, Counts, Discrete, Real, Space, Spin, TwoValued, Words
from ebm_cli.training import state

registry.load_components()

ROOT = Path(__file__).parents[1]
FALSE_ALARM = 1e-6  # of one statistical test; there are some hundred, and their keys are fixed
SIGMAS = 5  # |z| of a normal statistic is beyond this with probability 6e-7
SMALL_SPACES: dict[type[Space], Space] = {
    Binary: Binary((2, 2)),
    Spin: Spin((2, 2)),
    Categorical: Categorical((1, 3, 3)),
    Real: Real((1, 2)),
    Box: Box((4, 4), -8.0, 8.0),  # so wide that proposals of the shipped step sizes seldom leave it
    Words: Words((3,), 7),
    Counts: Counts((5,), 6),
}
SMALL = {
    "hidden": 3,
    "min_spread": 0.4,
    "width": 2,
    "widths": [4],
    "blocks": 1,
    "start": 0.3,
    "stay": 0.7,
    "noise": 3.0,
}  # what makes a shipped model small enough to enumerate and its rarest states not too rare, where it has such a key
INTERPOLATED = {"${batch_size}": 6}


def shipped(group: str) -> dict[str, dict]:
    """Every configuration of conf/GROUP by file name, without what it says to Hydra."""
    return copy.deepcopy(_read(group))


@lru_cache  # parsing them once more for each of thousands of tests would take longer than the tests
def _read(group: str) -> dict[str, dict]:
    found = {}
    for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        for folder, inner, choice in _nested(values.pop("defaults", [])):
            values[inner] = yaml.safe_load((path.parent.parent / folder / f"{choice}.yaml").read_text())
        found[path.stem] = {key: INTERPOLATED.get(v, v) if isinstance(v, str) else v for key, v in values.items()}
    return found


def _nested(defaults: list) -> list[tuple[str, str, str]]:
    """Keys that hold a choice themselves, as `- /sampler@kernel: block_gibbs` says: of which group, and which."""
    pairs = [pair for entry in defaults if isinstance(entry, dict) for pair in entry.items()]
    return [(*str(key)[1:].split("@"), choice) for key, choice in pairs if re.fullmatch(r"/\w+@\w+", str(key))]


def component(group: str, choice: str, **changes):
    """The component of a shipped file, some keys changed."""
    return registry.build(group, shipped(group)[choice] | changes)


def real_data(file: str) -> str:
    """The folder with the real data; skips the test where `file` is not in it."""
    root = Path(os.environ.get("EBM_DATA") or ROOT.parent / "shared" / "data")
    if not (root / file).exists():
        pytest.skip(f"no {file} in {root}: set EBM_DATA to the data folder")
    return str(root)


# Models


def randomised(model: EnergyModel, seed: int = 1) -> EnergyModel:
    """Every parameter asymmetric and non-zero (a zero hides its own misuse), in float64.

    They come from numpy alone, so that the targets stay as they are when `ebm_cli.rng` gives other numbers.
    """
    model = model.double()
    layers = any(isinstance(layer, torch.nn.Linear) for layer in model.modules())
    scale = 0.4 if layers else 1.0  # the energies of a network would else differ by hundreds
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            digest = np.frombuffer(stream(seed, "parameter", i).digest, np.uint64)
            values = np.random.Generator(np.random.Philox(key=digest)).standard_normal(tuple(parameter.shape))
            parameter.copy_(scale * torch.from_numpy(np.asarray(values)))
        if isinstance(model, GaussianRBM):
            model.r.mul_(0.3)  # over widths of 4 a step of 0.1 would take thousands
    return model


def mean_of(space: Space) -> torch.Tensor:
    """A mean that data could have."""
    if isinstance(space, Categorical):
        return torch.arange(1.0, space.values + 1).expand(space.shape) / (space.values * (space.values + 1) / 2)
    return torch.full(space.shape, 0.4)


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
        if space not in (Words, Counts)  # no energies of single states: test_words.py, test_replicated_softmax.py
    }


def for_energies(component) -> bool:
    """Whether a sampler or an objective is made for models whose energy can be computed."""
    return not any(issubclass(need, Intractable) for need in component.needs)


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


# Samplers

EXTRA = {
    "metropolis": [{"flips": 2}, {"flips": 4}, {"step_size": 1.5}],
    "gibbs": [{"scan": "random", "updates": 2}],
    "gwg": [{"flips": 2}, {"flips": 4}, {"temperature": 0.7}],
    "dmala": [{"step_size": 1.5}],
    "block_gibbs": [{"backwards": True}],
    "langevin": [{"noise": 0.05, "clip": 0.1}],
    "mala": [{"step_size": 0.5}],
    "hmc": [{"step_size": 0.8, "leapfrog": 3}],
    "gibbs_langevin": [{"step_size": 0.7}, {"adjust": False}],
    "parallel_tempering": [
        {"kernel": {"name": "gibbs", "scan": "systematic", "updates": None}, "temperatures": 3},
        {
            "kernel": {"name": "metropolis", "flips": 1, "step_size": 1.5, "adapt": None},
            "temperatures": 2,
            "beta_min": 0.3,
        },
    ],
    "hamming_ball": [{"radius": 2}, {"block": 4, "radius": 3}],
}
SMALL_BLOCK = {
    "block": 3,
    "steps": 2,
}  # what makes a shipped sampler fit four sites and be fast, where it has such a key
ONLY_FOR = {
    ("metropolis", "flips"): Discrete,
    ("metropolis", "step_size"): Real,
    ("block_gibbs", "backwards"): (Spin, Categorical),
}  # settings without effect elsewhere


def _samplers() -> dict[str, tuple[Sampler, type[Space] | tuple[type[Space], ...]]]:
    """Every shipped sampler, every value of its choices and a few more settings; and the spaces they matter in."""
    found: dict[str, tuple[Sampler, type[Space] | tuple[type[Space], ...]]] = {}
    for choice, config in shipped("sampler").items():
        config |= {key: value for key, value in SMALL_BLOCK.items() if key in config}
        hints = typing.get_type_hints(registry.components("sampler")[config["name"]])
        literals = [
            (key, typing.get_args(hints[key])) for key in config if typing.get_origin(hints.get(key)) is Literal
        ]
        settings = [{}, *({key: value} for key, values in literals for value in values), *EXTRA.get(choice, [])]
        for setting in settings:
            sampler = registry.build("sampler", config | setting)
            of_states = for_energies(sampler.inner) and sampler.inner.spaces != (Counts,)
            if of_states and sampler not in [known for known, _ in found.values()]:
                label = "-".join([choice, *(f"{_named(value)}" for value in setting.values())])
                found[label] = (
                    sampler,
                    next((ONLY_FOR[choice, key] for key in setting if (choice, key) in ONLY_FOR), Space),
                )
    return found


def _named(value):
    return value["name"] if isinstance(value, dict) else value


_SETTINGS = _samplers()
SAMPLERS = {label: sampler for label, (sampler, _) in _SETTINGS.items()}


def fits(sampler: Sampler, model: EnergyModel) -> bool:
    """What a sampler declares, asked of a model."""
    kernel = sampler.inner
    able = isinstance(model.space, kernel.spaces) and all(isinstance(model, need) for need in kernel.needs)
    if sampler.replicas > 1 and Blocked in kernel.needs and able and not model.tempers:
        return False
    return able and sampler.misfit(model.space) is None


def reach(sampler: Sampler) -> float:
    """How far one step goes on real numbers: the sum of its leaps, 1 where conditionals are drawn from."""
    mean = 0.3 if getattr(sampler, "decades", 0) else 1.0  # of a step from long to short
    return mean * getattr(sampler, "step_size", 1.0) * getattr(sampler, "leapfrog", 1)


NETWORKS = (
    "mlp",
    "convnet",
    "resnet",
    "resnet_binary",
    "resnet_categorical",
    "multiscale",
    "jem",
    "flow",
    "real_boltzmann",
)  # one stands for all where settings of samplers differ


def _telling(label: str, name: str) -> bool:
    """Whether a pair shows what others do not: no network but one needs more than two of the shipped samplers."""
    if name == "convnet-boxed" or name.partition("-")[0] not in NETWORKS:
        return True
    return label in (("gwg", "metropolis") if name in DISCRETE else ("langevin", "mala"))


FITTING = [
    (label, name)
    for label, name in itertools.product(SAMPLERS, [*PAIRS, WALLED])
    if fits(SAMPLERS[label], example(name))
    and isinstance(example(name).space, _SETTINGS[label][1])
    and _telling(label, name)
]


def marked(pairs):
    """Parameters of a test: what `quick` leaves out is much the same, and long."""
    kept = quick(pairs)
    return [pair if pair in kept else pytest.param(*pair, marks=pytest.mark.long) for pair in pairs]


WHOLE = ("rbm-binary",)
SHIPPED = ("ising-spin", "potts-categorical", "exponential_family-real")
USUAL = ("gibbs", "block_gibbs", "gibbs_langevin")


def quick(pairs):
    """All settings of all samplers on one model of bits, the shipped ones on spins, categories and numbers, the bold
    ones between walls, the usual ones on other closed forms, and for every other model one, but for networks of bits
    and categories, which a step asks about every site."""
    one = {t: s for s, t in pairs if "-" not in s and not t.startswith(("resnet_binary", "resnet_categorical"))}
    return [(s, t) for s, t in pairs if (_bold(s) if t == WALLED else one.get(t) == s or t in WHOLE or _matters(s, t))]


def is_slow(label: str, name: str) -> bool:
    """Whether a sampler takes hundreds of steps to forget."""
    return not isinstance(example(name).space, Discrete) and reach(SAMPLERS[label]) < 0.5


def marked_slow(pairs):
    """Parameters of a test of many steps or chains: slow pairs, and other settings than those shipped, are long too."""
    long = [p for p in pairs if is_slow(*p) or ("-" in p[0] and p[1] != WALLED)]
    return [pytest.param(*p, marks=pytest.mark.long) if p in long else p for p in marked(pairs)]


def _matters(label: str, name: str) -> bool:
    return "-" not in label and (name in SHIPPED or (label in USUAL and example(name).compiles))


def _bold(label: str) -> bool:
    """Whether a sampler takes long steps, which meet walls, and forgets soon."""
    return reach(SAMPLERS[label]) >= 0.5 and "-" in label


KNOWN = [name for name in PAIRS if name in DISCRETE or isinstance(example(name), GaussianProduct | GaussianRBM)]
INVARIANT = [(s, t) for s, t in FITTING if SAMPLERS[s].exact and t in (*KNOWN, WALLED)]
FITTING_DISCRETE = [(s, t) for s, t in FITTING if t in DISCRETE]


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
        sites = model.sites(states)
        if isinstance(model.space, Categorical):
            p = sites.logits(site).softmax(1)
        else:
            on = torch.sigmoid(sites.logit(site))
            p = torch.stack([1 - on, on], 1)
    matrix = torch.zeros(len(states), len(states), dtype=torch.float64)
    for x, value in itertools.product(range(len(states)), range(model.space.values)):
        matrix[x, at(model.space, x, {site: value})] += p[x, value]
    return matrix


def digit(space: Discrete, x: int, site: int) -> int:
    """The value of a site in configuration number x."""
    return x // space.values**site % space.values


def at(space: Discrete, x: int, values: dict[int, int]) -> int:
    """The number of configuration x with these values at these sites."""
    return x + sum((value - digit(space, x, site)) * space.values**site for site, value in values.items())


def others(space: Discrete, x: int, sites: tuple[int, ...]) -> list[dict[int, int]]:
    """Every way in which all of these sites can have another value than in configuration x."""
    each = [[v for v in range(space.values) if v != digit(space, x, site)] for site in sites]
    return [dict(zip(sites, values, strict=True)) for values in itertools.product(*each)]


def block_gibbs_matrix(sampler, model: Blocked) -> torch.Tensor:
    """sum_h p(h | v) p(v' | h); on a graph the sites of one colour after the other, which commute within a colour."""
    if isinstance(model, FHMM):
        length, chains = model.space.shape
        blocks = [range(k, length * chains, chains) for k in range(chains)][:: -1 if sampler.backwards else 1]
        return torch.linalg.multi_dot([_block_matrix(model, sites) for sites in blocks])
    if not isinstance(model, Bipartite):
        sites = [int(i) for _, colour in model.colours()[:: -1 if sampler.backwards else 1] for i in colour]
        return torch.linalg.multi_dot([_site_matrix(model, i) for i in sites])
    hidden = Binary((model.hidden,)).enumerate().double()
    with torch.no_grad():
        given_v = _bernoulli_table(model.hidden_logits(double_states(model)), hidden)
        logits, states = model.visible_logits(hidden), double_states(model).flatten(1)
        if isinstance(model.space, Categorical):
            return given_v @ (logits @ states.T).softmax(1)
        given_h = _bernoulli_table(logits, states)
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
            ways = others(model.space, x, chosen)
            for way in ways:
                y, share = at(model.space, x, way), 1 / len(ways) / len(sets) / len(numbers)
                accept = min(1.0, torch.exp(energy[x] - energy[y]).item())
                matrix[x, y] += share * accept
                matrix[x, x] += share * (1 - accept)
    return matrix


def _gains(model: EnergyModel) -> torch.Tensor:
    """-dE/dx.(x' - x) for x' that differs from x in one site, which has value k: (states, sites, values).

    By automatic differentiation; zero for the value that is there.
    """
    x = double_states(model).requires_grad_()
    (grad,) = torch.autograd.grad(model.energy(x).sum(), x)
    states, space = x.detach(), model.space
    found = torch.zeros(len(x), space.sites, space.values, dtype=torch.float64)
    for n, site, value in itertools.product(range(len(x)), range(space.sites), range(space.values)):
        found[n, site, value] = -(grad[n] * (states[at(space, n, {site: value})] - states[n])).sum()
    return found


def gwg_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """Paths of 1 to `flips` distinct sites; each accepted against itself reversed (Grathwohl et al. 2021, alg. 1)."""
    with torch.no_grad():
        energy = model.energy(double_states(model))
    space, weight = model.space, (_gains(model) / sampler.temperature).exp()
    n, lengths = len(energy), range(1, sampler.flips + 1)
    for x, site in itertools.product(range(n), range(space.sites)):
        weight[x, site, digit(space, x, site)] = 0  # a move moves
    matrix = torch.zeros(n, n, dtype=torch.float64)

    def probability(x: int, path: list[tuple[int, int]]) -> float:
        left, found = weight[x].clone(), 1.0
        for site, value in path:
            found *= (left[site, value] / left.sum()).item()
            left[site] = 0
        return found

    for x, length in itertools.product(range(n), lengths):
        for sites in itertools.permutations(range(space.sites), length):
            for way in others(space, x, sites):
                y = at(space, x, way)
                undo = [(site, digit(space, x, site)) for site in reversed(sites)]
                forth, back = probability(x, list(way.items())), probability(y, undo)
                accept = min(1.0, torch.exp(energy[x] - energy[y]).item() * back / forth)
                matrix[x, y] += forth * accept / len(lengths)
                matrix[x, x] += forth * (1 - accept) / len(lengths)
    return matrix


def dmala_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """q(x' | x) normalised over all x' by brute force (Zhang et al. 2022, eq. 3), then the acceptance test, if any."""
    states, space, gains = double_states(model), model.space, _gains(model)
    with torch.no_grad():
        energy = model.energy(states)
    logits = torch.zeros(len(states), len(states), dtype=torch.float64)
    for x, y, site in itertools.product(range(len(states)), range(len(states)), range(space.sites)):
        value = digit(space, y, site)
        logits[x, y] += gains[x, site, value] / 2 - (value != digit(space, x, site)) / (2 * sampler.step_size)
    q = torch.softmax(logits, 1)
    if not sampler.adjusted:
        return q
    accept = ((energy[:, None] - energy[None]).exp() * q.T / q).clamp_max(1)
    matrix = q * accept
    return matrix + torch.diag(1 - matrix.sum(1))


def hamming_ball_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """Mean over blocks; in each, u equally likely in the ball around x, then p restricted to the ball around u."""
    p, n = exact_p(model), 2**model.space.sites
    blocks = [sum(1 << i for i in c) for c in itertools.combinations(range(model.space.sites), sampler.block)]
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for block in blocks:
        ball = [flips for flips in range(n) if not flips & ~block and flips.bit_count() <= sampler.radius]
        for x, flips in itertools.product(range(n), ball):
            near = torch.tensor(ball) ^ x ^ flips
            matrix[x, near] += p[near] / p[near].sum() / len(ball) / len(blocks)
    return matrix


MATRICES = {
    "hamming_ball": hamming_ball_matrix,
    "gibbs": gibbs_matrix,
    "block_gibbs": block_gibbs_matrix,
    "metropolis": metropolis_matrix,
    "gwg": gwg_matrix,
    "dmala": dmala_matrix,
}


def is_defined(sampler: Sampler) -> bool:
    """Whether the kernel has its definition written down here."""
    return _name(sampler) in MATRICES


def _name(sampler: Sampler) -> str:
    return next(name for name, cls in registry.components("sampler").items() if cls is type(sampler))


def matrix_of(sampler: Sampler, model: EnergyModel) -> torch.Tensor:
    """The transition matrix of one step, from that definition."""
    return MATRICES[_name(sampler)](sampler, model)


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

    Discrete: one cell per configuration. Mixtures of Gaussians: all combinations of eight intervals in each coordinate,
    which are equally likely under the normal distribution of the same mean and variance. Gaussians between walls: eight
    intervals that are equally likely.
    """
    assert model.space.contains(x)
    if isinstance(model.space, Discrete):
        return np.bincount(model.space.code(x), minlength=model.space.states), exact_p(model).numpy()
    if isinstance(model, TruncatedProduct):
        ends = truncated_quantiles(model, torch.linspace(0, 1, 9, dtype=torch.float64))
        return _counted(x, ends), np.full(8**model.space.sites, 8.0**-model.space.sites)
    weight, mean, std = mixture(model)
    centre = weight @ mean
    spread = (weight @ (mean - centre).square() + std.square()).sqrt()
    ends = torch.special.ndtri(torch.linspace(0, 1, 9, dtype=torch.float64))[:, None] * spread + centre
    shares = torch.special.ndtr((ends - mean[:, None]) / std).diff(dim=1)  # (components, 8, sites)
    p = torch.zeros(8**model.space.sites, dtype=torch.float64)
    for cell, each in enumerate(itertools.product(range(8), repeat=model.space.sites)):
        p[cell] = weight @ torch.stack([shares[:, k, i] for i, k in enumerate(reversed(each))]).prod(0)
    return _counted(x, ends), p.numpy()


def _counted(x: torch.Tensor, ends: torch.Tensor) -> np.ndarray:
    """How many rows of x are in each combination of the eight intervals between `ends` (9, sites)."""
    interval = (x.flatten(1).double()[:, None] > ends[1:-1]).sum(1)
    code = (interval * 8 ** torch.arange(ends.shape[1])).sum(1)
    return np.bincount(code, minlength=8 ** ends.shape[1])


def truncated_quantiles(model: TruncatedProduct, p: torch.Tensor) -> torch.Tensor:
    """Quantiles (levels, sites) of Gaussians between walls, by the distribution function."""
    m, s = model.m.detach().double(), (-model.r.detach() / 2).exp().double()
    low, high = (torch.special.ndtr((wall - m) / s) for wall in (model.space.low, model.space.high))
    return m + s * torch.special.ndtri(low + p[:, None] * (high - low))


def mixture(model: EnergyModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights (components,), means (components, sites) and standard deviations (sites,) of the Gaussians that p mixes.

    Of a Gaussian-Bernoulli machine one for each state h: exp(-E(v, h)) at its top, b + W h, times the volume below it.
    """
    if isinstance(model, GaussianProduct):
        return (
            torch.ones(1, dtype=torch.float64),
            model.m.detach().double()[None],
            (-model.r / 2).exp().detach().double(),
        )
    assert isinstance(model, GaussianRBM), f"say here which Gaussians {type(model).__name__} mixes"
    std = (model.r.exp() + model.min_spread**2).sqrt()
    W, b, c, std = (t.detach().double() for t in (model.W, model.b, model.c, std))
    h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=model.hidden)), dtype=torch.float64)
    mean = b + h @ W.T
    top = h @ c - ((mean - b) / std).square().sum(1) / 2 + (mean / std**2 * (h @ W.T)).sum(1)
    return top.softmax(0), mean, std


def known_log_p(model: EnergyModel, x: torch.Tensor) -> torch.Tensor:
    """log p(x) of real numbers by the mixture, (rows,)."""
    weight, mean, std = mixture(model)
    each = torch.distributions.Normal(mean, std).log_prob(x.flatten(1).double()[:, None]).sum(2)
    return (each + weight.log()).logsumexp(1)


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
    if isinstance(space, Categorical):
        x = space.decode(x).byte()
    elif isinstance(space, TwoValued):
        x = space.bits(x)
        x = (x * rng.bernoulli(torch.linspace(0, 2, n * space.sites).reshape(x.shape), stream(seed, "mask"))).byte()
    elif isinstance(space, Box):
        x = space.brightness(x)
    split = Split(space, x, 1.0, stochastic=False, labels=None)
    return Data(space, split, dataclasses.replace(split, grey=x[: n // 2]), split)


# Training


def gradients(objective, model, x, x_neg, beside=None):
    """Gradients of an objective by name, and its metrics; `beside` is its auxiliary, or one as it begins."""
    beside = auxiliary(objective, model) if beside is None else beside
    found = objective.gradient(model, Batch(x, x_neg, auxiliary=beside), stream(0, "objective"))
    return objective.finish(model, found), found.metrics


def auxiliary(objective, model, noise: str = "fitted", **changes):
    """What the objective trains beside the model as it begins, in float64, with a noise of `small_data`."""
    key = stream(0, "auxiliary")
    contrasts = objective.contrasts != "nothing"
    law = component("noise", noise, **changes).build(small_data(model.space), key).double() if contrasts else None
    found = objective.auxiliary(model, law, key)
    return None if found is None else found.double()


def batch(data: Data, step: int, size: int, seed: int) -> torch.Tensor:
    """Training batch number `step`."""
    return data.train.rows(batch_index(data.train, step, size, seed), stream(seed, "binarize", step))


def small_run(engine: Engine = EAGER, where: str = "cpu", **changes):
    """Parts and state of a small RBM on 2 x 2 bars and stripes."""
    config = {
        "dataset": shipped("dataset")["bars_and_stripes"] | {"side": 2},
        "model": shipped("model")["rbm"] | {"hidden": 3},
        "sampler": shipped("sampler")["block_gibbs"],
        "chains": shipped("chains")["persistent"],
        "noise": shipped("noise")["fitted"],
        "objective": shipped("objective")["pcd"],
        "optimizer": shipped("optimizer")["sgd"],
    }
    choice = {group: values["name"] for group, values in config.items()}
    components = state.build_components(config | changes, choice)
    device = Device(torch.device(where), where, "fp32", engine)
    loop = state.Loop(steps=50, batch_size=INTERPOLATED["${batch_size}"], seed=0)
    return state.assemble(components, loop, device, state.load_data(components, device), choice)
