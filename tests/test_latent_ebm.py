"""Energies of latent codes, against a linear decoder and a quadratic energy, of which everything is normal."""

import math

import pytest
import torch
from helpers.cli import ebm
from helpers.components import SIGMAS, component, shipped
from helpers.data import small_data
from helpers.models import mean_of, randomised, small_model
from helpers.statistics import assert_close

from ebm_cli.evaluation.base import Subject, bits_of_levels
from ebm_cli.evaluation.latent_bound import log_weights
from ebm_cli.evaluation.table import Numbers
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.emission import NormalEmission
from ebm_cli.model.latent_ebm import LatentEBM
from ebm_cli.objective.base import Batch
from ebm_cli.objective.latent_pcd import Codes, bound
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Binary, Box, Real

SPACE, CODES = Real((3,)), Real((2,))
EXACT = {"rtol": 1e-9, "atol": 1e-11}
KEY = stream(0, "latent")
DOUBLE = {"dtype": torch.float64}


class Parabola(EnergyModel):
    """E(z) = z.A z / 2 - b.z."""

    def __init__(self) -> None:
        super().__init__()
        self.space = CODES
        self.A = torch.nn.Parameter(torch.tensor([[1.5, 0.0], [0.0, 0.8]], **DOUBLE))
        self.b = torch.nn.Parameter(torch.tensor([0.6, -0.4], **DOUBLE))

    def energy(self, x):
        return 0.5 * ((x @ self.A) * x).sum(1) - x @ self.b


def law(model):
    """Mean and covariance of z, log Z, and mean and covariance of x."""
    A, b, W, c = model.prior.A, model.prior.b, model.decoder.weight, model.decoder.bias
    A = (A + A.T) / 2
    cov, m = A.inverse(), A.inverse() @ b
    log_z = math.log(2 * math.pi) - 0.5 * A.logdet() + 0.5 * b @ m
    s = noise(model)
    return m, cov, log_z, W @ m + c, W @ cov @ W.T + torch.diag(s.square())


def noise(model):
    return ((2 * model.emission.r).exp() + 0.05**2).sqrt()


def posterior(model, x):
    """Mean (rows, 2) and covariance of p(z | x)."""
    A, W, s = (model.prior.A + model.prior.A.T) / 2, model.decoder.weight, noise(model)
    precision = A + W.T @ (W / s[:, None].square())
    pulled = model.prior.b + ((x - model.decoder.bias) / s.square()) @ W
    return pulled @ precision.inverse(), precision.inverse()


def log_p(model, x):
    *_, mean, cov = law(model)
    return torch.distributions.MultivariateNormal(mean, cov).log_prob(x)


def linear():
    """Columns of the decoder that are orthogonal in units of the noise, so that the posterior has no correlation."""
    emission = NormalEmission(SPACE, 0.05, by_code=False)
    model = LatentEBM(SPACE, torch.nn.Linear(3, 4), torch.nn.Linear(2, 3), emission, Parabola(), torch.zeros(3))
    model = randomised(model)
    model.prior = Parabola()
    s = noise(model).detach()
    with torch.no_grad():
        W = torch.linalg.qr(torch.tensor([[1.0, 0.3], [-0.5, 1.0], [0.2, 0.9]], **DOUBLE))[0]
        model.decoder.weight.copy_(s[:, None] * W * torch.tensor([1.1, 0.7], **DOUBLE))
        model.mean.copy_(torch.tensor([0.3, -0.2, 0.1]))
    return model


def exactly_recognised():
    """The same with the posterior as q."""
    model = linear()
    (zero, cov), eye = posterior(model, torch.zeros(1, 3, **DOUBLE)), torch.eye(3, **DOUBLE)
    assert cov[0, 1].abs() < 1e-12
    with torch.no_grad():
        slope = (posterior(model, eye)[0] - zero).T
        model.encoder.weight.copy_(torch.cat([slope, torch.zeros(2, 3, **DOUBLE)]))
        shifted = zero[0] + slope @ model.mean
        model.encoder.bias.copy_(torch.cat([shifted, 0.5 * cov.diagonal().log()]))
    return model


def rows(n=5):
    return normal((n, 3), stream(1, "rows"), dtype=torch.float64)


def sigma_points(n):
    """Noise of 2 d draws for each of n rows, whose mean and covariance are those of the normal law; (4 n, 2)."""
    points = math.sqrt(2) * torch.cat([torch.eye(2, **DOUBLE), -torch.eye(2, **DOUBLE)])
    return points.repeat(n, 1)


