"""Deep belief networks: their likelihood and its bound, sampling, and greedy training, against enumeration."""

import json
from pathlib import Path

import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, last_step, outcome
from helpers.components import FALSE_ALARM, component
from helpers.data import small_data
from helpers.models import mean_of, randomised
from helpers.statistics import assert_close, assert_mean, chi_square
from helpers.training import gradients
from safetensors.torch import load_file
from test_resume import Killed, at_step, die

from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.dbn_bound import LogZ, _uncertain
from ebm_cli.log_z import enumeration
from ebm_cli.model.rbm import RBM
from ebm_cli.objective.base import Batch
from ebm_cli.objective.greedy import Fantasies
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run, transitions
from ebm_cli.space import Binary

SPACE = Binary((2, 2))
EXACT = {"rtol": 1e-9, "atol": 1e-12}
TINY = (
    "model=dbn dataset=bars_and_stripes model.layers=[5,9,3] batch_size=6 objective.layer_steps=8 steps=20 log_every=1 "
    "tracker=none device=cpu evaluation=[dbn_bound] evaluation.dbn_bound.pictures=4 evaluation.dbn_bound.steps=2 "
    "optimizer.schedule=constant"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def network(layers=(3, 5, 2), depth=None, seed=1):
    """All parameters random, so many layers of them stacked."""
    model = component("model", "dbn", layers=list(layers)).build(SPACE, mean_of(SPACE), stream(seed, "model"))
    model.stacked.fill_(depth or len(layers))
    return randomised(model, seed)


def states(units):
    return Binary((units,)).enumerate().double()


def bernoulli_table(logits, x):
    """p(x_j | row i) for all rows of logits and of x."""
    p = logits.sigmoid()[:, None]
    return torch.where(x > 0.5, p, 1 - p).prod(2)


def joint_of(rbm):
    """p(v, h) of every pair of states, from the definition of its energy."""
    v, h = states(len(rbm.b)), states(rbm.hidden)
    energy = -(v @ rbm.b)[:, None] - h @ rbm.c - v @ rbm.W @ h.T
    return torch.softmax(-energy.detach().flatten(), 0).reshape(energy.shape)


def true_p(model):
    """p(v) of every v: the visible units of the top have its marginal, each layer below is drawn given that above."""
    top = model.depth - 1
    p = joint_of(model.rbm(top)).sum(1)
    for i in reversed(range(top)):
        rbm = model.rbm(i)
        p = p @ bernoulli_table(rbm.visible_logits(states(rbm.hidden)).detach(), states(len(rbm.b)))
    return p


def expected_weight(model, v):
    """E_q[log p*(v, h) - log q(h | v)] by the sum over all h of a network of depth 2, (batch,)."""
    h = states(model.rbm(0).hidden)
    q = bernoulli_table(model.rbm(0).hidden_logits(v), h)
    down = bernoulli_table(model.rbm(0).visible_logits(h), v.flatten(1)).T
    return (q * (down.log() - model.rbm(1).energy(h) - q.log())).sum(1).detach()


def all_v():
    return SPACE.enumerate().double()


# The likelihood and its bound


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_likelihood_is_that_of_enumeration(depth):
    model = network(depth=depth)
    found = model.log_likelihood(all_v(), enumeration.log_z(model.top)).detach()
    assert_close(found.exp(), true_p(model), **EXACT)


def test_the_weights_of_draws_average_to_the_likelihood_and_their_logarithms_lie_below():
    """E_q[exp log w] = Z p(v), and E_q[log w] <= log Z p(v) with equality in no v of this network."""
    model, n = network(), 20_000
    log_z, log_p = enumeration.log_z(model.top).detach(), true_p(model).log()
    for i in (0, 6, 11):
        log_w = model.log_weight(all_v()[i].expand(n, 2, 2), stream(i, "draws")).detach() - log_z
        assert_mean(log_w.exp(), log_p[i].exp().item())
        assert log_w.mean() < log_p[i] - 0.01


def test_the_mean_over_draws_is_the_sum_over_hidden_states():
    model, n = network(depth=2), 20_000
    bound = expected_weight(model, all_v()) - enumeration.log_z(model.top).detach()
    assert (bound < true_p(model).log()).all()
    for i in (3, 9):
        log_w = model.log_weight(all_v()[i].expand(n, 2, 2), stream(i, "draws")).detach()
        assert_mean(log_w - enumeration.log_z(model.top).detach(), bound[i].item())


def test_of_one_layer_every_draw_is_exact():
    model = network(depth=1)
    found = model.log_weight(all_v(), stream(0)).detach() - enumeration.log_z(model.top).detach()
    assert_close(found, true_p(model).log(), **EXACT)


def test_the_energy_is_none():
    with pytest.raises(TypeError, match="no energy of x"):
        network().energy(all_v())


def test_sums_beyond_ten_units_are_refused():
    model = network(layers=(3, 11, 2))
    assert model.refusal() == "11 units in a hidden layer, sums go to 10"
    with pytest.raises(ValueError, match="11 units"):
        model.log_likelihood(all_v(), torch.zeros(()))


# Stacking


def test_stacked_warm_the_network_is_the_one_below_and_the_bound_is_tight():
    """With as many hidden units as the layer below has visible ones: each single draw gives log p(v)."""
    model = network(layers=(3, 4), depth=1)
    before = true_p(model)
    model.stack(warm=True)
    assert model.depth == 2
    assert_close(true_p(model), before, **EXACT)
    bound = model.log_weight(all_v(), stream(0)).detach() - enumeration.log_z(model.top).detach()
    assert_close(bound, before.log(), **EXACT)
    assert_close(expected_weight(model, all_v()) - enumeration.log_z(model.top).detach(), before.log(), **EXACT)


def test_hidden_units_beyond_begin_almost_without_influence():
    """The rest is of second order in their weights, of standard deviation 0.01 here; the first order would be 0.04."""
    model = network(layers=(3, 40), depth=1)
    extra = model.rbm(1)
    with torch.no_grad():
        extra.W.mul_(0.01)
        extra.c.zero_()
    weights, before = extra.W.clone(), true_p(model)
    model.stack(warm=True)
    assert torch.equal(extra.W[:, 4:], weights[:, 4:])
    assert not extra.c[4:].any()
    log_p = model.log_likelihood(all_v(), enumeration.log_z(model.top)).detach()
    assert (log_p - before.log()).abs().max() < 2e-3
    assert extra.W[:, 4:].sum(1).abs().max() > 0.02


@pytest.mark.parametrize(("layers", "warm"), [((3, 4), False), ((3, 2), True)])
def test_otherwise_it_begins_at_random_with_the_mean_of_what_it_sees(layers, warm):
    model = network(layers=layers, depth=1)
    weights = model.rbm(1).W.clone()
    model.rbm(0).hidden_offset.copy_(torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64))
    model.stack(warm=warm)
    assert torch.equal(model.rbm(1).W, weights)
    assert_close(model.rbm(1).b.detach().sigmoid(), torch.tensor([0.2, 0.5, 0.99], dtype=torch.float64), **EXACT)


