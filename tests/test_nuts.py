"""The no-U-turn sampler: its draws from a trajectory against the recursion of the papers, its count of gradients."""

import math

import pytest
import torch
from helpers.components import FALSE_ALARM, component
from helpers.statistics import assert_close, assert_mean, chi_square

from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.model.given import Given
from ebm_cli.model.scaled import scaled
from ebm_cli.rng import normal, stream, uniform
from ebm_cli.sampler.base import run
from ebm_cli.sampler.hmc import kinetic, leapfrog
from ebm_cli.sampler.informed import InformedState, informed
from ebm_cli.sampler.nuts import turns
from ebm_cli.space import Box, Real

STEP, DEPTH, MIDDLE = 0.45, 3, 40


class Valley(EnergyModel):
    """E(x, y) = x^4 / 4 + (y - x)^2: neither coordinate swings like the other."""

    def __init__(self):
        super().__init__()
        self.space = Real((2,))

    def energy(self, x):
        a, b = x.unbind(1)
        return a**4 / 4 + (b - a).square()


class Orbit:
    """States of one long trajectory, MIDDLE steps to each side of a start, each with its momenta and weight e^-H."""

    def __init__(self, model, x, r):
        begin = informed(model, x)
        forth, back = [(begin, r)], [(begin, r)]
        for _ in range(MIDDLE):
            forth.append(leapfrog(model, *forth[-1], STEP))
            back.append(leapfrog(model, *back[-1], -STEP))
        self.states = [*back[:0:-1], *forth]
        self.weight = [(-s.energy - kinetic(r)).exp().item() for s, r in self.states]

    def turned(self, low, high):
        """The stretch from state `low` to `high` by its definition, from all its momenta."""
        momenta = [r for _, r in self.states[low : high + 1]]
        rho = sum(momenta)
        return any((rho * end).sum().item() <= 0 for end in (momenta[0], momenta[-1]))

    def good(self, low, high):
        """Whether neither it nor one of its halves, quarters, ... turns."""
        if low == high:
            return True
        middle = (low + high) // 2
        return not self.turned(low, high) and self.good(low, middle) and self.good(middle + 1, high)

    def mass(self, low, high):
        return sum(self.weight[low : high + 1])

    def drawn(self, low, high, depth, law):
        """The law of the next state and the mean number of gradients: `law` of the state drawn from low ... high."""
        if depth == DEPTH:
            return law, 0.0
        size, total, gradients = high - low + 1, {}, 0.0
        for a, b in ((high + 1, high + size), (low - size, low - 1)):
            if not self.good(a, b):
                then, more, steps = law, 0.0, self.tried(a, b, forth=a > high)
            else:
                share = min(1.0, self.mass(a, b) / self.mass(low, high))
                new = {s: p * (1 - share) for s, p in law.items()}
                new |= {s: share * self.weight[s] / self.mass(a, b) for s in range(a, b + 1)}
                whole, steps = (min(a, low), max(b, high)), size
                ends = self.turned(*whole)
                then, more = (new, 0.0) if ends else self.drawn(*whole, depth + 1, new)
            gradients += (steps + more) / 2
            for s, p in then.items():
                total[s] = total.get(s, 0.0) + p / 2
        return total, gradients

    def tried(self, low, high, *, forth):
        """How many steps of a stretch are taken until one of its parts is seen to turn."""
        size = high - low + 1
        for taken in range(1, size + 1):
            for part in (2**k for k in range(1, taken.bit_length()) if taken % 2**k == 0):
                begin = low + taken - part if forth else high - taken + 1
                if self.turned(begin, begin + part - 1):
                    return taken
        raise AssertionError

    def law(self, s):
        return self.drawn(s, s, 0, {s: 1.0})


def orbits():
    """Two of them: one on which trajectories turn soon, one on which they seldom do."""
    for x, r in (((0.9, 0.2), (1.3, -0.4)), ((-0.3, 1.0), (0.3, 0.2))):
        yield Orbit(Valley(), *(torch.tensor([pair], dtype=torch.float64) for pair in (x, r)))


def test_each_state_of_a_trajectory_is_left_as_likely_as_it_was():
    """sum_s w_s T(s, t) = w_t over all starts s that lead to t, by enumeration of the recursion's trees."""
    lengths = set()
    for orbit in orbits():
        laws = {s: orbit.law(s) for s in range(MIDDLE - 10, MIDDLE + 11)}
        for t in range(MIDDLE - 3, MIDDLE + 4):
            inward = sum(orbit.weight[s] * law.get(t, 0.0) for s, (law, _) in laws.items())
            assert inward == pytest.approx(orbit.weight[t], rel=1e-12)
        lengths |= {round(gradients, 6) for _, gradients in laws.values()}
    assert len(lengths) > 3


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("offset", [0, 3])
def test_chains_draw_from_the_trajectory_as_the_recursion_does(number, offset):
    orbit, n = list(orbits())[number], 20_000
    state, r = orbit.states[MIDDLE + offset]
    law, gradients = orbit.law(MIDDLE + offset)
    start = InformedState(*(part.expand(n, *part.shape[1:]) for part in state))
    sampler = component("sampler", "nuts", step_size=STEP, max_depth=DEPTH)
    end, info = sampler.along(Valley(), start, r.expand(n, 2), stream(0, "nuts", number, offset))
    xs = torch.cat([s.x for s, _ in orbit.states])
    distance, found = torch.cdist(end.x, xs, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert distance.max() < 1e-9
    count = torch.bincount(found, minlength=len(xs))
    expected = torch.zeros(len(xs), dtype=torch.float64)
    for s, p in law.items():
        expected[s] = p * n
    assert count[expected == 0].sum() == 0
    there = expected > 0
    assert chi_square(count[there], expected[there]) > FALSE_ALARM
    assert_mean(info["gradients"], gradients)
    again = informed(Valley(), end.x)
    assert_close(end.energy, again.energy)
    assert_close(end.grad, again.grad)


def test_a_trajectory_turns_where_an_end_points_against_its_sum():
    r, other = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.5], [-1.0, 0.1], [1.0, 0.0]])
    rho = torch.tensor([[2.0, 0.5], [2.0, 0.1], [2.0, 0.0]])
    assert turns(r, other, rho).tolist() == [False, True, True]


