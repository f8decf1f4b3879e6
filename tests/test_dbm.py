"""Deep Boltzmann machines: likelihood, mean-field bound, its gradient and sampling against enumeration."""

import pytest
import torch
from helpers.cli import ebm
from helpers.components import FALSE_ALARM, component
from helpers.data import small_data
from helpers.models import mean_of, randomised
from helpers.statistics import assert_close, chi_square

from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.table import Numbers
from ebm_cli.log_z import enumeration
from ebm_cli.model.rbm import RBM
from ebm_cli.objective.base import Batch
from ebm_cli.objective.likelihood import center
from ebm_cli.objective.mean_field_pcd import Particles
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Binary

SPACE = Binary((2, 2))
EXACT = {"rtol": 1e-9, "atol": 1e-12}
KEY = stream(0, "objective")


def machine(layers=(3, 2), seed=1):
    model = component("model", "dbm", layers=layers).build(SPACE, mean_of(SPACE), stream(seed, "model"))
    return randomised(model, seed)


def states(units):
    return Binary((units,)).enumerate().double()


def rows():
    return SPACE.enumerate().double()


def joint(model):
    """-E(v, h, g) of all states, (16, 8, 4), from the five terms one by one."""
    rbm, v, h, g = model.rbm, rows().flatten(1), states(3), states(2)
    W, J, b, a = rbm.W[:4], rbm.W[4:], rbm.b[:4], rbm.b[4:]
    found = (v @ b)[:, None, None] + (h @ rbm.c)[None, :, None] + (g @ a)[None, None]
    return found + (v @ W @ h.T)[:, :, None] + (h @ J.T @ g.T)[None]


def test_the_likelihood_is_that_of_the_joint_law():
    model, log_p = machine(), joint(machine())
    log_z = enumeration.log_z(model.top)
    assert log_z.item() == pytest.approx(log_p.logsumexp((0, 1, 2)).item(), rel=1e-12)
    assert_close(model.log_likelihood(rows(), log_z), log_p.logsumexp((1, 2)) - log_z, **EXACT)
    with pytest.raises(ValueError, match=r"11 units in the second layer, sums go to 10"):
        machine((2, 11)).log_likelihood(rows(), log_z)


def test_the_bound_is_that_of_factorised_posteriors():
    """E_q[-E] + H(q) over all states, q of h the best for q of g; it rises with each sweep, below log p(v) + log Z."""
    model, log_p, h, g = machine(), joint(machine()), states(3), states(2)
    before = None
    for sweeps in (1, 2, 3, 10):
        x = model.mean_field(rows(), sweeps)
        q1, q2 = model.rbm.hidden_logits(x).sigmoid(), x[:, 4:]
        law1 = torch.where(h > 0.5, q1[:, None], 1 - q1[:, None]).prod(2)
        law2 = torch.where(g > 0.5, q2[:, None], 1 - q2[:, None]).prod(2)
        q = law1[:, :, None] * law2[:, None]
        expected = (q * (log_p - q.log())).sum((1, 2))
        bound = model.bound(x)
        assert_close(bound, expected, **EXACT)
        assert (bound < log_p.logsumexp((1, 2))).all()
        assert before is None or (bound >= before - 1e-12).all()
        before = bound
    x = model.mean_field(rows(), 60)
    down = model.rbm.visible_logits(model.rbm.hidden_logits(x).sigmoid())[:, 4:]
    assert_close(x[:, 4:], down.sigmoid(), **EXACT)
    with torch.no_grad():
        model.rbm.W[4:] = 0
    assert_close(model.bound(model.mean_field(rows(), 1)), joint(model).logsumexp((1, 2)), **EXACT)


def test_with_exact_chains_the_gradient_is_that_of_the_bound(monkeypatch):
    """At q as it is; the gradient is linear in the chains, here one state after the other, weighted by p(v, g)."""
    monkeypatch.setattr(RBM, "sweep", lambda self, x, key, *, backwards: x)
    model, x = machine(), rows()[[3, 5, 5, 9]]
    objective = component("objective", "mean_field_pcd", centered=False, sweeps=40)
    filled = model.mean_field(x, 40).detach()
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = -model.bound(filled).mean() + enumeration.log_z(model.top)
    grads = torch.autograd.grad(loss, parameters)
    p = (-model.top.energy(states(6))).softmax(0)
    found = dict.fromkeys(names, 0.0)
    for weight, state in zip(p, states(6), strict=True):
        batch = Batch(x, auxiliary=Particles(state.repeat(4, 1)))
        for name, grad in objective.gradient(model, batch, KEY).parameters.items():
            found[name] = found[name] + weight * grad
    for name, grad in zip(names, grads, strict=True):
        assert_close(found[name], grad, **EXACT)


