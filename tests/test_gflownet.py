"""Policies that fill configurations site by site: their law, trajectory balance, moves that leave p invariant."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
import yaml
from helpers.cli import assert_refused, ebm
from helpers.components import component
from helpers.data import small_data
from helpers.models import exact_p, small_model

from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.policy import PolicyLikelihood
from ebm_cli.evaluation.table import Numbers
from ebm_cli.model.policy import Heads, Paths, Policy, PolicyModel, log_ratio
from ebm_cli.objective.base import Batch, updated
from ebm_cli.objective.gflownet import Beside, moved
from ebm_cli.optimizer import At, apply
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Categorical, Spin

SPACES = [Binary((4,)), Spin((2, 2)), Categorical((3, 3))]


def random_policy(space, learned=True, scale=0.7):
    """In float64, far from uniform."""
    policy = Policy(space, [5], stream(0, "policy"), learned=learned).double()
    with torch.no_grad():
        for i, parameter in enumerate(policy.parameters()):
            generator = torch.Generator().manual_seed(i)
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return policy


def every_path(space, x):
    """Paths of rows x in all orders, one row of x after the other."""
    orders = torch.tensor([*itertools.permutations(range(space.sites))])
    return x.repeat_interleave(len(orders), 0), orders.repeat(len(x), 1), len(orders)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_the_law_is_the_sum_over_orders_and_sums_to_one(space, learned):
    """By all paths, each with its own P_F, and P_B of all orders of a row sums to one."""
    policy, x = random_policy(space, learned), space.enumerate().double()
    log_p = policy.log_prob(x)
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-12)
    assert log_p.std() > 0.3
    rows, orders, count = every_path(space, x)
    forth, back = policy.log_paths(Paths(policy.table(rows), orders), space.sites)
    assert torch.allclose(forth.reshape(-1, count).logsumexp(1), log_p, atol=1e-12)
    assert torch.allclose(back.reshape(-1, count).logsumexp(1), torch.zeros(len(x), dtype=torch.float64), atol=1e-12)


def test_a_path_is_the_product_of_its_steps():
    """Heads asked one state after the other, for a path of two steps from a state with two sites."""
    space = Binary((4,))
    policy = random_policy(space)
    table, order = policy.table(torch.tensor([[1.0, 0, 0, 1]]).double()), torch.tensor([[2, 0, 3, 1]])
    states = [table.clone() for _ in range(3)]
    states[0][:, [3, 1]] = 0
    states[1][:, [1]] = 0
    heads = [policy(state) for state in states]
    forth = heads[0].add[0, 3 * 2 + 1] + heads[1].add[0, 1 * 2 + 0]
    back = heads[1].remove[0, 3] + heads[2].remove[0, 1]
    found = policy.log_paths(Paths(table, order), 2)
    assert [part.item() for part in found] == pytest.approx([forth.item(), back.item()], abs=1e-12)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_draws_have_the_law(space):
    policy, n = random_policy(space), 20_000
    x = policy.sample(n, stream(4))
    assert space.contains(x.float())
    count = torch.bincount(space.code(x), minlength=space.states).double()
    expected = n * policy.log_prob(space.enumerate().double()).exp()
    assert ((count - expected).square() / expected).sum() < space.states + 6 * (2 * space.states) ** 0.5


def test_orders_are_drawn_by_the_removals():
    """Of one row: how often each order comes beside its P_B."""
    space = Binary((3,))
    policy, x = random_policy(space), torch.tensor([[1.0, 0, 1]]).double()
    rows, orders, _ = every_path(space, x)
    _, back = policy.log_paths(Paths(policy.table(rows), orders), 3)
    paths, left = policy.emptied(policy.table(x.expand(20_000, -1)), 3, stream(1))
    assert left.sum() == 0
    for order, log_p in zip(orders, back, strict=True):
        share = (paths.order == order).all(1).double().mean().item()
        assert share == pytest.approx(log_p.exp().item(), abs=0.02)


def test_trajectories_bound_the_law_from_below():
    space = Binary((4,))
    policy, x = random_policy(space, learned=False, scale=0.5), space.enumerate().double()
    log_p = policy.log_prob(x)
    few, many = (policy.log_prob_bound(x, count, stream(2)) for count in (1, 400))
    assert few.mean() < log_p.mean() - 0.05
    assert (many - log_p).abs().max() < 0.15


class Exact(Policy):
    """P_F = p(x_i = k | values that there are) / sites left, P_B uniform: trajectory balance is 0."""

    def __init__(self, model):
        super().__init__(model.space, [2], stream(0), learned=False)
        self.double()
        self.every, self.p = self.table(model.space.enumerate().double()), exact_p(model)

    def forward(self, table):
        filled = table.sum(2) > 0
        agrees = ((table[:, None] * self.every).sum(3) >= filled[:, None].double()).all(2)
        mass = torch.einsum("ns,s,sdk->ndk", agrees.double(), self.p, self.every)
        free = (~filled).double()
        add = mass / mass.sum(2, keepdim=True) * (free / free.sum(1, keepdim=True).clamp_min(1))[:, :, None]
        log_p = add.clamp_min(1e-300).log().masked_fill(filled[:, :, None], -1e9)
        return Heads(log_p.flatten(1), super().forward(table).remove)


@pytest.mark.parametrize("name", ["boltzmann", "potts"])
def test_without_imbalance_the_policy_is_the_model(name):
    space = Categorical((3, 3)) if name == "potts" else Binary((4,))
    model = small_model(name, space)
    policy, x = Exact(model), space.enumerate().double()
    log_z = (-model.energy(x)).logsumexp(0).detach()
    assert torch.allclose(policy.log_prob(x).exp(), exact_p(model), atol=1e-12)
    objective = component("objective", "gflownet", explore=0.3)
    found = objective.gradient(model, Batch(x, auxiliary=Beside(policy, log_z)), stream(3))
    assert found.metrics["trajectory_balance"].item() == pytest.approx(0, abs=1e-18)
    off = objective.gradient(model, Batch(x, auxiliary=Beside(policy, log_z + 0.5)), stream(3))
    assert off.metrics["trajectory_balance"].item() == pytest.approx(0.25, abs=1e-9)
    assert off.parameters["auxiliary.shift"].item() == pytest.approx(1.0, abs=1e-9)
    assert moved(model, policy, x, 2, stream(5))[1].all()  # a policy that is the model is never refused


@pytest.mark.parametrize(("space", "steps"), [(Binary((4,)), 2), (Spin((3,)), 3), (Categorical((2, 3)), 1)])
def test_moves_leave_the_model_invariant_whatever_the_policy(space, steps):
    """Their transition matrix by all paths: q sums to one, and p T = p."""
    model = small_model({"Binary": "boltzmann", "Spin": "ising"}.get(type(space).__name__, "potts"), space)
    policy, x = random_policy(space), space.enumerate().double()
    energy, p = model.energy(x).detach(), exact_p(model)
    matrix = torch.zeros(len(x), len(x), dtype=torch.float64)
    tails = torch.tensor([*itertools.permutations(range(space.sites), steps)])
    heads = torch.tensor([[i for i in range(space.sites) if i not in tail] for tail in tails.tolist()])
    orders = torch.cat([heads.long().reshape(len(tails), -1), tails], 1)
    both = [
        (a, b)
        for a, b in itertools.product(range(len(tails)), repeat=2)
        if set(tails[a].tolist()) == set(tails[b].tolist())
    ]
    both, tables = torch.tensor(both), policy.table(x)
    for start, end in itertools.product(range(len(x)), repeat=2):
        kept = (tables[start] == tables[end]).all(1)
        pairs = both[kept[orders[:, : space.sites - steps]].all(1)[both[:, 0]]]
        if not len(pairs):
            continue
        rows = [tables[i].expand(len(pairs), -1, -1) for i in (start, end)]
        back, forth = (Paths(row, orders[chosen]) for row, chosen in zip(rows, pairs.T, strict=True))
        energies = tuple(energy[i].expand(len(pairs)) for i in (start, end))
        ratio = log_ratio(policy, energies, back, forth, steps)
        q = policy.log_paths(back, steps)[1] + policy.log_paths(forth, steps)[0]
        matrix[start, end] = (q + ratio.clamp_max(0)).exp().sum()
    matrix.fill_diagonal_(0)
    assert matrix.sum(1).max() < 1
    assert matrix.sum(1).min() > 0.02
    flow = p[:, None] * matrix
    assert torch.allclose(flow, flow.T, atol=1e-13)


def test_moves_of_exact_draws_stay_exact():
    """By the code that draws them: 40 000 rows of the model after a move, and how often one is accepted."""
    space, n = Binary((4,)), 40_000
    model = small_model("boltzmann", space)
    policy, p = random_policy(space), exact_p(model)
    chosen = torch.multinomial(p, n, replacement=True, generator=torch.Generator().manual_seed(1))
    y, taken = moved(model, policy, space.enumerate().double()[chosen], 3, stream(6))
    count = torch.bincount(space.code(y), minlength=16).double()
    assert ((count - n * p).square() / (n * p)).sum() < 16 + 6 * 32**0.5
    assert 0.1 < taken.double().mean() < 0.95


def test_the_length_of_the_moves_is_warmed_up():
    objective, policy = component("objective", "gflownet", warmup=100), random_policy(Binary((10,)))
    steps = [objective.moves(policy, step) for step in (0, 9, 54, 99, 1000)]
    assert steps == [1, 1, 5, 10, 10]


def test_penalties_are_on_the_couplings_of_the_model_alone():
    model, policy = small_model("boltzmann", Binary((4,))), random_policy(Binary((4,)))
    batch = Batch(torch.ones(6, 4).double(), auxiliary=Beside(policy, torch.zeros((), dtype=torch.float64)))
    plain, found = (
        component("objective", "gflownet", coupling_l1=l1, coupling_l2=l2).gradient(model, batch, stream(1)).parameters
        for l1, l2 in ((0.0, 0.0), (0.3, 0.2))
    )
    (name,) = model.couplings
    J = model.get_parameter(name).detach()
    assert torch.allclose(found[name] - plain[name], 0.3 * J.sign() + 0.4 * J, atol=1e-12)
    assert all(torch.equal(found[other], grad) for other, grad in plain.items() if other != name)
    given = component("objective", "gflownet", energy="given", coupling_l1=0.3)
    assert given.refusal() == (
        "objective.coupling_l1 = 0.3: with objective.energy=given no coupling learns; set it to 0"
    )


def test_paths_are_shared_between_data_and_the_policy():
    """The first rows are those of the data; all others have values of the policy's own."""
    space = Binary((6,))
    objective, policy = component("objective", "gflownet", data_share=0.25), random_policy(space).float()
    x = torch.ones(40, 6)
    rows = policy.rows(objective.paths(policy, x, stream(0)).table)
    assert (rows[:10] == 1).all()
    assert not (rows[10:] == 1).all(1).any() or (rows[10:] == 1).all(1).sum() < 20