def test_with_the_posterior_every_draw_has_the_likelihood_as_its_weight():
    model, x = exactly_recognised(), rows()
    log_w = log_weights(model, x, 7, KEY)
    assert_close(log_w - law(model)[2], log_p(model, x)[:, None].expand(-1, 7), **EXACT)


def test_weights_of_another_posterior_average_to_the_likelihood():
    """And the mean of their logarithms is below by KL(q || p(z | x))."""
    model, x, n = linear(), rows(2), 100_000
    with torch.no_grad():
        model.encoder.bias[2:] = -0.3
        model.encoder.weight *= 0.3
    log_w = log_weights(model, x, n, KEY) - law(model)[2]
    w = (log_w - log_p(model, x)[:, None]).exp()
    assert ((w.mean(1) - 1).abs() < SIGMAS * w.std(1) / math.sqrt(n)).all()
    q, (mean, cov) = model.recognise(x), posterior(model, x)
    of_q = [torch.distributions.MultivariateNormal(m, torch.diag((2 * s).exp())) for m, s in zip(*q, strict=True)]
    of_p = [torch.distributions.MultivariateNormal(m, cov) for m in mean]
    kl = torch.stack([torch.distributions.kl_divergence(one, other) for one, other in zip(of_q, of_p, strict=True)])
    below = log_p(model, x) - log_w.mean(1)
    assert ((below - kl).abs() < SIGMAS * log_w.std(1) / math.sqrt(n)).all()


def test_the_gradient_is_that_of_the_bound_in_closed_form():
    """Draws of q and chains are sigma points, by which means of quadratic functions are exact."""
    model, x = linear(), rows()
    m, cov, log_z, *_ = law(model)
    chains = (m + sigma_points(1) @ torch.linalg.cholesky(cov).T).detach()
    loss, terms, _ = bound(model, x.repeat_interleave(4, 0), sigma_points(5), chains)
    q, (mean, of_rows) = model.recognise(x), posterior(model, x)
    s, precision = (2 * q.log_deviation).exp(), of_rows.inverse()
    off = q.mean - mean
    kl = 0.5 * ((off @ precision * off).sum(1) + s @ precision.diagonal() - precision.logdet() - 2)
    kl = (kl - q.log_deviation.sum(1)).mean()
    expected = kl - log_p(model, x).mean()
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads, closed = (torch.autograd.grad(value, parameters, retain_graph=True) for value in (loss, expected))
    for name, one, other in zip(names, grads, closed, strict=True):
        assert_close(one, other, **EXACT)
        assert one.abs().max() > 1e-3, name
    without_chains = loss + terms["energy_chains"] + log_z - math.log(2 * math.pi)  # Z in units of the normal law's
    assert_close(without_chains.detach(), expected.detach(), **EXACT)
    assert_close(terms["kl"] - terms["reconstruction"] + terms["energy_data"], loss.detach() + terms["energy_chains"])


@pytest.mark.parametrize("steps", [0, 3])
def test_the_objective_is_the_bound_at_its_own_draws(steps):
    """With steps in the posterior, energy and decoder learn from where these lead, and the encoder as before."""
    model, x, objective = linear(), rows(), component("objective", "latent_pcd", chains=5, posterior_steps=steps)
    aux = Codes(normal((5, 2), stream(2, "codes"), dtype=torch.float64))
    start = aux.z.clone()
    found = objective.gradient(model, Batch(x, auxiliary=aux), KEY)
    assert not torch.equal(aux.z, start)
    noise = normal((5, 2), KEY.fold("posterior"), dtype=torch.float64)
    loss, terms, q = bound(model, x, noise, aux.z)
    names, parameters = zip(*model.named_parameters(), strict=True)
    plain = dict(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True))
    assert {*found.parameters} == {*names}
    for name in names:
        same = torch.allclose(found.parameters[name], plain[name], rtol=1e-9, atol=1e-12)
        assert same == (not steps or name.startswith("encoder")), name
    assert_close(found.metrics["loss"], loss.detach(), **EXACT)
    assert_close(found.metrics["kl"], terms["kl"], **EXACT)
    assert 0 < found.metrics["acceptance"] <= 1
    if steps:
        z, _ = run_like(objective.posterior, model.posterior(x), q.at(noise).detach(), steps)
        joint = model.prior.energy(z) - model.log_given(x, z)
        grads = torch.autograd.grad(joint.mean() - model.prior.energy(aux.z).mean(), parameters, allow_unused=True)
        for name, grad in zip(names, grads, strict=True):
            if not name.startswith("encoder"):
                assert_close(found.parameters[name], grad, **EXACT)