# Sampling


@pytest.mark.long
def test_from_the_top_in_equilibrium_samples_are_those_of_the_network():
    """Chains stay above: after 60 steps from one point their visible units are exact draws, as far as counts tell."""
    model, n = network().float(), 40_000
    x, _ = run(component("sampler", "up_down"), model, torch.ones(n, 2, 2), 60, stream(0, "chains"))
    assert SPACE.contains(x)
    count = torch.bincount(SPACE.code(x), minlength=16)
    assert chi_square(count, n * true_p(model.double())) > FALSE_ALARM
    assert chi_square(count, n * true_p(network(depth=1))) < FALSE_ALARM, "that of the first RBM is another one"


def test_chains_depend_on_their_row_alone_whatever_their_company():
    sampler, model = component("sampler", "up_down", sweeps=2), network()
    x, keys = SPACE.noise(9, stream(0)).double(), [stream(1).fold(i) for i in range(3)]
    whole, _ = transitions(sampler, model, x, keys)
    part, _ = transitions(sampler, model, x[4:], [key.after(4) for key in keys])
    assert torch.equal(whole[4:], part)
    assert not torch.equal(whole, transitions(sampler, model, x, [stream(2).fold(i) for i in range(3)])[0])


def test_two_sweeps_are_two_steps_above():
    """The kernel of the top RBM, applied twice to where recognition leads: its transition matrix, squared."""
    model, n = network(layers=(3, 2)), 40_000
    start = all_v()[5]
    q = bernoulli_table(model.rbm(0).hidden_logits(start[None]), states(3)).detach()
    joint = joint_of(model.rbm(1))
    kernel = (joint / joint.sum(1, keepdim=True)) @ (joint / joint.sum(0)).T
    down = bernoulli_table(model.rbm(0).visible_logits(states(3)).detach(), states(4))
    sampler = component("sampler", "up_down", sweeps=2)
    x, _ = run(sampler, model.float(), start.float().expand(n, 2, 2), 1, stream(3))
    assert chi_square(torch.bincount(SPACE.code(x), minlength=16), n * (q @ kernel @ kernel @ down)[0]) > FALSE_ALARM