def test_the_likelihood_is_that_of_the_paths_from_the_data():
    """Of seven paths the four from rows of the data, each path with its own P_F."""
    model, policy = small_model("boltzmann", Binary((4,))), random_policy(Binary((4,)))
    batch = Batch(torch.ones(7, 4).double(), auxiliary=Beside(policy, torch.zeros((), dtype=torch.float64)))
    plain, found = (
        component("objective", "gflownet", likelihood_weight=weight).gradient(model, batch, stream(1)).parameters
        for weight in (0.0, 0.7)
    )
    paths = component("objective", "gflownet").paths(policy, batch.x, stream(1).fold("paths"))
    loss = -policy.log_paths(Paths(paths.table[:4], paths.order[:4]), 4)[0].mean()
    named = {name: p for name, p in policy.named_parameters()}
    due = torch.autograd.grad(loss, [*named.values()], materialize_grads=True)
    for name, grad in zip(named, due, strict=True):
        more = found[f"auxiliary.policy.{name}"] - plain[f"auxiliary.policy.{name}"]
        assert torch.allclose(more, 0.7 * grad, atol=1e-12)
    given = component("objective", "gflownet", energy="given", likelihood_weight=0.5)
    assert given.refusal().startswith("objective.likelihood_weight = 0.5: with objective.energy=given")