def run_like(sampler, model, z, steps):
    """The moves of the objective, by its keys."""
    state, info = sampler.init(model, z), {}
    for i in range(steps):
        state, info = sampler.step(model, state, KEY.fold("move", i))
    return state.x, info


def near(draws, mean, cov):
    """Mean and second moments of draws (n, d) are those of a normal law, to SIGMAS of their errors."""
    n, off = len(draws), draws - mean
    assert (off.mean(0).abs() < SIGMAS * (cov.diagonal() / n).sqrt()).all()
    error = ((cov.square() + torch.outer(cov.diagonal(), cov.diagonal())) / n).sqrt()
    assert ((off.T @ off / n - cov).abs() < SIGMAS * error).all()


def test_chains_of_codes_come_to_the_law_of_rows():
    model, n = exactly_recognised(), 20_000
    sampler = component("sampler", "latent")
    start = SPACE.noise(n, stream(0, "start")).double()
    with torch.no_grad():
        *_, mean, cov = law(model)
        ends, info = run(sampler, model, start, 60, stream(0, "steps"))
    near(ends, mean, cov)
    assert 0.5 < info["acceptance"].mean() < 1


def test_chains_given_rows_come_to_their_posterior():
    model, n = linear(), 20_000
    x = rows(1)
    kernel = component("sampler", "mala", step_size=0.2)
    with torch.no_grad():
        mean, cov = posterior(model, x)
        z, _ = run(kernel, model.posterior(x.expand(n, -1)), torch.zeros(n, 2, **DOUBLE), 60, stream(0, "given"))
    near(z, mean[0], cov)


def test_the_kernel_between_codes_stays_from_step_to_step():
    """Codes are drawn by the encoder at the first step alone, and a step of two moves is two steps of one."""
    model, x = linear(), rows()
    one, two = component("sampler", "latent"), component("sampler", "latent", moves=2)
    state, _ = one.step(model, one.init(model, x), KEY)
    moved, _ = one.kernel.step(model.prior, state.codes, stream(3).fold("codes", 0))
    after, _ = one.step(model, state._replace(x=torch.zeros_like(x)), stream(3))
    assert torch.equal(after.codes.x, moved.x)
    both, _ = two.step(model, two.init(model, x), KEY)
    assert torch.equal(both.codes.x, one.kernel.step(model.prior, state.codes, KEY.fold("codes", 1))[0].x)
    assert torch.equal(both.x, model.generate(both.codes.x, KEY.fold("decode")))


def test_a_warm_up_finds_the_step_of_the_kernel():
    """On codes, whose chains come decoded; another kernel than one that adapts wants none."""
    model, x = linear(), SPACE.noise(200, KEY).double()
    sampler = component("sampler", "latent", kernel=shipped("sampler")["mala"] | {"adapt": 0.574})
    with torch.no_grad():
        warm, ends = sampler.warmed(model, x, 200, KEY)
        _, info = run(warm, model, ends, 20, stream(0, "steps"))
    assert warm.found() == {"step_size": warm.kernel.step_size}
    assert warm.kernel.step_size != sampler.kernel.step_size
    assert info["acceptance"].mean() == pytest.approx(0.574, abs=0.05)
    assert sampler.wants_warmup
    assert component("sampler", "latent").wants_warmup
    assert not warm.frozen().wants_warmup
    plain = component("sampler", "latent", kernel=shipped("sampler")["mala"])
    assert not plain.wants_warmup
    assert plain.frozen().found() == plain.found() == {}


def test_shards_move_the_chains_of_the_whole_batch():
    model, x, start = linear(), rows(6), normal((6, 2), stream(2, "codes"), dtype=torch.float64)
    objective = component("objective", "latent_pcd", posterior_steps=2)
    whole, parts = Codes(start.clone()), Codes(start.clone())
    found = objective.gradient(model, Batch(x, auxiliary=whole), KEY)
    shards = [objective.gradient(model, Batch(x[i : i + 2], first=i, auxiliary=parts), KEY) for i in (0, 2, 4)]
    assert_close(whole.z, parts.z, **EXACT)
    for name, value in found.parameters.items():
        assert_close(sum(shard.parameters[name] for shard in shards) / 3, value, **EXACT)


def subject(model, data, sampler=None):
    sampler = sampler or component("sampler", "latent")
    return Subject(model, data, "test", sampler, torch.empty(0, *data.space.shape), stream(0, "evaluation"))


