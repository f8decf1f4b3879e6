"""Models of real numbers and grey images: Gaussian-Bernoulli machines, products over scales, residual networks."""

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.cli import assert_refused, ebm, facts, outcome
from helpers.components import component
from helpers.data import small_data
from helpers.models import randomised, small_model
from helpers.statistics import assert_close, assert_mean
from test_resume import Killed, at_step, die

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.log_z import enumeration
from ebm_cli.log_z.paths import MixtureRBMPath
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.gaussian_rbm import GaussianRBM
from ebm_cli.model.multiscale import pooled
from ebm_cli.model.resnet_real import Attention, ImageResNet, iterate
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Box, Real
from ebm_cli.training import checks

EXACT = {"rtol": 1e-12, "atol": 1e-12}


# Gaussian-Bernoulli machines


def machine(**changes) -> GaussianRBM:
    """On the plane, every parameter non-zero and no two alike."""
    return small_model("gaussian_rbm", Real((2,)), **changes)


def joint_energy(model, v, h):
    """E(v, h) in plain loops: sum_i (v_i - b_i)^2 / (2 s_i^2) - sum_j c_j h_j - sum_ij v_i W_ij h_j / s_i^2."""
    total = -sum(c * on for c, on in zip(model.c.tolist(), h, strict=True))
    for i, value in enumerate(v):
        variance = model.min_spread**2 + math.exp(model.r[i].item())
        total += (value - model.b[i].item()) ** 2 / (2 * variance)
        total -= sum(value * model.W[i, j].item() * on for j, on in enumerate(h)) / variance
    return total