class Counting(Valley):
    """How many rows were asked for their gradient."""

    rows = 0

    def energy_and_grad(self, x):
        self.rows += len(x)
        return super().energy_and_grad(x)


def test_gradients_are_counted_row_by_row():
    model, x = Counting(), normal((50, 2), stream(0, "start"), dtype=torch.float64)
    sampler = component("sampler", "nuts", step_size=0.2)
    state = sampler.init(model, x)
    model.rows = 0
    _, info = sampler.step(model, state, stream(1, "step"))
    assert info["gradients"].sum().item() == model.rows
    assert info["gradients"].min() < info["gradients"].max()


def test_a_chain_draws_what_it_would_draw_alone():
    model, x = Valley(), normal((6, 2), stream(0, "start"), dtype=torch.float64)
    sampler, key = component("sampler", "nuts", step_size=0.3), stream(2, "step")
    whole, _ = sampler.step(model, sampler.init(model, x), key)
    part, _ = sampler.step(model, sampler.init(model, x[4:]), key.after(4))
    assert_close(part.x, whole.x[4:])


def of_each(rows):
    """Densities that differ from chain to chain: y at different x, replicas of it, and different temperatures."""
    known, where = torch.linspace(-2, 2, rows, dtype=torch.float64)[:, None].repeat(1, 2), torch.ones(rows, 1).long()
    beta = torch.linspace(0.2, 3, rows, dtype=torch.float64)
    given = Given(Valley(), known, where)
    yield given, (rows, 1)
    yield given, (2 * rows, 1)
    yield scaled(Valley(), beta, blocks=False), (rows, 2)
    yield scaled(given, beta, blocks=False), (rows, 1)


def test_each_chain_follows_its_own_density():
    """Chains that have ended are left out of the next calls: the others are still asked of their own."""
    sampler, key, rows = component("sampler", "nuts", step_size=0.3), stream(3, "step"), 6
    for number, (model, shape) in enumerate(of_each(rows)):
        x = normal(shape, stream(0, "start"), dtype=torch.float64)
        whole, info = sampler.step(model, sampler.init(model, x), key)
        assert number == 1 or len(set(info["gradients"].tolist())) > 1
        for i in range(rows):
            own, copies = model.of_rows(slice(i, i + 1)), slice(i * len(x) // rows, (i + 1) * len(x) // rows)
            alone, _ = sampler.step(own, sampler.init(own, x[copies]), key.after(copies.start))
            assert_close(alone.x, whole.x[copies])


def test_a_step_that_leads_to_no_energy_ends_the_trajectory():
    """Far too long a step: every one diverges after its gradient, and the chain stays where it was."""
    model, x = Valley(), torch.full((5, 2), 3.0, dtype=torch.float64)
    end, info = run(component("sampler", "nuts", step_size=1e3), model, x, 3, stream(0, "far"))
    assert torch.equal(end, x)
    assert info["acceptance"].max() == 0
    assert (info["gradients"] == 1).all()


class Corner(Normalised):
    """E(x, y) = x + 2 y in a box: exponential, cut off at the walls."""

    def __init__(self):
        super().__init__()
        self.space = Box((2,))

    def energy(self, x):
        return x @ torch.tensor([1.0, 2.0], dtype=x.dtype)

    def log_z(self):
        return torch.tensor([1.0, 2.0]).neg().expm1().neg().log().sum() - math.log(2)

    def sample(self, n, key):
        rate = torch.tensor([1.0, 2.0], dtype=torch.float64)
        return -torch.log1p(uniform((n, 2), key, dtype=torch.float64) * torch.expm1(-rate)) / rate


def test_walls_reflect_a_trajectory():
    """Exact draws, a step later: the means of their functions change by chance alone, and no chain stands still."""
    model = Corner()
    x = model.sample(20_000, stream(0, "exact"))
    y, _ = run(component("sampler", "nuts", step_size=0.4, max_depth=3), model, x, 1, stream(0, "walls"))
    assert model.space.contains(y)
    assert (y != x).all(1).double().mean() > 0.9
    for function in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: z[:, 0] * z[:, 1], lambda z: z[:, 1] ** 3):
        assert_mean(function(y) - function(x), 0.0)


@pytest.mark.long
def test_a_warm_up_finds_the_step():
    model, x = Valley(), normal((50, 2), stream(0, "start"), dtype=torch.float64)
    sampler, warm = component("sampler", "nuts", step_size=0.2, adapt=0.8).warmed(model, x, 100, stream(0, "warm"))
    _, info = run(sampler, model, warm, 20, stream(1, "after"))
    assert info["acceptance"].mean().item() == pytest.approx(0.8, abs=0.05)
