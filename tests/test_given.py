"""Some sites given the others: every sampler on every model that it fits, against enumeration and closed forms."""

import pytest
import torch
from helpers.components import component
from helpers.models import example, small_model
from helpers.samplers import FITTING_DISCRETE, SAMPLERS, covering

from ebm_cli.dataset.base import placeholder
from ebm_cli.device.engine import Engine
from ebm_cli.evaluation import conditional
from ebm_cli.evaluation.base import Subject
from ebm_cli.model.base import Blocked
from ebm_cli.model.given import Given, space_of
from ebm_cli.rng import stream
from ebm_cli.sampler import hamming_ball
from ebm_cli.sampler.base import followed, run
from ebm_cli.space import Binary, Discrete

CHAINS, STEPS = 4000, 24
QUICK = [
    ("gibbs", "rbm-binary"), ("block_gibbs", "rbm-binary"), ("gwg-2", "boltzmann-binary"),
    ("dmala", "ising-spin"), ("block_gibbs", "ising-spin"), ("block_gibbs", "potts-categorical"),
    ("parallel_tempering-gibbs-3", "rbm-binary"), ("hamming_ball", "ising-spin"), ("gibbs-random", "potts-categorical"),
    ("block_gibbs", "fhmm-binary"),
    ("block_gibbs-True", "ising-spin"), ("block_gibbs-True", "potts-categorical"),
]  # fmt: skip