# Greedy training


def greedy(**changes):
    plain = {"layer_steps": 10, "chains": 0, "centered": False, "decay": False, "warm_start": False}
    return component("objective", "greedy", **plain | changes)


def rows(n=6):
    return small_data(SPACE, n).train.all().double()


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_gradient_is_that_of_contrastive_divergence_on_the_features(layer, centered):
    """Of the RBM alone, given the features and the ends of its chains; the others have none."""
    model, objective, x, key = network(depth=layer + 1), greedy(k=2, centered=centered), rows(), stream(0, "objective")
    model.updates.fill_(10 * layer)
    rbm = model.rbm(layer)
    features = model.recognise(x, key.fold("recognise"))[-1]
    ends = rbm.sweep(features, key.fold("sweep", 0), backwards=False)
    ends = rbm.sweep(ends, key.fold("sweep", 1), backwards=False)
    offset = rbm.hidden_offset.clone()
    found, metrics = gradients(objective, model, x, None)
    rbm.hidden_offset.copy_(offset)
    alone = component("objective", "cd", centered=centered, offset_rate=0.01)
    expected, of_alone = gradients(alone, rbm, features, ends)
    assert set(found) == {f"layers.{layer}.{name}" for name in ("W", "b", "c")}
    for name, value in expected.items():
        assert_close(found[f"layers.{layer}.{name}"], value, **EXACT)
    assert metrics["loss"] == of_alone["loss"]
    assert metrics["layer"] == layer + 1


def test_layers_take_turns_and_learn_with_a_falling_share():
    """Two updates each: halves of the gradient in the second one, and the last layer goes on."""
    model, objective, x = network(layers=(3, 4, 2), depth=1), greedy(layer_steps=2, decay=True), rows()
    moved = []
    for step in range(5):
        found = objective.gradient(model, Batch(x), stream(step))
        rbm_grads = {name: grad.clone() for name, grad in found.parameters.items()}
        finished = objective.finish(model, found)
        shares = {(finished[name].norm() / rbm_grads[name].norm()).item() for name in finished}
        (share,) = {round(value, 9) for value in shares}
        moved.append((sorted(finished)[0], share))
    assert moved == [
        ("layers.0.W", 1.0), ("layers.0.W", 0.5), ("layers.1.W", 1.0), ("layers.1.W", 0.5), ("layers.2.W", 1.0)
    ]  # fmt: skip
    assert model.depth == 3
    assert model.updates == 5


