"""Transition matrices T[x, x'] of one step, from the definitions of the kernels and the model's own conditionals."""

import itertools

import torch

from ebm_cli import registry
from ebm_cli.model.base import Bipartite, Blocked, EnergyModel
from ebm_cli.model.fhmm import FHMM
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Binary, Categorical, Discrete
from helpers.models import double_states, exact_p


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