def test_paths_that_are_too_many_for_one_pass_have_the_same_gradient(monkeypatch):
    model, policy = small_model("boltzmann", Binary((4,))), random_policy(Binary((4,)))
    objective, batch = component("objective", "gflownet"), Batch(torch.ones(7, 4).double())
    beside = Beside(policy, torch.zeros((), dtype=torch.float64))
    whole = objective.gradient(model, batch._replace(auxiliary=beside), stream(1))
    monkeypatch.setattr("ebm_cli.model.policy._NUMBERS", 200)
    assert 1 < policy.at_once(4) < 7
    parts = objective.gradient(model, batch._replace(auxiliary=beside), stream(1))
    assert whole.metrics["trajectory_balance"].item() == pytest.approx(parts.metrics["trajectory_balance"].item())
    for name, grad in whole.parameters.items():
        assert torch.allclose(grad, parts.parameters[name], atol=1e-12), name


def test_explored_additions_are_uniform_among_those_that_are_possible():
    """With nearly all of the share uniform a policy that hates a value adds it as often as not."""
    space = Binary((3,))
    policy = random_policy(space, scale=8.0)
    table = policy.nothing(4000)
    table[:, 0, 1] = 1
    paths = policy.filled(table, 2, stream(1), explore=0.999)
    assert (paths.table[:, 0, 1] == 1).all()
    assert paths.table[:, 1:, 1].mean().item() == pytest.approx(0.5, abs=0.03)
    assert (paths.order[:, 1] == 1).double().mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.quick("learned")