def test_persistent_chains_go_on_row_by_row_and_rise_with_the_network():
    model, objective, x = network(layers=(3, 4), depth=1), greedy(layer_steps=1, chains=6), rows()
    beside = objective.auxiliary(model, None, stream(0)).double()
    assert isinstance(beside, Fantasies)
    first, key = beside.of(0).clone(), stream(1)
    halves = [Batch(x[:3], first=0, auxiliary=beside), Batch(x[3:], first=3, auxiliary=beside)]
    parts = [objective.gradient(model, half, key) for half in halves]
    ends = model.rbm(0).sweep(first.reshape(6, 2, 2), key.fold("sweep", 0), backwards=False).flatten(1)
    assert torch.equal(beside.of(0), ends)
    beside.of(0).copy_(first)
    whole = objective.gradient(model, Batch(x, auxiliary=beside), key)
    for name, grad in whole.parameters.items():
        assert_close((parts[0].parameters[name] + parts[1].parameters[name]) / 2, grad, **EXACT)
    objective.finish(model, whole)
    risen = model.rbm(0).sample_hidden(ends, stream(2).fold("rise", 1))
    with torch.no_grad():
        model.rbm(1).W.mul_(20)  # so that where a chain ends tells where it began
    objective.gradient(model, Batch(x, auxiliary=beside), stream(2))
    assert model.depth == 2
    assert torch.equal(beside.of(0), ends)
    assert torch.equal(beside.of(1), model.rbm(1).sweep(risen, stream(2).fold("sweep", 0), backwards=False))


# From the command line


@pytest.mark.long
def test_one_command_trains_all_layers_and_killed_and_resumed_is_as_never_killed(monkeypatch):
    """Killed within the first layer, at the moment the second is stacked, and within the third."""
    assert ebm(f"train {TINY} save_every=3 hydra.run.dir=whole").code == 0
    for step in (4, 8, 17):
        with monkeypatch.context() as patch:
            at_step(patch, step, die)
            with pytest.raises(Killed):
                ebm(f"train {TINY} save_every=3 hydra.run.dir=parts" if step == 4 else "train resume=parts")
    assert ebm("train resume=parts").code == 0
    assert outcome(Path("parts")) == outcome(Path("whole"))
    logged = [json.loads(line)["layer"] for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    assert logged == [1] * 8 + [2] * 8 + [3] * 4
    found = facts(Path("whole"), "summary.json")
    assert found["dbn_bound/log_likelihood"] <= found["dbn_bound/exact_log_likelihood"] + 1e-6
    assert found["dbn_bound/gain"] == pytest.approx(
        found["dbn_bound/log_likelihood"] - found["dbn_bound/first_rbm_log_likelihood"], abs=1e-9
    )
    saved = load_file(last_step(Path("whole")) / "state.safetensors")
    assert saved["model.stacked"] == 3
    assert saved["model.updates"] == 20
    assert ebm("sample run=whole n=4 steps=3 device=cpu").code == 0
    assert (Path("whole") / "samples" / "first_rbm_and_network.png").exists()


REFUSED = {
    "objective=pcd": "objective=pcd wants a tractable model, one whose energy can be computed, model=dbn is not",
    "sampler=gibbs": "sampler=gibbs wants a tractable and binary, spin, categorical or words model, model=dbn is not; "
    "samplers that fit: up_down",
    "model=rbm objective=greedy": "objective=greedy wants a deep belief model, model=rbm is not; models that fit: dbn",
    "evaluation=[ais,samples]": "evaluation=ais: this model has no energy that can be computed; leave it out "
    "(evaluation=[samples])",
    "objective.chains=5": "objective.chains = 5: must be batch_size, 100, or 0 for chains from the data",
    "model.layers=[]": "model.layers = []: list should have at least 1 item",
    "model=rbm evaluation=[dbn_bound]": "evaluation=dbn_bound: the bound is that of a deep belief network, model=dbn",
}


@pytest.mark.quick("objective=pcd*", "model.layers*", "sampler=gibbs*")
@pytest.mark.parametrize(("line", "words"), REFUSED.items())
def test_what_does_not_fit_is_refused_in_one_sentence(line, words):
    line = line if "model=" in line else f"model=dbn {line}"
    assert_refused(ebm(f"train tracker=none steps=3 {line}"), words)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (10, "steps = 10: only 1 of 3 RBMs learn, objective.layer_steps = 10"),
        (11, "steps = 11: only 2 of 3 RBMs learn, objective.layer_steps = 10"),
        (21, None),
        (30, None),
        (31, "steps = 31: nothing is learned after step 30, objective.decay has then ended at 0"),
    ],
)
def test_steps_that_do_not_suit_the_layers_are_said(steps, said):
    assert greedy(decay=True).remark(network(), steps) == said
    assert greedy().remark(network(), 31) is None


