"""Transition matrices T[x, x'] of one step, from the definitions of the kernels and the model's own conditionals."""

import itertools
import math

import torch

from ebm_cli import registry
from ebm_cli.model.base import Bipartite, Blocked, EnergyModel
from ebm_cli.model.class_rbm import ClassRBM
from ebm_cli.model.fhmm import FHMM
from ebm_cli.model.harmonium import DiscreteHarmonium
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
    if isinstance(model, ClassRBM):
        h, v = Binary((model.hidden,)).enumerate().double(), double_states(model).flatten(1)
        with torch.no_grad():
            classes = (model.U @ h.T + model.d[:, None]).logsumexp(0)
            given_v = (model.inputs(v) @ h.T + classes).softmax(1)
            return given_v @ ((model.b + h @ model.W.T) @ v.T).softmax(1)
    if isinstance(model, DiscreteHarmonium):
        h, v = model.hidden_states().enumerate().double(), double_states(model)
        with torch.no_grad():
            given_v = (model.hidden_inputs(v) @ h.T).softmax(1)
            return given_v @ ((model.b + h @ model.W.T) @ v.flatten(1).T).softmax(1)
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


def _balanced(t: torch.Tensor, balance: str) -> torch.Tensor:
    """g(t) of a balancing function (Zanella 2020, table 1)."""
    one = torch.ones_like(t)
    return {"sqrt": t.sqrt(), "barker": t / (1 + t), "min": torch.minimum(one, t), "max": torch.maximum(one, t)}[
        balance
    ]


def gwg_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """Paths of 1 to `flips` distinct sites; each accepted against itself reversed (Grathwohl et al. 2021, alg. 1)."""
    weight = _balanced((2 * _gains(model) / sampler.temperature).exp(), sampler.balance)
    return _path_matrix(weight, [1 / sampler.flips] * sampler.flips, model)


def pafs_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """The same with lengths floor(1 + (2 radius - 1) u), u uniform, and at most all sites."""
    width, sites = 2 * sampler.radius - 1, model.space.sites
    share = [max(0.0, min(length, width) - (length - 1)) / width for length in range(1, sites + 1)]
    share[-1] += 1 - sum(share)
    return _path_matrix(_balanced(_gains(model).exp(), sampler.balance), share, model)


def _path_matrix(weight: torch.Tensor, share: list[float], model: EnergyModel) -> torch.Tensor:
    """Moves by their weights (states, sites, values), one after the other; `share` has the paths of 1, 2, ... sites."""
    with torch.no_grad():
        energy = model.energy(double_states(model))
    space, weight, n = model.space, weight.clone(), len(energy)
    for x, site in itertools.product(range(n), range(space.sites)):
        weight[x, site, digit(space, x, site)] = 0  # a move moves
    matrix = torch.zeros(n, n, dtype=torch.float64)

    weights = weight.tolist()

    def probability(x: int, path: list[tuple[int, int]]) -> float:
        left, found = {site: sum(values) for site, values in enumerate(weights[x])}, 1.0
        for site, value in path:
            found *= weights[x][site][value] / sum(left.values())
            del left[site]
        return found

    lengths = [length for length, part in enumerate(share, 1) if part]
    ratio = (energy[:, None] - energy[None]).exp().tolist()
    for x, length in itertools.product(range(n), lengths):
        for sites in itertools.permutations(range(space.sites), length):
            for way in others(space, x, sites):
                y = at(space, x, way)
                undo = [(site, digit(space, x, site)) for site in reversed(sites)]
                forth, back = probability(x, list(way.items())), probability(y, undo)
                accept = min(1.0, ratio[x][y] * back / forth)
                matrix[x, y] += forth * accept * share[length - 1]
                matrix[x, x] += forth * (1 - accept) * share[length - 1]
    return matrix


def dmala_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """q(x' | x) normalised over all x' by brute force (Zhang et al. 2022, eq. 3), then the acceptance test, if any."""
    scales = [1.0] * model.space.sites if sampler.scales == "equal" else sampler.scales
    moved = torch.exp(-1 / (2 * sampler.step_size * torch.tensor(scales, dtype=torch.float64)))
    weight = _balanced(_gains(model).exp(), sampler.balance)
    q = _sites_matrix(weight / _balanced(torch.ones(1, dtype=torch.float64), sampler.balance), moved, model)
    return _accepted(q, model) if sampler.adjusted else q


def acs_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """The proposals of a cycle one after the other (Pynadath et al. 2024, eq. 3), each with its test."""
    found, gains = torch.eye(model.space.states, dtype=torch.float64), _gains(model)
    for k in range(sampler.cycle) if not sampler.backwards else reversed(range(sampler.cycle)):
        share = (1 + math.cos(math.pi * k / (sampler.cycle - 1))) / 2
        size = share * sampler.step_size + (1 - share) * sampler.final_step_size
        balance = share * sampler.balance + (1 - share) * 0.5
        moved = torch.exp(torch.tensor(-1 / (2 * size), dtype=torch.float64))
        found = found @ _accepted(_sites_matrix((balance * gains).exp(), moved, model), model)
    return found