@pytest.mark.long
def test_the_evaluation_brackets_log_z_and_bounds_the_likelihood():
    model = exactly_recognised().float()
    data = small_data(SPACE)
    evaluation = component("evaluation", "latent_bound", chains=2000, temperatures=50)
    found = evaluation.evaluate(subject(model, data)).metrics
    exact = exactly_recognised()
    log_z = law(exact)[2].item()
    low, high = found["latent_bound/log_z_low"], found["latent_bound/log_z_high"]
    assert low == pytest.approx(log_z, abs=0.02)
    assert high == pytest.approx(log_z, abs=0.02)
    assert found["latent_bound/log_z"] == max(low, high)
    likely = log_p(exact, data.test.all().double()).mean().item()
    assert found["latent_bound/log_likelihood"] + max(low, high) == pytest.approx(likely + log_z, abs=1e-4)
    assert found["latent_bound/elbo"] == pytest.approx(found["latent_bound/log_likelihood"], abs=1e-4)
    assert found["latent_bound/draws_ess"] == pytest.approx(100, rel=1e-3)
    said = evaluation.lines(Numbers(found), "test")
    assert [*said] == ["lower bound on the log-likelihood (test)", "  log Z of the codes, AIS up and down"]


def test_few_temperatures_leave_both_ends_apart():
    """From the normal law to one far away, up in one jump and down in one."""
    model = exactly_recognised().float()
    with torch.no_grad():
        model.prior.b.mul_(8)
    sampler = component("sampler", "latent", kernel=shipped("sampler")["mala"])
    evaluation = component("evaluation", "latent_bound", chains=50, temperatures=1)
    found = evaluation.evaluate(subject(model, small_data(SPACE), sampler))
    low, high = (found.metrics[f"latent_bound/log_z_{end}"] for end in ("low", "high"))
    assert low < law(model.double())[2] < high
    assert any("by AIS up and by AIS down differ by" in sentence for sentence in found.warnings)


def test_what_is_no_latent_model_is_refused():
    other, sampler = small_model("mlp", Box((4, 4))), component("sampler", "latent")
    for name in ("latent_bound", "latent_chains"):
        evaluation = component("evaluation", name)
        assert evaluation.refusal(other, sampler).endswith("latent energy-based model, model=latent_ebm")
        assert evaluation.refusal(linear(), component("sampler", "mala")) == "it moves codes, by sampler=latent"
        assert evaluation.refusal(linear(), sampler) is None
    why = component("objective", "latent_pcd", chains=5).refusal_of_batch(4)
    assert why == "objective.chains = 5: must be batch_size, 4: one for each row"


def test_bits_of_spread_levels_have_their_width_in_them():
    """Of a density that is uniform between the walls, log2 of the number of levels, whatever the walls."""
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        split = small_data(Box((2, 2), low, high)).train
        uniform = -4 * math.log(high - low)
        spread = type(split)(**{**vars(split), "levels": 17})
        found = bits_of_levels("x", spread, uniform)
        assert found == {"x/bits_per_dimension": pytest.approx(math.log2(17))}
        noisy = type(split)(**{**vars(spread), "noise": 0.1})
        assert bits_of_levels("x", split, uniform) == bits_of_levels("x", noisy, uniform) == {}
    assert bits_of_levels("x", small_data(Binary((2, 2))).train, -4 * math.log(2)) == {"x/bits_per_dimension": 1.0}


@pytest.mark.parametrize("space", [Box((4, 4)), Real((3,)), Binary((2, 2))], ids=lambda space: space.name)
@pytest.mark.parametrize("deviation", ["site", "code"])
def test_it_begins_as_the_mean_of_the_data(space, deviation):
    spec = component("model", "latent_ebm", deviation=deviation, widths=[5, 4], energy_widths=[6])
    model = spec.build(space, mean_of(space), stream(0, "model"))
    assert spec.parameters(space) >= sum(p.numel() for p in model.parameters())
    z = CODES.noise(20, KEY).repeat(1, 4)[:, : model.dim]
    assert (model.decoded(z) - mean_of(space)).abs().max() < 0.5
    assert model.prior.energy(z).allclose(0.5 * z.square().sum(1))
    x = model.generate(z, KEY)
    assert space.contains(x)
    assert model.log_given(x, z).isfinite().all()
    assert model.features(x)["code"].shape == (20, 8)


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path):
    line = (
        "train model=latent_ebm dataset=digits dataset.binarize=none model.widths=[8] model.energy_widths=[8] "
        "batch_size=10 save_every=2 steps=4 tracker=none device=cpu evaluation=[latent_bound] "
        "objective.posterior_steps=1 evaluation.latent_bound.temperatures=5 evaluation.latent_bound.draws=2"
    )
    for name in ("whole", "again"):
        answer = ebm(f"{line} hydra.run.dir={tmp_path}/{name}")
        assert answer.code == 0, answer.err
    assert "log Z of the codes" in answer.out
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