@pytest.mark.parametrize("backward", ["learned", "uniform"])
def test_a_policy_learns_a_given_energy(backward):
    """log Z and the law beside those of all states; the model stays as it is."""
    space = Binary((4,))
    model = small_model("boltzmann", space).float()
    objective = component(
        "objective", "gflownet", energy="given", backward=backward, widths=[32], data_share=0.0, explore=0.05
    )
    beside = objective.auxiliary(model, None, stream(0))
    adam = component("optimizer", "adam", lr=0.02)
    named = updated(model, beside)
    state, before = adam.init({n: p.detach() for n, p in named.items()}), model.energy(space.enumerate()).detach()
    for step in range(120):
        batch = Batch(torch.zeros(64, 4), auxiliary=beside, step=step)
        found = objective.gradient(model, batch, stream(1, step))
        apply(adam, named, found.parameters, state, At(step, 0.02 if step < 90 else 0.002, 0.0))
    assert all(name.startswith("auxiliary.") for name in found.parameters)
    assert torch.equal(before, model.energy(space.enumerate()).detach())
    p, log_z = exact_p(model), (-model.energy(space.enumerate().double())).logsumexp(0)
    assert beside.log_z().item() == pytest.approx(log_z.item(), abs=0.05)
    assert (beside.policy.double().log_prob(space.enumerate().double()).exp() - p).abs().sum() < 0.1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that stopped and went on, beside one that did not."""
    folder = tmp_path_factory.mktemp("gflownet")
    line = (
        "train objective=gflownet objective.widths=[8] objective.warmup=4 model=boltzmann dataset=bars_and_stripes "
        "dataset.side=3 batch_size=8 save_every=2 tracker=none evaluation=[exact,policy] device=cpu "
        "checkpoint.monitor=null evaluation.policy.draws=50 'optimizer.rates=[[auxiliary.shift,10]]' steps=4"
    )
    for name in ("whole", "again"):
        answer = ebm(f"{line} hydra.run.dir={folder}/{name}")
        assert answer.code == 0, answer.err
    for path in (folder / "again" / "checkpoints").glob("*4*"):
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink()
        path.rmdir()
    assert ebm(f"train resume={folder}/again").code == 0
    return folder


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(run):
    first, second = (
        next((run / name / "checkpoints").glob("*4*/*.safetensors")).read_bytes() for name in ("whole", "again")
    )
    assert first == second


def test_adam_comes_with_the_objective(run):
    assert yaml.safe_load((run / "whole" / "config.yaml").read_text())["optimizer"]["name"] == "adam"


def test_moves_of_a_run_grow_to_all_sites(run):
    """The fourth update of four: 9 sites of 9."""
    last = (run / "whole" / "metrics.jsonl").read_text().splitlines()
    assert [line["move_sites"] for line in map(json.loads, last) if "move_sites" in line][-1] == 9


def test_a_run_reports_the_policy_beside_the_model(run):
    found = json.loads((run / "whole" / "summary.json").read_text())
    assert found["policy/log_likelihood"] < 0
    assert found["policy/learned_log_z"] == found["exact/learned_log_z"]
    assert found["policy/learned_log_z_error"] == pytest.approx(found["policy/learned_log_z"] - found["policy/log_z"])
    assert 1 <= found["policy/effective"] <= 50
    assert found["policy/log_z"] == pytest.approx(found["exact/log_z"], abs=0.5)


def test_a_bound_is_said_to_be_one():
    found = {"policy/log_likelihood": -20.5, "policy/standard_error": 0.1}
    (line,) = PolicyLikelihood.lines(Numbers(found), "test").values()
    assert line == "-20.50 ± 0.10 nats"
    (line,) = PolicyLikelihood.lines(Numbers({**found, "policy/trajectories": 20.0}), "test").values()
    assert line == "-20.50 ± 0.10 nats (errs downwards: by 20 trajectories)"


def test_draws_of_a_run_are_those_of_its_policy(run):
    answer = ebm(f"sample run={run}/whole n=300 sampler=gflownet out={run}/drawn")
    assert answer.code == 0, answer.err
    assert "300 samples, independent draws of the policy: " in answer.out
    assert np.load(run / "drawn" / "samples.npz")["samples"].shape == (300, 3, 3)


def test_the_policy_is_no_sampler_to_train_by():
    answer = ebm("train objective=pcd model=rbm sampler=gflownet tracker=none hydra.run.dir=run")
    assert_refused(answer, "draws from the policy of a trained run; train it by objective=gflownet")


@pytest.mark.long
def test_only_runs_with_a_policy_are_drawn_from_by_it(run, tmp_path):
    line = "train dataset=bars_and_stripes model=boltzmann steps=1 evaluation=[] tracker=none"
    assert ebm(f"{line} hydra.run.dir={tmp_path}/run").code == 0
    assert_refused(ebm(f"sample run={tmp_path}/run sampler=gflownet"), "this run has no policy")
    assert_refused(ebm(f"sample run={run}/whole sampler=gflownet given=rows.npz"), "draws whole configurations")


def test_the_evaluation_of_a_policy_that_is_the_model():
    """Its likelihood is that of the model, and every draw gives log Z."""
    model = small_model("boltzmann", Binary((4,)))
    x, data = model.space.enumerate().double(), small_data(model.space, 20)
    log_z = (-model.energy(x)).logsumexp(0).detach()
    beside = Beside(Exact(model), log_z.float() + 0.25)
    about = Subject(model, data, "test", None, torch.zeros(0), stream(0), auxiliary=beside)
    result = component("evaluation", "policy", draws=50).evaluate(about)
    found = result.metrics
    assert not result.warnings
    assert found["policy/log_z"] == pytest.approx(log_z.item(), abs=1e-9)
    assert found["policy/effective"] == pytest.approx(50, abs=1e-6)
    assert found["policy/learned_log_z_error"] == pytest.approx(0.25, abs=1e-5)
    log_p = -model.energy(data.test.all().double()) - log_z
    assert found["policy/log_likelihood"] == pytest.approx(log_p.mean().item(), abs=1e-9)


def test_a_policy_that_has_not_learned_the_model_is_named():
    space = Binary((4,))
    beside = Beside(random_policy(space, scale=4.0), torch.zeros(()))
    about = Subject(
        small_model("boltzmann", space),
        small_data(space, 20),
        "test",
        None,
        torch.zeros(0),
        stream(0),
        auxiliary=beside,
    )
    (warning,) = component("evaluation", "policy", draws=500).evaluate(about).warnings
    assert "500 draws of the policy are worth" in warning


def test_a_policy_is_not_measured_where_none_is_trained(tmp_path):
    line = "train model=boltzmann evaluation=[policy] tracker=none steps=1 device.threads=1"
    answer = ebm(f"{line} hydra.run.dir={tmp_path}/run")
    assert_refused(answer, "evaluation=policy", "only objective=gflownet trains a policy")
    assert not (tmp_path / "run").exists()


def test_updates_that_would_run_away_are_refused(tmp_path):
    """model=rbm brings another optimizer after the one that the objective brings."""
    line = f"train objective=gflownet tracker=none steps=1 evaluation=[policy] hydra.run.dir={tmp_path}/run"
    assert_refused(ebm(f"{line} model=rbm"), "optimizer=sgd_averaged", "choose optimizer=adam")
    assert_refused(ebm(f"{line} model=boltzmann optimizer=sgd"), "optimizer=sgd:", "choose optimizer=adam")


def test_the_policy_as_a_model_is_normalised():
    policy = random_policy(Binary((4,)))
    model = PolicyModel(policy)
    x = model.space.enumerate().double()
    assert (-model.energy(x)).logsumexp(0).item() == pytest.approx(model.log_z().item(), abs=1e-12)
    assert math.isfinite(PolicyModel(random_policy(Binary((12,)))).energy(torch.zeros(1, 12).double()).item())