def test_shards_move_the_chains_of_the_whole_batch():
    model, x, start = machine(), rows()[:6], states(6)[7:13]
    objective = component("objective", "mean_field_pcd", positive="gibbs", k=2)
    whole, parts = Particles(start.clone()), Particles(start.clone())
    found = objective.gradient(model, Batch(x, auxiliary=whole), KEY)
    shards = [objective.gradient(model, Batch(x[i : i + 2], first=i, auxiliary=parts), KEY) for i in (0, 2, 4)]
    assert torch.equal(whole.x, parts.x)
    assert not torch.equal(whole.x, start)
    for group in ("parameters", "statistics"):
        for name, value in getattr(found, group).items():
            assert_close(sum(getattr(shard, group)[name] for shard in shards) / 3, value, **EXACT)


def test_offsets_follow_the_data_and_centre_the_gradient():
    """One visible unit of x that is always on, as all of h: nothing is left of the couplings between the two."""
    model = machine()
    objective = component("objective", "mean_field_pcd", offset_rate=1.0)
    batch = Batch(rows()[[3, 5, 5, 9]], auxiliary=Particles(states(6)[[1, 8, 20, 63]]))
    gradient = objective.gradient(model, batch, KEY)
    objective.finish(model, gradient)
    assert_close(model.rbm.hidden_offset, gradient.statistics["hidden_mean"], **EXACT)
    assert_close(model.rbm.visible_offset[4:], gradient.statistics["second_mean"], **EXACT)
    assert_close(model.rbm.visible_offset[:4], mean_of(SPACE).flatten().double(), rtol=1e-6, atol=0)
    plain = component("objective", "mean_field_pcd", centered=False).finish(model, gradient)
    assert plain is gradient.parameters
    mu, lam, W = model.rbm.visible_offset, model.rbm.hidden_offset, plain["rbm.W"]
    expected = W - torch.outer(mu, plain["rbm.c"]) - torch.outer(plain["rbm.b"], lam)
    assert_close(objective.finish(model, gradient)["rbm.W"], expected, **EXACT)


def test_at_first_the_first_layer_learns_alone(monkeypatch):
    """Its gradient is that of the RBM of v and h, centred as that; J, a and their chains stay as they are."""
    monkeypatch.setattr(RBM, "sweep", lambda self, x, key, *, backwards: 1 - x)
    model, x, start = machine(), rows()[[3, 5, 5, 9]], states(6)[[1, 8, 20, 63]]
    rbm, particles = model.rbm, Particles(start.clone())
    W, b, c = (part.detach().clone().requires_grad_() for part in (rbm.W[:4], rbm.b[:4], rbm.c))
    energy = lambda v: -(v @ b) - torch.nn.functional.softplus(c + v @ W).sum(1)  # noqa: E731
    (energy(x.flatten(1)).mean() - energy(1 - start[:, :4]).mean()).backward()
    objective = component("objective", "mean_field_pcd", first_steps=3)
    gradient = objective.gradient(model, Batch(x, auxiliary=particles, step=2), KEY)
    assert_close(particles.x, torch.cat([1 - start[:, :4], start[:, 4:]], 1), **EXACT)
    plain = component("objective", "mean_field_pcd", centered=False).finish(model, gradient)
    for name, grad in (("W", W.grad), ("b", b.grad), ("c", c.grad)):
        assert_close(plain[f"rbm.{name}"][: len(grad)], grad, **EXACT)
        assert not plain[f"rbm.{name}"][len(grad) :].any()
    before = rbm.visible_offset.clone()
    found = objective.finish(model, gradient)
    assert torch.equal(rbm.visible_offset, before)
    expected = center({"W": W.grad, "b": b.grad, "c": c.grad}, before[:4], rbm.hidden_offset)
    for name, grad in expected.items():
        assert_close(found[f"rbm.{name}"][: len(grad)], grad, **EXACT)
        assert not found[f"rbm.{name}"][len(grad) :].any()
    whole = objective.gradient(model, Batch(x, auxiliary=particles, step=3), KEY)
    assert whole.parameters["rbm.W"].shape == rbm.W.shape
    assert objective.remark(model, 4) is None
    assert objective.remark(model, 3) == "steps = 3: the second layer never learns, objective.first_steps = 3"