# The evaluation


def subject(model):
    data = small_data(SPACE, 40)
    return Subject(model.float(), data, "test", component("sampler", "up_down"), torch.empty(0, 2, 2), stream(0))


def bound_of(model, **changes):
    small = {"pictures": 0, "bootstrap": 100, "chains": 200, "temperatures": 200} | changes
    return component("evaluation", "dbn_bound", **small).evaluate(subject(model)).metrics


def test_bound_and_likelihoods_are_those_of_enumeration():
    model = network(depth=2)
    v = subject(model).held_out.all().double()
    bound = expected_weight(model.double(), v) - enumeration.log_z(model.top).detach()
    first = RBM.energy(model.rbm(0), v).detach().neg() - enumeration.log_z(model.rbm(0)).detach()
    log_p = true_p(model)[SPACE.code(v)].log()
    found = bound_of(model, draws=400)
    assert found["dbn_bound/log_likelihood"] == pytest.approx(bound.mean().item(), abs=0.02)
    assert found["dbn_bound/log_likelihood"] < found["dbn_bound/exact_log_likelihood"]
    assert found["dbn_bound/exact_log_likelihood"] == pytest.approx(log_p.mean().item(), abs=1e-5)
    assert found["dbn_bound/first_rbm_log_likelihood"] == pytest.approx(first.mean().item(), abs=1e-5)
    assert found["dbn_bound/layers"] == 2


@pytest.mark.long
def test_by_annealing_log_z_is_near_that_of_enumeration(monkeypatch):
    model = network()
    log_z = [enumeration.log_z(model.rbm(i)).item() for i in (2, 0)]
    monkeypatch.setattr("ebm_cli.log_z.enumeration.refusal", lambda model: "too large")
    found = bound_of(model)
    assert found["dbn_bound/log_z"] == pytest.approx(log_z[0], abs=0.1)
    assert found["dbn_bound/first_rbm_log_z"] == pytest.approx(log_z[1], abs=0.1)
    assert found["dbn_bound/log_z_low"] < found["dbn_bound/log_z"] < found["dbn_bound/log_z_high"]
    assert found["dbn_bound/gain_low"] < found["dbn_bound/gain"] < found["dbn_bound/gain_high"]
    assert 100 < found["dbn_bound/weight_ess"] <= 200
    wide = found["dbn_bound/log_z_high"] - found["dbn_bound/log_z_low"]
    assert wide / 2 < found["dbn_bound/gain_high"] - found["dbn_bound/gain_low"] < 10 * wide


def test_few_chains_under_the_bound_are_warned_of(monkeypatch):
    model = network()
    model.top.W.data.mul_(20)
    monkeypatch.setattr("ebm_cli.log_z.enumeration.refusal", lambda model: "too large")
    small = {"pictures": 0, "bootstrap": 100, "chains": 50, "temperatures": 1}
    warnings = component("evaluation", "dbn_bound", **small).evaluate(subject(model)).warnings
    assert warnings[-1].endswith("; raise evaluation.dbn_bound.temperatures")


def test_log_z_of_the_first_raises_the_gain_and_that_of_the_top_lowers_it():
    first, top = LogZ(1.0, torch.linspace(0.5, 1.5, 101)), LogZ(2.0, None)
    assert _uncertain(3.0, top, first) == pytest.approx({"dbn_bound/gain_low": 2.525, "dbn_bound/gain_high": 3.475})
    lopsided = LogZ(2.0, torch.linspace(2.0, 3.0, 101))
    found = _uncertain(3.0, lopsided, LogZ(1.0, None))
    assert found == pytest.approx({"dbn_bound/gain_low": 2.025, "dbn_bound/gain_high": 2.975})
    assert _uncertain(3.0, top, top) == {}


def test_of_a_network_of_one_layer_the_bound_is_the_likelihood_of_its_rbm():
    found = bound_of(network(depth=1))
    assert found["dbn_bound/log_likelihood"] == pytest.approx(found["dbn_bound/first_rbm_log_likelihood"], abs=1e-5)
