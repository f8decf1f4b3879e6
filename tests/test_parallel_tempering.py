"""Parallel tempering: its joint kernel by enumeration, other temperatures, and two modes that Gibbs misses."""

import copy
import itertools

import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import FALSE_ALARM, component, shipped
from helpers.data import small_data
from helpers.matrices import matrix_of
from helpers.models import double_states, exact_p, small_model
from helpers.statistics import assert_close, assert_mean, chi_square
from helpers.training import small_run

from ebm_cli import chains, registry
from ebm_cli.errors import UserError
from ebm_cli.evaluation import ais
from ebm_cli.evaluation.annealing import annealing_path
from ebm_cli.evaluation.base import Subject
from ebm_cli.log_z import enumeration
from ebm_cli.log_z.paths import BipartitePath
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.scaled import ScaledBipartite, scaled
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run, transitions
from ebm_cli.space import Binary, Categorical, Spin
from ebm_cli.training import checks
from ebm_cli.training.step import train_step

TINY = {"rtol": 1e-12, "atol": 1e-12}


def tempering(kernel="block_gibbs", **changes):
    return component("sampler", "parallel_tempering", kernel=shipped("sampler")[kernel], **changes)


# The definition: everything from parameters times beta, or from energies times beta


class Times(EnergyModel):
    """beta E, its conditionals from energies alone."""

    def __init__(self, model, beta):
        super().__init__()
        self.space, self.model, self.beta = model.space, model, beta

    def energy(self, x):
        return self.beta * self.model.energy(x)