def on_a_grid(model):
    """Points of the plane (n, 2) and p dv at each, as dense quadrature has it."""
    side = torch.linspace(-16, 16, 501, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    with torch.no_grad():
        p = (-model.energy(x)).exp() * (side[1] - side[0]) ** 2
    return x, p / p.sum(), p.sum().log().item()


def test_the_energy_is_minus_log_of_the_summed_joint():
    model = machine()
    x = 2 * rng.normal((20, 2), stream(0, "x"), dtype=torch.float64)
    for v, energy in zip(x.tolist(), model.energy(x).tolist(), strict=True):
        joint = [math.exp(-joint_energy(model, v, h)) for h in itertools.product((0, 1), repeat=3)]
        assert energy == pytest.approx(-math.log(sum(joint)), rel=1e-12)


@pytest.mark.parametrize("hidden", [1, 3, 6])
def test_log_z_is_the_integral(hidden):
    model = machine(hidden=hidden)
    assert enumeration.log_z(model).item() == pytest.approx(on_a_grid(model)[2], abs=1e-9)


def test_the_gradient_of_log_z_is_minus_the_mean_gradient_of_the_energy():
    model = machine()
    x, p, _ = on_a_grid(model)
    _, pull = model.energy_vjp(x)
    found = torch.autograd.grad(enumeration.log_z(model), [*model.parameters()])
    for expected, value in zip(pull(-p).values(), found, strict=True):
        assert_close(value, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.quick("langevin-exact", "gibbs-exact")
@pytest.mark.parametrize("start", ["exact", "point"])
@pytest.mark.parametrize(
    "sampler", ["block_gibbs", {"steps": 3, "step_size": 0.6, "adjust": True}], ids=["gibbs", "langevin"]
)
def test_kernels_have_the_moments_of_the_model(sampler, start):
    """By quadrature: of exact draws after five steps, and of chains from one point after 80."""
    model = machine()
    kernel = (
        component("sampler", sampler) if isinstance(sampler, str) else component("sampler", "gibbs_langevin", **sampler)
    )
    here = (
        enumeration.sample(model, 40_000, stream(0, "x")) if start == "exact" else torch.full((40_000, 2), 3.0).double()
    )
    y, info = run(kernel, model, here, 5 if start == "exact" else 80, stream(1, "kernel"))
    x, p, _ = on_a_grid(model)
    for powers in ((1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (3, 0), (2, 1)):
        values, expected = ((rows ** torch.tensor(powers)).prod(1) for rows in (y, x))
        assert_mean(values, (p @ expected).item())
    assert not info or 0.3 < info["acceptance"].mean() < 0.95


@pytest.mark.long
def test_without_its_test_langevin_is_off_by_what_its_step_says():
    """Uncoupled, x' = x - e (x - b) / s^2 + sqrt(2 e) z is stationary at variance s^2 / (1 - e / (2 s^2))."""
    model = machine()
    with torch.no_grad():
        model.W.zero_()
    kernel = component("sampler", "gibbs_langevin", steps=10, step_size=0.3, adjust=False)
    assert not kernel.leaves_invariant
    y, info = run(kernel, model, model.b.detach().repeat(50_000, 1), 10, stream(0, "kernel"))
    variance = 1 / model.precision().detach()
    for i in range(2):
        expected = variance[i] / (1 - 0.3 / (2 * variance[i]))
        assert_mean((y[:, i] - model.b[i].item()).square() / expected, 1.0)
    assert info == {}


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_annealed_machine_mixes_the_joint_energies(beta):
    """(1 - beta) E_base(v) + beta E(v, h) less its own E(v, h) is one number for all v and h."""
    model = machine()
    base = randomised(component("model", "exponential_family").build(Real((2,)), torch.zeros(2), stream(0)), 3)
    mixed = model.annealed(base, beta)
    v = rng.normal((6, 2), stream(0, "x"), dtype=torch.float64)
    found = [
        (1 - beta) * base.energy(row[None]).item() + beta * joint_energy(model, row.tolist(), h)
        - joint_energy(mixed, row.tolist(), h)
        for row in v for h in itertools.product((0, 1), repeat=3)
    ]  # fmt: skip
    assert max(found) - min(found) < 1e-12


@pytest.mark.quick("block_gibbs")
@pytest.mark.parametrize("sampler", ["block_gibbs", "gibbs_langevin"])
def test_annealing_finds_log_z(sampler):
    """From its own path; RAISE beside the exact likelihood of the same rows."""
    model = machine(hidden=5)
    data = small_data(model.space, 60)
    kernel = component("sampler", sampler)
    about = Subject(model.float(), data, "test", kernel, torch.empty(0), stream(0, "subject"))
    changes = {"chains": 500, "temperatures": 200, "raise_points": 50, "raise_chains": 4}
    found = component("evaluation", "ais", **changes).evaluate(about).metrics
    log_z = enumeration.log_z(model.double()).item()
    likelihood = enumeration.log_likelihood(model, data.test.all().double()).mean().item()
    assert found["ais/log_z"] == pytest.approx(log_z, abs=0.1)
    assert found["raise/log_likelihood"] == pytest.approx(likelihood, abs=0.3)


def test_the_path_begins_at_its_base_and_ends_at_the_model():
    model = machine()
    base = randomised(component("model", "exponential_family").build(Real((2,)), torch.zeros(2), stream(0)), 3)
    path = MixtureRBMPath(base, model, component("sampler", "block_gibbs"))
    state = path.observe(rng.normal((6, 2), stream(0, "x"), dtype=torch.float64))
    assert path.log_z_base == pytest.approx(base.log_z().item() + 3 * math.log(2))
    assert_close(path.log_base(state) + path.log_ratio(state, 1.0, 0.0), -model.energy(state.x), **EXACT)


def test_a_machine_starts_at_the_mean_with_its_spread():
    model = component("model", "gaussian_rbm", spread=0.7, min_spread=0.2).build(
        Real((3,)), torch.tensor([1.0, -2.0, 0.5]), stream(0, "model")
    )
    assert model.b.tolist() == [1.0, -2.0, 0.5]
    assert_close(model.precision().detach(), torch.full((3,), 1 / 0.49))
    with torch.no_grad():
        model.r.fill_(-50)
    assert_close(model.precision().detach(), torch.full((3,), 25.0))
    with pytest.raises(UserError, match=r"model.min_spread = 1.0: must be below model.spread = 1.0"):
        component("model", "gaussian_rbm", spread=1.0, min_spread=1.0).build(Real((3,)), torch.zeros(3), stream(0))


def test_a_machine_too_large_or_too_warm_is_refused():
    def build(hidden):
        return component("model", "gaussian_rbm", hidden=hidden).build(Real((2,)), torch.zeros(2), stream(0))

    assert enumeration.refusal(build(20)) is None
    assert enumeration.refusal(build(21)) == "21 hidden units, enumeration goes to 20"
    sampler = component("sampler", "parallel_tempering", kernel={"name": "block_gibbs", "backwards": False})
    with pytest.raises(UserError, match="cannot draw the blocks of model=gaussian_rbm at other temperatures"):
        checks.check_sampler(
            sampler, component("model", "gaussian_rbm"), dict.fromkeys(("sampler", "model"), "gaussian_rbm")
        )
    with pytest.raises(UserError, match="wants a Gaussian-Bernoulli and real model, model=mlp is not"):
        checks.check_sampler(
            component("sampler", "gibbs_langevin"), component("model", "mlp"), {"sampler": "x", "model": "mlp"}
        )


@pytest.mark.long
def test_a_machine_on_the_plane_from_the_command_line(tmp_path, monkeypatch):
    """Its exact likelihood is that of the grid."""
    monkeypatch.chdir(tmp_path)
    answer = ebm(
        "train model=gaussian_rbm model.hidden=6 dataset=points_2d dataset.kind=gaussians8 dataset.train=500 "
        "dataset.held_out=100 steps=30 batch_size=50 tracker=none hydra.run.dir=run device=cpu "
        "evaluation=[exact_if_possible,density_2d] evaluation.density_2d.side=300"
    )
    assert answer.code == 0, answer.err
    found = facts(Path("run"), "summary.json")
    assert found["exact/log_likelihood"] == pytest.approx(found["density_2d/log_likelihood"], abs=1e-3)
    assert found["exact/log_z"] == pytest.approx(found["density_2d/log_z"], abs=1e-3)
    assert ebm("sample run=run n=5 steps=3 sampler=gibbs_langevin").code == 0


# Products over scales


def test_a_product_over_scales_is_the_sum_over_networks():
    """Of pixels averaged by plain loops; 5 x 7 pixels leave parts of squares at the far edges."""
    space = Box((5, 7), -1.0, 1.0)
    model = small_model("multiscale", space, scales=3)
    x = space.noise(4, stream(0, "x")).double()
    total = torch.zeros(4, dtype=torch.float64)
    for r, expert in enumerate(model.experts):
        side = 2**r
        rows = [[x[:, i : i + side, j : j + side].mean((1, 2)) for j in range(0, 7, side)] for i in range(0, 5, side)]
        image = torch.stack([torch.stack(row, 1) for row in rows], 1)
        total += expert.energy(image)
    assert_close(model.energy(x).detach(), total.detach(), **EXACT)
    assert len({p.sum().item() for expert in model.experts for p in [expert.last.weight]}) == 3


def test_colours_are_averaged_apart():
    x = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    assert_close(pooled(x, 2)[:, :, 0, 1], x[:, :, :2, 2:].mean((2, 3)))
    assert pooled(x, 1) is x


@pytest.mark.parametrize(("shape", "most"), [((4, 9), 3), ((3, 28, 28), 5), ((1, 7), 1)])
def test_no_more_scales_than_pixels(shape, most):
    def build(scales):
        return component("model", "multiscale", scales=scales).build(Box(shape), torch.zeros(shape), stream(0))

    assert len(build(most).experts) == most
    with pytest.raises(UserError, match=rf"model.scales = {most + 1}: .* set it to at most {most}$"):
        build(most + 1)


def test_the_networks_of_all_scales_start_apart():
    model = component("model", "multiscale").build(Box((8, 8)), torch.zeros(8, 8), stream(0))
    first = [expert.convolutions.layers[0].weight for expert in model.experts]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(first, 2))


# Residual networks


KINDS = {"plain": {}, "spectral": {"spectral_norm": True}, "attention": {"attention": True},
         "both": {"spectral_norm": True, "attention": True}}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)


def network(kind: str, shape=(6, 6), widths=(3, 4, 4)) -> ImageResNet:
    """A small one in float64 as it starts, but for the scale of attention."""
    space = Box(shape, -1.0, 1.0)
    spec = component("model", "resnet", widths=list(widths), **KINDS[kind])
    model = spec.build(space, torch.zeros(shape), stream(0, "model")).double()
    for module in model.modules():
        if isinstance(module, Attention):
            torch.nn.init.constant_(module.scale, 0.8)
    return model


def images(model: EnergyModel, n=5):
    return model.space.noise(n, stream(0, "x")).double()


def vectors(model):
    """The vectors of the spectral norms, by name."""
    return {name: value.clone() for name, value in model.named_buffers()}


@kinds
@pytest.mark.parametrize("shape", [(28, 28), (3, 9, 12), (2, 2)])
def test_a_network_takes_images_of_any_size(kind, shape):
    model = network(kind, shape)
    assert model.energy(images(model)).shape == (5,)
    spec = component("model", "resnet", widths=[3, 4, 4])
    numbers = sum(p.numel() for p in network("plain", shape).parameters())
    assert 0.8 * numbers < spec.parameters(model.space) < 1.3 * numbers


def test_images_alone():
    with pytest.raises(UserError, match=r"model.name = resnet: takes images, the data have shape 5"):
        component("model", "resnet").build(Box((5,)), torch.zeros(5), stream(0))


def test_the_energy_is_linear_in_the_sums_over_pixels():
    model = network("plain")
    x = images(model)
    features = model.blocks(model.first(2 * model.space.brightness(x)[:, None] - 1))
    assert features.shape == (5, 4, 2, 2)
    assert_close(model.energy(x), features.flatten(2).sum(2) @ model.last.weight[0], **EXACT)


@pytest.mark.quick("plain")
@kinds
def test_a_network_can_be_differentiated_twice(kind):
    model = network(kind, (3, 4), (2, 2))
    x = images(model, 2).requires_grad_()
    assert torch.autograd.gradcheck(model.energy, x)
    assert torch.autograd.gradgradcheck(model.energy, x)


@pytest.mark.long
@pytest.mark.quick("spectral")
@pytest.mark.parametrize("kind", ["spectral", "both"])
def test_weights_have_spectral_norm_one(kind):
    """After many power iterations; at the start within the error of the 15 that were made."""
    model = network(kind)
    for times, error in ((0, 0.1), (300, 1e-6)):
        iterate(model, times)
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(1, abs=error), name


def test_one_power_iteration_for_each_gradient():
    """v <- W^T u, u <- W v in turn, each of length one, as Miyato et al. 2018, alg. 1, with u from W and the old v."""
    model = network("both")
    before = vectors(model)
    energy, pull = model.energy_vjp(images(model))
    after = vectors(model)
    assert len(before) == 2 * 13  # first, blocks of 3, 3 and 2 convolutions, attention, last
    for name in [name for name in before if name.endswith("_u")]:
        layer = model.get_submodule(name.removesuffix(".parametrizations.weight.0._u"))
        W, v = layer.parametrizations.weight.original.detach().flatten(1), before[f"{name[:-1]}v"]
        u = F.normalize(W @ v, dim=0)
        assert_close(after[name], u, **EXACT)
        assert_close(after[f"{name[:-1]}v"], F.normalize(W.T @ u, dim=0), **EXACT)
        assert not torch.equal(before[name], after[name]) or len(u) == 1
    weight = torch.tensor([0.5, -1.0, 0.2, 0.0, 2.0], dtype=torch.float64)
    expected = torch.autograd.grad(model.energy(images(model)) @ weight, [*model.parameters()])
    assert_close(energy, model.energy(images(model)).detach(), **EXACT)
    for value, grad in zip(pull(weight).values(), expected, strict=True):
        assert_close(value, grad, rtol=1e-9, atol=1e-12)


def test_chains_move_on_one_energy():
    """Nothing but a gradient of the parameters moves the vectors, so E is the same function in between."""
    model = network("both")
    x, before = images(model), vectors(model)
    energies = [model.energy(x) for _ in range(3)]
    run(component("sampler", "langevin"), model, x, 5, stream(0, "kernel"))
    assert all(torch.equal(energy, model.energy(x)) for energy in energies)
    assert all(torch.equal(before[name], value) for name, value in vectors(model).items())
    assert not any(module.training for module in model.modules())


def test_spectral_norms_start_from_their_key():
    """Whatever the state of torch's generator."""

    def build(seed, key):
        torch.manual_seed(seed)  # noqa: TID251
        spec = component("model", "resnet", spectral_norm=True)
        return vectors(spec.build(Box((8, 8)), torch.zeros(8, 8), stream(key, "model")))

    a, b, c = build(0, 0), build(1, 0), build(0, 1)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a if len(a[name]) > 1)


