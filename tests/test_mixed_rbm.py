"""Machines of binary, categorical and Gaussian units: log Z, draws and annealing against numerical integrals."""

import itertools
import math

import pytest
import torch
from helpers.components import component
from helpers.models import randomised

from ebm_cli.dataset.base import placeholder
from ebm_cli.evaluation import conditional
from ebm_cli.evaluation.base import Subject
from ebm_cli.log_z import enumeration
from ebm_cli.model.exponential_family import product
from ebm_cli.model.gaussian_rbm import Start
from ebm_cli.model.mixed_rbm import MixedRBM
from ebm_cli.rng import stream
from ebm_cli.space import Mixed

SPACE = Mixed((4,), (2, 0, 3, 4))
MEAN = torch.tensor([0.3, 0.2, 0.2, 0.5, 0.3, 0.1, 0.2, 0.3, 0.4])


@pytest.fixture(scope="module")
def model() -> MixedRBM:
    return randomised(MixedRBM(SPACE, Start(3, 0.1, 1.0, 0.3), MEAN, stream(0, "model")), 2)


def states(step: float = 0.02, end: float = 15.0) -> torch.Tensor:
    """Every value of the discrete sites with the real one on a grid, (24 points, 4)."""
    grid = torch.arange(-end, end, step, dtype=torch.float64)
    sets = [torch.arange(2.0), grid, torch.arange(3.0), torch.arange(4.0)]
    return torch.cartesian_prod(*[part.double() for part in sets])


@pytest.fixture(scope="module")
def law(model) -> torch.Tensor:
    """p of each of the states, by their energies alone."""
    return torch.softmax(-model.energy(states()).detach(), 0)


def shares(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Probabilities of all pairs of discrete values, and means and second moments of the real number beside each."""
    units = SPACE.as_units(x)
    units = torch.cat([units, units[:, 1:2] ** 2], 1)
    return (units * weight[:, None]).T @ units


def test_log_z_is_that_of_a_numerical_integral(model):
    by_grid = (-model.energy(states())).logsumexp(0) + math.log(0.02)
    assert enumeration.log_z(model).item() == pytest.approx(by_grid.item(), abs=1e-9)
    units = product(SPACE, MEAN, torch.tensor([0.7])).double()
    by_grid = (-units.energy(states())).logsumexp(0) + math.log(0.02)
    assert units.log_z().item() == pytest.approx(by_grid.item(), abs=1e-9)


@pytest.mark.parametrize("exact", [True, False])
def test_draws_have_the_pairs_of_the_law(model, law, exact):
    """Independent draws by the sum over hidden states, and chains that begin at noise."""
    n, key = 20_000, stream(1, "draws")
    if exact:
        x = enumeration.sample(model, n, key)
    else:
        x = SPACE.noise(n, key).double()
        for i in range(30):
            x = model.sweep(x, key.fold(i), backwards=False)
    assert SPACE.contains(x)
    due, found = shares(states(), law), shares(x, torch.full((n,), 1 / n, dtype=torch.float64))
    units = SPACE.as_units(states())
    units = torch.cat([units, units[:, 1:2] ** 2], 1)
    second = (units**2 * law[:, None]).T @ units**2
    error = ((second - due**2).clamp_min(0) / n).sqrt()
    assert ((found - due).abs() <= 5 * error + 1e-12).all()


def test_sites_given_others_have_their_conditional_law(model):
    """Against the energies of all that the missing sites can be, rows with other sites missing."""
    known = torch.tensor([[1.0, 0.4, 2.0, 3.0], [0.0, -1.2, 1.0, 0.0]], dtype=torch.float64)
    missing = torch.tensor([[True, False, True, False], [False, False, True, True]])
    about = Subject(
        model, placeholder(SPACE), "test", component("sampler", "block_gibbs"), torch.empty(0), stream(2, "given")
    )
    (group,) = conditional.draws(about, known, missing, conditional.Wanted(400, 60))
    for row, sites in enumerate(group.where.tolist()):
        values = [range(SPACE.values[site]) for site in sites]
        rows = known[row].repeat(math.prod(map(len, values)), 1)
        rows[:, sites] = torch.tensor([*itertools.product(*values)], dtype=torch.float64)
        p = torch.softmax(-model.energy(rows).detach(), 0)
        ends = group.ends[row][:, sites]
        count = torch.tensor([(ends == state[sites]).all(1).sum() for state in rows])
        assert ((count / 400 - p).abs() <= 5 * (p * (1 - p) / 400).sqrt() + 1e-12).all()
        fixed = [site for site in range(4) if site not in sites]
        assert (group.ends[row][:, fixed] == known[row, fixed]).all()


def test_the_annealed_machine_mixes_both_energies(model):
    """E(v, h = 0) and the hidden logits say all of a joint energy."""
    units = randomised(product(SPACE, MEAN, torch.tensor([0.7])), 3)
    x, beta = SPACE.noise(40, stream(3, "x")).double(), torch.tensor(0.37, dtype=torch.float64)
    mixed = model.annealed(units, beta)
    off = mixed.at_rest(x) - (1 - beta) * units.energy(x) - beta * model.at_rest(x)
    assert off.std().item() < 1e-12
    torch.testing.assert_close(mixed.hidden_logits(x), beta * model.hidden_logits(x))