def with_parameters_times(model, beta):
    """All of E(v, h) = -b.v - c.h - v.W h, or of an Ising or a Potts energy, times beta."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        for own, other in zip(found.parameters(), model.parameters(), strict=True):
            own.copy_(beta * other)
    return found


CASES = {  # kernel, model, temperatures, and the model at beta
    "block_gibbs-rbm": ("block_gibbs", small_model("rbm", Binary((2,))), 3, with_parameters_times),
    "block_gibbs-ising": ("block_gibbs", small_model("ising", Spin((2,))), 3, with_parameters_times),
    "gibbs-rbm": ("gibbs", small_model("rbm", Binary((2,))), 3, Times),
    "metropolis-boltzmann": ("metropolis", small_model("boltzmann", Binary((3,))), 2, Times),
    "block_gibbs-categorical rbm": ("block_gibbs", small_model("rbm", Categorical((1, 3))), 3, with_parameters_times),
    "block_gibbs-potts": ("block_gibbs", small_model("potts", Categorical((2, 2))), 3, with_parameters_times),
    "gibbs-potts": ("gibbs", small_model("potts", Categorical((2, 2))), 2, Times),
    "gwg-rbm": ("gwg", small_model("rbm", Binary((1,))), 4, Times),
}
cases = pytest.mark.parametrize("case", CASES)


def parts_of(case):
    """The sampler, the model, its betas, and the models at these."""
    kernel, model, temperatures, at = CASES[case]
    sampler = tempering(kernel, temperatures=temperatures, beta_min=0.3)
    betas = [0.3 ** (1 - r / (temperatures - 1)) for r in range(temperatures)]
    return sampler, model, betas, [at(model, beta) for beta in betas]


def joint_states(states, temperatures):
    """Numbers of all joint configurations, (states^R, R); replica 0 is the highest digit."""
    return torch.tensor(list(itertools.product(range(states), repeat=temperatures)))


def code(numbers, states):
    """The number of each joint configuration (rows, R), in that order."""
    return (numbers * states ** torch.arange(numbers.shape[1] - 1, -1, -1)).sum(1)


def swap_matrix(p, pair):
    """Replicas r and r + 1 exchanged with min(1, p_r(x') p_r+1(x) / (p_r(x) p_r+1(x')))."""
    states, (low, high) = p.shape[1], pair
    joint = joint_states(states, len(p))
    other = joint.clone()
    other[:, [low, high]] = joint[:, [high, low]]
    ratio = p[low, other[:, low]] * p[high, other[:, high]] / (p[low, joint[:, low]] * p[high, joint[:, high]])
    accept, number = ratio.clamp_max(1), torch.arange(len(joint))
    matrix = torch.zeros(len(joint), len(joint), dtype=torch.float64)
    matrix[number, code(other, states)] += accept
    matrix[number, number] += 1 - accept
    return matrix


def joint_matrix(case):
    """Kernels side by side, then swaps of pairs 0-1, 2-3 ..., then of 1-2, 3-4 ...; and prod_r p_r."""
    sampler, _, _, models = parts_of(case)
    p = torch.stack([exact_p(model) for model in models])
    matrix, target = torch.ones(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for model, law in zip(models, p, strict=True):
        matrix, target = torch.kron(matrix, matrix_of(sampler.kernel, model)), torch.kron(target, law)
    for first in (0, 1):
        for low in range(first, len(p) - 1, 2):
            matrix = matrix @ swap_matrix(p, (low, low + 1))
    return matrix, target


@cases
def test_the_definition_leaves_the_product_invariant(case):
    matrix, target = joint_matrix(case)
    assert (matrix.sum(1) - 1).abs().max() < 1e-12
    assert (target @ matrix - target).abs().max() < 1e-12


@pytest.mark.quick("gibbs-rbm", "metropolis-boltzmann", "block_gibbs-ising", "gwg-rbm")
@cases
def test_one_step_is_the_definition(case):
    """From every joint configuration: ends, cell by cell, against the row of the matrix."""
    sampler, model, betas, _ = parts_of(case)
    matrix, n, states = joint_matrix(case)[0], 5000, model.space.states
    start = joint_states(states, len(betas)).repeat_interleave(n, 0)
    x = double_states(model)[start]
    end, _ = transitions(sampler, model, x, [stream(0, case)])
    reached = torch.stack([model.space.code(end[:, r]) for r in range(len(betas))], 1)
    pairs = code(start, states) * len(matrix) + code(reached, states)
    count = torch.bincount(pairs, minlength=len(matrix) ** 2).reshape(matrix.shape)
    assert chi_square(count, matrix * n, cells_lost=len(matrix)) > FALSE_ALARM


@pytest.mark.parametrize("case", ["block_gibbs-rbm", "gibbs-rbm"])
def test_draws_of_the_product_stay_draws_in_single_precision(case):
    sampler, model, _, models = parts_of(case)
    n, states = 100_000, model.space.states
    x = torch.stack([enumeration.sample(m, n, stream(0, "start", r)) for r, m in enumerate(models)], 1)
    single = small_model("rbm", model.space).float()
    end, info = transitions(sampler, single, x.float(), [stream(1).fold(i) for i in range(3)])
    numbers = torch.stack([model.space.code(end[:, r]) for r in range(len(models))], 1)
    count = torch.bincount(code(numbers, states), minlength=states ** len(models))
    assert chi_square(count, joint_matrix(case)[1] * n) > FALSE_ALARM
    p = torch.stack([exact_p(m) for m in models])
    for low in range(len(p) - 1):  # under the product, after whatever moves, this share of swaps is taken
        moved = swap_matrix(p[low : low + 2], (0, 1))
        pair = torch.kron(p[low], p[low + 1])
        taken = (pair * (1 - moved.diagonal())).sum() + (pair.reshape(states, states)).diagonal().sum()
        assert_mean(info[f"swap_{low + 1}"], taken.item())
    assert list(info) == ["swap_1", "swap_2"]


def test_the_ladder_is_geometric_and_ends_at_one():
    betas = tempering(temperatures=4, beta_min=0.008).betas(torch.zeros(1, dtype=torch.float64))
    assert_close(betas, torch.tensor([0.008, 0.04, 0.2, 1.0], dtype=torch.float64), **TINY)
    assert tempering(temperatures=10).betas(torch.zeros(1))[-1] == 1


# Models at other temperatures


@pytest.mark.parametrize("name", ["rbm", "ising", "boltzmann"])
@pytest.mark.parametrize("blocks", [False, True])
def test_a_scaled_model_is_the_model_at_its_beta(name, blocks):
    """Energies, gradients and conditionals of rows at beta 0.2, 0.5 and 1 against one model for each beta."""
    if blocks and name == "boltzmann":
        return
    model = small_model(name, Spin((2, 2)) if name == "ising" else Binary((2, 2)))
    at = with_parameters_times if blocks else Times
    x = double_states(model)
    betas = [0.2, 0.5, 1.0]
    found = scaled(model, torch.tensor(betas, dtype=torch.float64).repeat(len(x)), blocks=blocks)
    rows = x.repeat_interleave(3, 0)
    energy, grad = found.energy_and_grad(rows)
    assert_close(energy, found.energy(rows).detach(), **TINY)
    logit = found.sites(rows).logit(2)
    for number, beta in enumerate(betas):
        one = at(model, beta)
        expected, slope = one.energy_and_grad(x)
        assert_close(energy[number::3], expected, **TINY)
        assert_close(grad[number::3], slope, **TINY)
        assert_close(logit[number::3], one.sites(x).logit(2).detach(), **TINY)


def test_the_joint_energy_is_scaled_for_block_gibbs_alone():
    """exp(-beta E(v, h)) summed over h is not the free energy times beta; at beta = 1 both are the model."""
    model = small_model("rbm", Binary((2, 2)))
    x, beta = double_states(model), torch.full((16,), 0.5, dtype=torch.float64)
    joint, marginal = scaled(model, beta, blocks=True), scaled(model, beta, blocks=False)
    assert isinstance(joint, ScaledBipartite)
    hidden = Binary((3,)).enumerate().double()
    v = x.flatten(1)
    with torch.no_grad():
        whole = -(v @ model.b)[:, None] - hidden @ model.c - v @ model.W @ hidden.T
        assert_close(joint.energy(x), -(-0.5 * whole).logsumexp(1), **TINY)
        assert (joint.energy(x) - marginal.energy(x)).std() > 0.05
        logits = joint.hidden_logits(x)
        assert_close(joint.free_energy(x, logits), joint.energy(x), **TINY)


def test_blocks_of_an_unknown_kind_are_not_guessed():
    with pytest.raises(TypeError, match="blocks of Boltzmann"):
        scaled(small_model("boltzmann", Binary((2,))), torch.ones(1), blocks=True)


# Two modes


SITES = 20


def two_wells(share):
    """All on or all off, by one hidden unit; another pulls half the sites. p(the first unit is on) = share."""
    model = small_model("rbm", Binary((SITES,)), hidden=2)
    hidden = hidden_states()
    with torch.no_grad():
        model.b.fill_(-3)
        model.W.zero_()
        model.W[:, 0] = 5.5
        model.W[: SITES // 2, 1] = 1
        model.c.copy_(torch.tensor([0.0, -1.0]))
        log_p = model.log_marginal(hidden)
        odds = log_p[hidden[:, 0] == 1].logsumexp(0) - log_p[hidden[:, 0] == 0].logsumexp(0)
        model.c[0] = torch.tensor(share, dtype=torch.float64).logit() - odds
    return model


def hidden_states():
    return Binary((2,)).enumerate().double()


def share_of_on(model):
    """P(more than half the sites are on): given h the sites are independent, and p(h) is summed over."""
    hidden = hidden_states()
    with torch.no_grad():
        weight, p = model.log_marginal(hidden).softmax(0), model.visible_logits(hidden).sigmoid()
    total = torch.zeros(4, SITES + 1, dtype=torch.float64)  # distribution of the number of sites on, for each h
    total[:, 0] = 1
    for on in p.T[:, :, None]:
        total = total * (1 - on) + total.roll(1, 1) * on
    return (weight @ total)[SITES // 2 + 1 :].sum().item()


def on(x):
    return (x.sum(1) > SITES // 2).double()


@pytest.mark.long
def test_mode_weights_from_one_mode():
    """Within 2 % of the exact ones, where block Gibbs has not left the mode in 3000 steps."""
    model = two_wells(0.3)
    expected = share_of_on(model)
    brute = exact_p(model)[on(model.space.enumerate()) == 1].sum().item()
    assert expected == pytest.approx(brute, abs=1e-9)
    model = model.float()
    stuck, sampler = component("sampler", "block_gibbs"), tempering()
    x, left = torch.zeros(100, SITES), 0.0
    with torch.no_grad():
        for i in range(3000):
            x = stuck.step(model, stuck.init(model, x), stream(0, "stuck").fold(i))[0].x
            left += on(x).sum().item()
        assert left == 0
        state, shares = sampler.init(model, torch.zeros(1000, SITES)), []
        for i in range(1000):
            state, _ = sampler.step(model, state, stream(0, "tempering").fold(i))
            shares.append(on(state.x))
    found = torch.stack(shares[300:]).mean().item()
    assert abs(found - expected) < 0.02 * expected
    assert abs((1 - found) - (1 - expected)) < 0.02 * (1 - expected)


@pytest.mark.long
def test_it_finds_the_other_mode():
    """300 steps of 100 chains that all start in the lesser mode."""
    y, _ = run(tempering(temperatures=6), two_wells(0.3).float(), torch.ones(100, SITES), 300, stream(0, "run"))
    assert 0.1 < on(y).mean() < 0.5


# Between runs


def test_training_keeps_the_replicas():
    """The store holds them, moved from step to step; the gradient is that of the chains at beta = 1."""
    sampler = shipped("sampler")["parallel_tempering"] | {"temperatures": 3}
    parts, state = small_run(sampler=sampler)
    with torch.no_grad():
        state.model.W.mul_(300)  # so that a sweep does not forget at once where it began
    slots, shape = parts.components.chains.slots, parts.data.space.shape
    assert state.store.shape == (slots, 3, *shape)
    assert state.chains().shape == (slots, *shape)
    assert torch.equal(state.store[:, 0], state.chains())
    for step in range(3):
        expected, _ = transitions(
            parts.components.sampler, state.model, state.store, [stream(0, "sampler", step).fold(i) for i in range(1)]
        )
        energy = state.model.energy(expected[:, -1]).mean().item()
        numbers = train_step(parts, state).numbers()
        assert torch.equal(state.store, expected)
        assert numbers["energy_chains"] == pytest.approx(energy, rel=1e-5)
    assert not torch.equal(state.store[:, 0], state.store[:, 2])


def test_a_chain_restarted_from_noise_takes_its_replicas_with_it():
    policy = component("chains", "replay", size=50, restart=0.5, start="noise")
    space = Binary((2, 3))
    store = torch.full((50, 4, 2, 3), 7.0)
    began = policy.fresh(50, 0, stream(0, "draw"), store.device)
    x = policy.draw(store, began, torch.zeros(50, 2, 3), space, stream(0, "draw"))
    fresh = (x != 7).flatten(1).all(1)
    assert 10 < fresh.sum() < 40
    assert (x[~fresh] == 7).all()
    assert (x[fresh] == x[fresh][:, :1]).all()
    chains.put(store, torch.arange(50), x)


def test_replicas_start_at_the_chain_and_go_on_where_they_were():
    model, sampler = small_model("rbm", Binary((2, 2))), tempering(temperatures=3)
    x = model.space.noise(5, stream(0)).double()
    assert torch.equal(sampler.spread(x, model.space), x[:, None].expand(5, 3, 2, 2))
    replicas = model.space.noise(15, stream(1)).double().reshape(5, 3, 2, 2)
    assert torch.equal(sampler.init(model, replicas).replicas, replicas)
    assert torch.equal(sampler.init(model, replicas).x, replicas[:, 2])
    four = model.space.noise(20, stream(1)).double().reshape(5, 4, 2, 2)
    assert torch.equal(sampler.spread(four, model.space), four[:, 3:].expand(5, 3, 2, 2))
    assert torch.equal(component("sampler", "gibbs").spread(replicas, model.space), replicas[:, 2])


def test_it_is_no_exact_kernel_of_one_configuration_but_its_kernel_is():
    """AIS anneals with the kernel."""
    sampler, evaluation = tempering(), component("evaluation", "ais")
    assert not sampler.leaves_invariant
    assert evaluation.refusal(small_model("rbm", Binary((2, 2))), sampler) is None
    parts, state = small_run()
    about = ais.Subject(state.model, parts.data, "test", sampler, state.store, stream(0), parts.device)
    assert isinstance(annealing_path(about, 0.4), BipartitePath)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("ais", {"chains": 10, "temperatures": 20, "raise_points": 4, "raise_chains": 2, "bootstrap": 100}),
        ("bridge", {"chains": 10, "rungs": 3, "steps": 20, "bootstrap": 100}),
    ],
)
def test_a_sampler_that_has_no_part_in_annealing_is_named(name, keys):
    """The keys of replicas change no figure of such an estimate, and whoever chose them is told."""
    model, evaluation = small_model("rbm", Binary((2,))).float(), component("evaluation", name, **keys)
    data = small_data(model.space, 20)

    def found(sampler):
        return evaluation.evaluate(Subject(model, data, "test", sampler, torch.empty(0), stream(0)))

    plain, replicas = found(component("sampler", "block_gibbs")), found(tempering())
    assert replicas.metrics == plain.metrics
    assert plain.said == ()
    [sentence] = replicas.said
    assert sentence.startswith(
        "sampler=parallel_tempering has no part in annealing, whose chains are moved by its kernel"
    )
    assert "block_gibbs" in sentence


# What is refused


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        ({}, "sampler.kernel.name = None: no such sampler"),
        (
            {"name": "dmala", "step_size": 0.2, "adjusted": False, "adapt": None},
            "dula: does not leave the model invariant",
        ),
        ({"name": "gwg", "temperature": -1, "flips": 1}, "sampler.kernel.temperature = -1: must be greater than 0"),
        ({"name": "block_gibbs"}, "sampler.kernel.backwards is missing"),
        ("gibbs", "sampler.kernel = gibbs: must be a sampler and its keys; choose it with sampler@sampler.kernel=NAME"),
    ],
)
def test_a_kernel_that_is_none_is_refused(kernel, sentence):
    with pytest.raises(UserError) as caught:
        registry.build("sampler", shipped("sampler")["parallel_tempering"] | {"kernel": kernel})
    assert sentence in str(caught.value)


def test_tempering_within_tempering_is_refused():
    with pytest.raises(UserError, match="parallel_tempering: is made of another sampler"):
        tempering("parallel_tempering")


@pytest.mark.quick("sampler.temperatures*", "sampler@sampler.kernel=nope*", "model=boltzmann-choose*")
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("model=boltzmann", "sampler=parallel_tempering: its kernel block_gibbs wants a block-structured"),
        ("model=boltzmann", "choose the kernel by sampler@sampler.kernel=NAME"),
        (
            "model=fhmm dataset=markov_chains",
            "its kernel block_gibbs cannot draw the blocks of model=fhmm at other temp",
        ),
        ("sampler@sampler.kernel=gwg sampler.kernel.flips=65", "sampler.kernel.flips = 65: the data have 64 sites"),
        ("sampler@sampler.kernel=dula", "sampler.kernel = dula: does not leave the model invariant"),
        ("sampler.beta_min=1", "sampler.beta_min = 1: must be less than 1"),
        ("sampler.temperatures=1", "sampler.temperatures = 1: must be greater than or equal to 2"),
        ("sampler@sampler.kernel=nope", "no sampler named nope"),
    ],
)
def test_what_does_not_fit_is_refused(line, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(ebm("train", "sampler=parallel_tempering", "tracker=none", *line.split()), sentence)


def test_no_kernel_is_advised_where_none_can_exchange():
    """Replicas exchange by energies, and a deep machine has none."""
    spec = component("model", "dbm")
    with pytest.raises(UserError, match=r"model=dbm is not; samplers that fit: up_down$"):
        checks.check_sampler(tempering("block_gibbs"), spec, {"sampler": "parallel_tempering", "model": "dbm"})


@pytest.mark.long
def test_a_run_by_another_kernel(tmp_path, monkeypatch):
    """Trained with replicas, and its chains gone on with by any sampler."""
    monkeypatch.chdir(tmp_path)
    line = ("train model=boltzmann objective=pcd sampler=parallel_tempering sampler@sampler.kernel=gibbs steps=4 "
            "sampler.temperatures=3 evaluation=[samples] evaluation.samples.steps=3 tracker=none batch_size=10 "
            "chains.count=10 hydra.run.dir=run checkpoint.monitor=null")  # fmt: skip
    answer = ebm(*line.split())
    assert answer.code == 0, answer.err
    other = "sampler=parallel_tempering sampler.temperatures=2 sampler@sampler.kernel=gwg"
    for words in ("start=chains", "start=chains sampler=metropolis", f"start=chains {other}", other):
        answer = ebm("sample", "run=run", "n=4", "steps=3", *words.split())
        assert answer.code == 0, answer.err