def rows_of(space: Discrete) -> tuple[torch.Tensor, torch.Tensor]:
    """Two configurations, and two or three sites of each, not the same; some of either stay."""
    n = space.sites
    known = space.enumerate()[torch.tensor([space.states // 3, space.states // 2])].double()
    return known, torch.tensor([[0, 2], [1, 2]] if n == 3 else [[0, 1, n - 1], [0, n - 2, n - 1]])


def conditional_of(model, known: torch.Tensor, where: torch.Tensor, never: int | None = None) -> torch.Tensor:
    """p(x_m | x_c) of every value of the sites `where` of one row, by the model's own energies; of those that are drawn
    where one never is."""
    states = space_of(model.space, len(where), never).enumerate().double()
    if never is not None:
        states = torch.cat([states[..., :never], torch.zeros_like(states[..., :1]), states[..., never:]], -1)
    whole = known[None].repeat(len(states), *[1] * known.dim()).reshape(len(states), model.space.sites, -1)
    whole[:, where] = states.reshape(len(states), len(where), -1)
    return (-model.energy(whole.reshape(len(states), *model.space.shape))).softmax(0)


def fits_given(label: str, name: str) -> bool:
    """Whether it follows the density exactly, can draw some sites given others, and takes as few as there are."""
    sampler, model = SAMPLERS[label], example(name)
    blocks = any(issubclass(need, Blocked) for need in sampler.inner.needs)
    if label.startswith("parallel_tempering") and sampler.temperatures > 3:
        return False  # which sites are drawn is nothing to the length of a ladder
    able = sampler.draws_given and sampler.inner.leaves_invariant and not (blocks and not model.sweeps_given)
    return able and sampler.refusal(Given(model, *rows_of(model.space)).space) is None


MORE = [pair for pair in FITTING_DISCRETE if pair not in QUICK and fits_given(*pair)]


def check(label: str, name: str, never: int | None = None) -> None:
    """Each of two rows, whose chains are moved together: exact draws stay so, to 4.5 standard errors of every
    probability, and chains that begin at one point come nearer, or there with replicas."""
    sampler, model = SAMPLERS[label], example(name)
    known, where = rows_of(model.space)
    given = Given(model, known, where, never)
    with torch.no_grad():
        p = torch.stack([conditional_of(model, known[row], where[row], never) for row in range(2)])
        draws = torch.multinomial(p, CHAINS, replacement=True, generator=torch.Generator().manual_seed(7))
        exact = given.space.enumerate().double()[draws.flatten()]
        begun = p.argmin(1)
        point = given.space.enumerate().double()[begun.repeat_interleave(CHAINS)]
        found = shares(given.space, run(sampler, given, exact, STEPS // 2, stream(5, label, name))[0])
        later = shares(given.space, run(sampler, given, point, STEPS, stream(6, label, name))[0])
    error = (p * (1 - p) / CHAINS).sqrt()
    if sampler.replicas == 1:  # replicas that all begin at a draw of the coldest are no draws together
        assert ((found - p).abs() <= 4.5 * error).all(), (found, p)
    far = 1 - p.gather(1, begun[:, None]).squeeze(1)
    assert ((later - p).abs().sum(1) / 2 <= (0.9 * far if sampler.replicas == 1 else 0.05)).all(), (later, p)


def shares(space: Discrete, x: torch.Tensor) -> torch.Tensor:
    """How often each state is there among the chains of each row, (2, states)."""
    return torch.stack([torch.bincount(space.code(part), minlength=space.states) / CHAINS for part in x.split(CHAINS)])


def assert_clamped(label: str, name: str) -> None:
    """Whole configurations have all other sites bit for bit, after every step."""
    model = example(name)
    known, where = rows_of(model.space)
    given = Given(model, known, where)
    x = given.space.noise(6, stream(0, "start")).double()
    keys = [stream(1, i) for i in range(3)]
    free = torch.zeros(2, model.space.sites, dtype=torch.bool).scatter(1, where, value=True).repeat_interleave(3, 0)
    for ends in followed(SAMPLERS[label], given, x, keys, [1, 2, 3]):
        whole = given.filled(ends).reshape(6, model.space.sites, -1)
        assert torch.equal(whole[~free], known.repeat_interleave(3, 0).reshape(6, model.space.sites, -1)[~free])


@pytest.mark.quick("gibbs-rbm-binary", "block_gibbs-ising-spin", "block_gibbs-rbm-binary", "dmala*", "gwg*")
@pytest.mark.parametrize(("label", "name"), QUICK)
def test_draws_are_those_of_the_conditional(label, name):
    check(label, name)
    assert_clamped(label, name)


@pytest.mark.quick("block_gibbs-rbm*", "gwg*")
@pytest.mark.parametrize("name", ["potts-categorical", "rbm-categorical"])
@pytest.mark.parametrize("label", ["gibbs", "block_gibbs", "block_gibbs-True", "gwg-2", "dmala"])
def test_a_value_that_is_never_drawn_leaves_the_others_their_shares(label, name):
    check(label, name, never=1)


@pytest.mark.long
@pytest.mark.parametrize(("label", "name"), covering(MORE, QUICK))
def test_every_sampler_draws_from_the_conditional_of_every_model(label, name):
    """Each setting in every space; those of QUICK are drawn from above."""
    check(label, name)


@pytest.mark.parametrize("label", ["gibbs", "gwg-2", "hamming_ball", "parallel_tempering-gibbs-3"])
def test_chains_that_are_moved_in_groups_keep_their_rows(label, monkeypatch):
    """Draws are those of all chains together, bit for bit: of each group the model is that of its rows."""
    model = example("boltzmann-binary")
    known, where = rows_of(model.space)
    given = Given(model, known, where)
    x = given.space.noise(2, stream(0, "start")).double()
    whole, _ = run(SAMPLERS[label], given, x, 5, stream(1, "steps"))
    monkeypatch.setattr(hamming_ball, "_AT_ONCE", 1)
    assert torch.equal(whole, run(SAMPLERS[label], given, x, 5, stream(1, "steps"))[0])
    replicas = SAMPLERS[label].replicas
    parts, _ = run(SAMPLERS[label], given, x, 5, stream(1, "steps"), Engine(compiled=False, rows=replicas))
    assert torch.equal(whole, parts)


def test_blocks_larger_than_what_a_row_has_to_draw_are_refused_as_that():
    missing = torch.tensor([[True, False, False, False], [True, True, True, False]])
    model, sampler = example("boltzmann-binary"), component("sampler", "gwg", flips=2)
    said = conditional.refusal_of(missing, model, sampler)
    assert said == "sampler.flips = 2: a row has 1 to draw; give at most that"
    assert conditional.refusal_of(missing[1:], model, sampler) is None


def test_as_many_configurations_of_each_row():
    model = example("rbm-binary")
    given = Given(model, *rows_of(model.space))
    with pytest.raises(ValueError, match="3 configurations of 2 rows"):
        given.energy(given.space.noise(3, stream(0, "start")).double())


@pytest.mark.long
@pytest.mark.parametrize("label", ["gibbs", "block_gibbs", "gwg", "dmala", "metropolis", "hamming_ball"])
def test_means_of_twelve_sites_are_those_by_enumeration(label):
    """As `ebm sample given=FILE` finds them: five sites of one row and seven of others, that of 2^7 states too."""
    model = small_model("rbm", Binary((12,))).float()
    random = torch.Generator().manual_seed(3)
    known = (torch.rand(4, 12, generator=random) < 0.5).float()
    missing = torch.zeros(4, 12, dtype=torch.bool)
    for row, count in enumerate((5, 7, 7, 0)):
        missing[row, torch.randperm(12, generator=random)[:count]] = True
    subject = Subject(model, placeholder(model.space), "test", SAMPLERS[label], torch.empty(0), stream(3, label))
    seen = 0
    for group in conditional.draws(subject, known, missing, conditional.Wanted(400, 300)):
        for place, row in enumerate(group.rows.tolist()):
            where = group.where[place]
            p = conditional_of(model.double(), known[row].double(), where)
            due = p @ Binary((len(where),)).enumerate().double()
            model.float()
            found = torch.from_numpy(group.looks[:, place]).mean((0, 1))
            error = (due * (1 - due) / 400).sqrt()  # of chains: looks of one are not independent
            assert ((found - due).abs() <= 4.5 * error).all(), (found, due)
            assert torch.equal(missing[row].nonzero().squeeze(1), where)
            seen += 1
    assert seen == 3