def dlmc_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """Of two values the exponential of each site's generator; of more, and by euler, the definition (Sun et al. 2023).

    In the generator a site jumps there and back with g(t) and g(1 / t), which are held.
    """
    space, t = model.space, _gains(model).exp()
    one = _balanced(torch.ones(1, dtype=torch.float64), sampler.balance)
    forth, back = _balanced(t, sampler.balance) / one, _balanced(1 / t, sampler.balance) / one
    law = torch.zeros_like(t)
    for x, site in itertools.product(range(len(t)), range(space.sites)):
        here = digit(space, x, site)
        away = [value for value in range(space.values) if value != here]
        rate, nu = forth[x, site, away], t[x, site, away] / t[x, site].sum()
        if sampler.solver == "euler":
            law[x, site, away] = (1 - torch.exp(-sampler.step_size * rate.sum())) * rate / rate.sum()
        elif space.values == 2:
            there, here_again = rate.item(), back[x, site, away].item()
            generator = torch.tensor([[-there, there], [here_again, -here_again]], dtype=torch.float64)
            law[x, site, away] = torch.linalg.matrix_exp(sampler.step_size * generator)[0, 1:]
        else:
            law[x, site, away] = nu * (1 - torch.exp(-sampler.step_size * rate / nu))
        law[x, site, here] = 1 - law[x, site, away].sum()
    return _accepted(_sites_matrix(law, torch.ones((), dtype=torch.float64), model), model)


def top_k_gibbs_matrix(sampler, model: EnergyModel) -> torch.Tensor:
    """Mean over sets of `block` sites; in each the product of the sites' laws, accepted against the way back.

    A law is softmax(gain / temperature) in which all values but the `top` likeliest share what these leave.
    """
    with torch.no_grad():
        energy = model.energy(double_states(model))
    space, law = model.space, (_gains(model) / sampler.temperature).softmax(2)
    for x, site in itertools.product(range(len(law)), range(space.sites)):
        order = sorted(range(space.values), key=law[x, site].tolist().__getitem__)
        rest = order[: space.values - (sampler.top or space.values)]
        law[x, site, rest] = law[x, site, rest].mean()
    blocks = list(itertools.combinations(range(space.sites), sampler.block))
    matrix = torch.zeros(len(law), len(law), dtype=torch.float64)
    for x, block in itertools.product(range(len(law)), blocks):
        for values in itertools.product(range(space.values), repeat=sampler.block):
            y = at(space, x, dict(zip(block, values, strict=True)))
            forth = math.prod(law[x, site, value].item() for site, value in zip(block, values, strict=True))
            back = math.prod(law[y, site, digit(space, x, site)].item() for site in block)
            accept = min(1.0, math.exp(energy[x] - energy[y]) * back / forth)
            matrix[x, y] += forth * accept / len(blocks)
            matrix[x, x] += forth * (1 - accept) / len(blocks)
    return matrix


def _sites_matrix(weight: torch.Tensor, moved: torch.Tensor, model: EnergyModel) -> torch.Tensor:
    """q(x' | x) in proportion to the product over sites of weight (states, sites, values), `moved`
    for each that moves, one number or one for each site."""
    space, numbers = model.space, range(len(weight))
    values = torch.tensor([[digit(space, x, site) for site in range(space.sites)] for x in numbers])
    q, moved = torch.ones(len(weight), len(weight), dtype=torch.float64), moved.expand(space.sites)
    for site in range(space.sites):
        there = values[:, site]
        q *= weight[:, site, there] * torch.where(there[:, None] == there, 1.0, moved[site])
    return q / q.sum(1, keepdim=True)


def _accepted(q: torch.Tensor, model: EnergyModel) -> torch.Tensor:
    """Proposals q(x' | x) accepted with min(1, p(x') q(x | x') / (p(x) q(x' | x)))."""
    with torch.no_grad():
        energy = model.energy(double_states(model))
    matrix = q * ((energy[:, None] - energy[None]).exp() * q.T / q).clamp_max(1)
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
    "pafs": pafs_matrix,
    "dmala": dmala_matrix,
    "dlmc": dlmc_matrix,
    "acs": acs_matrix,
    "top_k_gibbs": top_k_gibbs_matrix,
}


def is_defined(sampler: Sampler) -> bool:
    """Whether the kernel has its definition written down here."""
    return _name(sampler) in MATRICES


def _name(sampler: Sampler) -> str:
    return next(name for name, cls in registry.components("sampler").items() if cls is type(sampler))


def matrix_of(sampler: Sampler, model: EnergyModel) -> torch.Tensor:
    """The transition matrix of one step, from that definition."""
    return MATRICES[_name(sampler)](sampler, model)