def test_attention_is_a_weighted_mean_over_pixels():
    """In plain loops; where it starts it changes nothing."""
    layer = randomised(_Attention(16), 2).layer
    x = rng.normal((2, 16, 2, 3), stream(0, "x"), dtype=torch.float64)
    pixels = x.flatten(2)
    q, k, v = (part(x).flatten(2).detach() for part in (layer.query, layer.key, layer.value))
    expected = pixels.clone()
    for n, i in itertools.product(range(2), range(6)):
        weight = [math.exp((q[n, :, i] @ k[n, :, j]).item() / math.sqrt(2)) for j in range(6)]
        mean = sum(w * v[n, :, j] for j, w in enumerate(weight)) / sum(weight)
        expected[n, :, i] += layer.scale.item() * mean
    assert_close(layer(x).detach(), expected.reshape(x.shape), **EXACT)
    assert torch.equal(Attention(16).double()(x), x)


class _Attention(EnergyModel):
    """Attention as a model, to be randomised as one."""

    def __init__(self, width):
        super().__init__()
        self.layer = Attention(width)

    def energy(self, x):
        return self.layer(x).flatten(1).sum(1)


def test_attention_stands_in_the_middle():
    order = [type(module).__name__ for module in network("attention", widths=(2, 2, 2)).blocks]
    assert order == ["Block", "Block", "Attention", "Block"]
    assert [b.second.out_channels for b in network("plain", widths=(2, 3, 5)).blocks] == [2, 3, 5]


SMALL_RUN = (
    "train model=resnet model.widths=[4,4] model.spectral_norm=true model.attention=true dataset=digits "
    "objective=ml_replay chains.size=30 chains.steps=2 optimizer=adam optimizer.ema=0.9 batch_size=10 steps=12 "
    "save_every=4 eval_every=3 log_every=1 tracker=none device=cpu evaluation=[samples] evaluation.samples.count=4 "
    "evaluation.samples.steps=2 evaluation.samples.while_training=true"
)


@pytest.mark.long
def test_a_killed_network_with_spectral_norms_resumes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ebm(f"{SMALL_RUN} hydra.run.dir=whole")
    assert answer.code == 0, answer.err
    with monkeypatch.context() as patch:
        at_step(patch, 7, die)
        with pytest.raises(Killed):
            ebm(f"{SMALL_RUN} hydra.run.dir=parts")
    assert ebm("train resume=parts").code == 0
    assert outcome(Path("parts")) == outcome(Path("whole"))


def test_images_too_small_are_refused_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ebm("train model=multiscale model.scales=5 dataset=digits tracker=none hydra.run.dir=run")
    assert_refused(answer, "model.scales = 5", "8x8", "at most 4")