def test_draws_given_a_row_come_to_the_posterior():
    model, n = machine(), 20_000
    v = rows()[[6]].expand(n, 2, 2)
    g = model.drawn_given(v, 30, stream(0, "given"))
    assert torch.equal(g[:, :4], v.flatten(1))
    p = joint(model)[6].logsumexp(0).softmax(0).detach()
    assert chi_square(torch.bincount(Binary((2,)).code(g[:, 4:]), minlength=4), p * n) > FALSE_ALARM


def test_chains_come_to_the_law_of_the_rows():
    model, n = machine(), 20_000
    start = SPACE.noise(n, stream(0, "start")).double()
    ends, _ = run(component("sampler", "up_down"), model, start, 40, stream(0, "steps"))
    p = joint(model).logsumexp((1, 2)).softmax(0).detach()
    assert chi_square(torch.bincount(SPACE.code(ends), minlength=16), p * n) > FALSE_ALARM


def test_the_evaluation_has_bound_and_exact_value():
    model = machine().float()
    data, sampler = small_data(SPACE), component("sampler", "up_down")
    evaluation = component("evaluation", "dbm_bound")
    subject = Subject(model, data, "test", sampler, torch.empty(0, 2, 2), stream(0, "evaluation"))
    found = evaluation.evaluate(subject)
    double, x = machine(), data.test.all().double()
    log_z = enumeration.log_z(double.top)
    bound = double.bound(double.mean_field(x, 30)) - log_z
    assert found.metrics["dbm_bound/log_likelihood"] == pytest.approx(bound.mean().item(), rel=1e-5)
    exact = double.log_likelihood(x, log_z).mean().item()
    assert found.metrics["dbm_bound/exact_log_likelihood"] == pytest.approx(exact, rel=1e-5)
    assert found.metrics["dbm_bound/log_z"] == pytest.approx(log_z.item(), rel=1e-5)
    said = evaluation.lines(Numbers(found.metrics), "test")
    value, error = (found.metrics[f"dbm_bound/{name}"] for name in ("log_likelihood", "standard_error"))
    assert said == {"lower bound on the log-likelihood (test)": f"{value:.2f} ± {error:.2f} nats"}
    between = {"dbm_bound/log_z_low": 1.0, "dbm_bound/log_z_high": 2.0}
    said = evaluation.lines(Numbers({**found.metrics, **between}), "test")
    assert [*said] == ["lower bound on the log-likelihood (test)", "  log Z, AIS"]
    assert said["lower bound on the log-likelihood (test)"].endswith("nats (errs upwards)")
    assert evaluation.refusal(model.top, sampler) == "the bound is that of a deep Boltzmann machine, model=dbm"


def test_chains_are_as_many_as_rows():
    why = component("objective", "mean_field_pcd", chains=5).refusal_of_batch(4)
    assert why == "objective.chains = 5: must be batch_size, 4: one for each row"


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path):
    """It learns bars and stripes; AIS where no side of the machine is small."""
    line = (
        "train model=dbm model.layers=[24,21] dataset=bars_and_stripes dataset.side=4 batch_size=10 save_every=2 "
        "steps=4 tracker=none device=cpu evaluation=[dbm_bound] evaluation.dbm_bound.temperatures=20"
    )
    for name in ("whole", "again"):
        answer = ebm(f"{line} hydra.run.dir={tmp_path}/{name}")
        assert answer.code == 0, answer.err
    assert "dbm_bound/weight_ess" in answer.out
    for path in (tmp_path / "again" / "checkpoints").glob("*4*"):
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink()
        path.rmdir()
    assert ebm(f"train resume={tmp_path}/again").code == 0
    first, second = (
        next((tmp_path / name / "checkpoints").glob("*4*/*.safetensors")).read_bytes() for name in ("whole", "again")
    )
    assert first == second
    assert ebm(f"sample run={tmp_path}/whole n=3 steps=2 device=cpu").code == 0
