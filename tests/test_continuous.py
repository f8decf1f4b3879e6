"""Samplers and densities on real numbers."""

import math
from functools import partial

import pytest
import torch
from helpers.cli import ebm
from helpers.components import SIGMAS, component
from helpers.models import small_model
from helpers.statistics import assert_close, assert_mean

from ebm_cli import rng
from ebm_cli.dataset import density
from ebm_cli.dataset.density import KINDS
from ebm_cli.evaluation.density_2d import Cells, compared
from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.model.exponential_family import GaussianProduct
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Real


class Bent(Normalised):
    """E(x, y) = exp(x) - 3 x + (y - x^2 / 2)^2 / 2: skew and bent; exp(x) is Gamma(3), y normal around x^2 / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.space = Real((2,))

    def energy(self, x):
        a, b = x.unbind(1)
        return a.exp() - 3 * a + (b - a.square() / 2).square() / 2

    def log_z(self):
        return torch.tensor(math.log(2) + math.log(2 * math.pi) / 2)

    def sample(self, n, key):
        exponentials = -torch.log1p(-rng.uniform((n, 3), key.fold("gamma"), dtype=torch.float64))
        a = exponentials.sum(1).log()
        return torch.stack([a, a.square() / 2 + rng.normal((n,), key.fold("normal"), dtype=torch.float64)], 1)


def square(side, reach):
    return Cells((-reach, -reach), (reach, reach), side)


KERNELS = {
    "mala": component("sampler", "mala", step_size=0.3),
    "hmc": component("sampler", "hmc", step_size=0.4, leapfrog=4),
    "underdamped": component("sampler", "underdamped", step_size=0.4, leapfrog=4),
    "nuts": component("sampler", "nuts", step_size=0.4, max_depth=3),
    "metropolis": component("sampler", "metropolis", step_size=0.8),
}


def moments(x):
    """Functions of a state whose means are compared: skew ones, bent ones, and of the tails."""
    a, b = x.unbind(1)
    return {"a": a, "b": b, "a2": a * a, "a3": a**3, "b2": b * b, "ab": a * b, "a2b": a * a * b, "exp": a.exp()}


def test_without_friction_it_is_hamiltonian():
    model, x = Bent(), Bent().sample(50, stream(0, "exact"))
    moves = [
        run(component("sampler", name, step_size=0.2, **more), model, x, 1, stream(2))
        for name, more in (("hmc", {}), ("underdamped", {"friction": 0.0}))
    ]
    assert torch.equal(moves[0][1]["acceptance"], moves[1][1]["acceptance"])
    assert_close(moves[0][0], moves[1][0])


def test_friction_makes_momenta_fade():
    """Where nothing pulls, x moves by e r each step; r has the correlation c^2 = exp(-friction e) from one to the next,
    so that |x' - x|^2 is e^2 sum_ij c^(2 |i - j|) in each coordinate."""
    flat, n, e, steps, friction = small_model("exponential_family", Real((1,))), 20_000, 0.5, 4, 2.0
    with torch.no_grad():
        flat.r.fill_(-40.0)
    x = torch.zeros(n, 1, dtype=torch.float64)
    sampler = component("sampler", "underdamped", step_size=e, leapfrog=steps, friction=friction)
    y, _ = run(sampler, flat, x, 1, stream(0, "free"))
    expected = e**2 * sum(math.exp(-friction * e * abs(i - j)) for i in range(steps) for j in range(steps))
    assert_mean(y.square().flatten(), expected)


@pytest.mark.quick("metropolis")
@pytest.mark.parametrize("name", KERNELS)
def test_leaves_a_bent_target_invariant(name):
    """Exact draws after 10 steps, beside as many that never moved: the mean of each function changes by chance alone.

    The functions of one chain before and after are correlated, so the test is of their differences.
    """
    model = Bent()
    x = model.sample(100_000, stream(0, "exact"))
    y, info = run(KERNELS[name], model, x, 10, stream(0, "kernel"))
    assert 0.3 < info["acceptance"].mean() < 0.98
    after, before = moments(y), moments(x)
    for function in after:
        assert_mean(after[function] - before[function], 0.0)


def test_the_bent_target_is_what_it_says():
    """Its samples by its density: mean of exp(x) is 3, of y^2 by the moments of log Gamma(3)."""
    x = Bent().sample(400_000, stream(1, "exact"))
    assert_mean(x[:, 0].exp(), 3.0)
    cells = square(600, 14.0)
    points = cells.centres()
    mass = (-Bent().energy(points.double())).exp() * cells.area
    assert mass.sum().log().item() == pytest.approx(Bent().log_z().item(), abs=1e-3)
    for name, values in moments(points.double()).items():
        assert_mean(moments(x)[name], ((values * mass).nan_to_num(0.0).sum() / mass.sum()).item())


@pytest.mark.long
@pytest.mark.quick("0.3")
@pytest.mark.parametrize("noise", [None, 0.3])
def test_langevin_has_the_variance_of_its_steps(noise):
    """On a Gaussian of precision l: x' = (1 - s l) x + sigma z, stationary at variance sigma^2 / (1 - (1 - s l)^2)."""
    model = GaussianProduct(Real((2,)), torch.tensor([0.0, 1.0])).double()
    with torch.no_grad():
        model.r.copy_(torch.tensor([0.0, 1.0]))
    sampler = component("sampler", "langevin", step_size=0.2, noise=noise)
    start = model.m.detach().repeat(100_000, 1)
    x, _ = run(sampler, model, start, 60, stream(0, "langevin"))
    shrunk = 1 - 0.2 * model.r.detach().exp()
    variance = sampler.rates(0)[1] ** 2 / (1 - shrunk**2)
    for i in range(2):
        assert_mean((x[:, i] - model.m[i].item()).square() / variance[i], 1.0)
    assert sampler.temperature(*sampler.rates(0)) == pytest.approx(1.0 if noise is None else 0.09 / 0.4)


def test_a_clipped_gradient_moves_no_further():
    model = GaussianProduct(Real((2,)), torch.zeros(2))
    sampler = component("sampler", "langevin", step_size=2.0, noise=0.0, clip=0.03)
    x = torch.tensor([[5.0, -0.01]])
    moved = run(sampler, model, x, 1, stream(0, "clip"))[0] - x
    assert torch.allclose(moved, torch.tensor([[-0.06, 0.02]]))


def test_what_langevin_says_of_itself():
    assert component("sampler", "langevin").remark() is None
    for step_size, noise in ((0.01, 0.1414), (0.03, math.sqrt(0.06)), (0.5, 1.0)):
        assert component("sampler", "langevin", step_size=step_size, noise=noise).remark() is None
    assert "temperature 1.01" in component("sampler", "langevin", step_size=0.01, noise=0.1421).remark()
    said = component("sampler", "langevin", step_size=10.0, noise=0.005, clip=0.03).remark()
    assert "temperature 1.25e-06" in said
    assert component("sampler", "gwg").remark() is None


# Densities of the plane


@pytest.mark.quick("checkerboard", "moons")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=pytest.mark.long) if k not in ("rings", "pinwheel", "checkerboard", "moons") else k
        for k in KINDS
    ],
)
def test_a_density_is_normalised_and_its_samples_follow_it(kind):
    """Its integral by a grid; shares of the samples in coarse cells; the mean of log p is minus the entropy."""
    truth = KINDS[kind]()
    cells = square(300, 1.5 * truth.reach)
    x = cells.centres()
    p = truth.log_prob(x.double()).exp() * cells.area
    assert p.sum().item() == pytest.approx(1, abs=5e-3)
    samples = truth.sample(20_000, stream(0, kind))
    coarse = lambda points: ((points / (1.5 * truth.reach) + 1) * 5).floor().clamp(0, 9) @ torch.tensor([1.0, 10.0])  # noqa: E731
    shares = torch.bincount(coarse(samples).long(), minlength=100) / len(samples)
    expected = torch.bincount(coarse(x).long(), p, minlength=100)
    error = (expected * (1 - expected) / len(samples)).sqrt() + 1e-4 + 0.02 * expected
    assert ((shares - expected).abs() < SIGMAS * error).all()
    if kind == "checkerboard":
        assert torch.allclose(
            truth.log_prob(samples.double()), torch.tensor(-math.log(8 * 1.5**2), dtype=torch.float64)
        )
    else:
        assert_mean(truth.log_prob(samples.double()), (p * truth.log_prob(x.double())).sum().item())


def test_the_modes_of_25_gaussians():
    modes = density.gaussians25().modes
    assert len(modes) == 25
    assert torch.pdist(modes).min() == pytest.approx(6 * 0.25)


def test_divergence_and_modes_of_a_known_difference():
    """Of two Gaussians with one of them half as heavy: KL and the error of its mass in closed form."""
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    truth = density.Gaussians(centres, 0.3, 4.0, centres)
    x = square(400, 6.0).centres()
    one, other = (-(x.double() - c).square().sum(1) / (2 * 0.09) for c in centres)
    log_p = torch.logsumexp(torch.stack([one + math.log(2 / 3), other + math.log(1 / 3)]), 0).log_softmax(0)
    found = compared(truth, x, log_p)
    assert found["kl"] == pytest.approx(0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3)), abs=1e-6)
    assert found["mode_error"] == pytest.approx(1 / 3, abs=1e-6)
    same = compared(truth, x, truth.log_prob(x.double()).log_softmax(0))
    assert same["kl"] == pytest.approx(0, abs=1e-9)
    assert same["mode_error"] == pytest.approx(0, abs=1e-9)


# Models


def test_a_perceptron_starts_at_its_gaussian():
    model = component("model", "mlp", widths=[8, 8], spread=2.0).build(
        Real((2,)), torch.tensor([1.0, -1.0]), stream(0, "model")
    )
    x = torch.tensor([[1.0, -1.0], [3.0, -1.0], [1.0, 3.0]])
    assert torch.allclose(model.energy(x), torch.tensor([0.0, 0.5, 2.0]))
    free = component("model", "mlp", widths=[8], spread=None).build(Real((2,)), torch.zeros(2), stream(0, "model"))
    assert free.energy(x).tolist() == [0, 0, 0]


def test_the_energy_of_an_autoencoder_is_its_error():
    """Of what it gives back for each row; it begins as the Gaussian beside it."""
    model = small_model("autoencoder", Real((3,)), spread=1.0)
    x = rng.normal((5, 3), stream(0, "x"), dtype=torch.float64)
    error = (x - model.features(x)["reconstruction"]).square().sum(1) / 2
    beside = (x - model.mean).square().sum(1) / 2 - x.square().sum(1) / 2
    assert_close(model.energy(x), error + beside, rtol=1e-12, atol=1e-13)
    start = component("model", "autoencoder", spread=2.0).build(Real((2,)), torch.tensor([1.0, -1.0]), stream(0, "m"))
    assert torch.allclose(start.energy(torch.tensor([[1.0, -1.0], [3.0, -1.0]])), torch.tensor([0.0, 0.5]))


@pytest.mark.parametrize("name", ["mlp", "autoencoder"])
@pytest.mark.parametrize(("scale", "spread"), [(1.0, 2.0), (3.0, None), (3.0, 2.0)])
def test_gradients_of_a_perceptron(name, scale, spread):
    """In x and in the parameters: those of automatic differentiation."""
    model = small_model(name, Real((2,)), input_scale=scale, spread=spread)
    assert all(p.abs().sum() > 0 for p in model.parameters())
    x, weight = rng.normal((5, 2), stream(0, "x"), dtype=torch.float64), torch.arange(5.0, dtype=torch.float64)
    for found, expected in zip(model.energy_and_grad(x), EnergyModel.energy_and_grad(model, x), strict=True):
        assert_close(found, expected, rtol=1e-12, atol=1e-13)
    grads, others = (form(x)[1](weight) for form in (model.energy_vjp, partial(EnergyModel.energy_vjp, model)))
    assert [*grads] == [*others]
    for name, grad in grads.items():
        assert_close(grad, others[name], rtol=1e-12, atol=1e-13)


# From the command line


@pytest.mark.long
def test_a_run_on_the_plane(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ebm(
        "train experiment=toy_2d dataset.kind=gaussians8 dataset.train=500 dataset.held_out=100 steps=20 batch_size=50 "
        "tracker=none hydra.run.dir=run model.widths=[8] evaluation=[density_2d] evaluation.density_2d.side=50"
    )
    assert answer.code == 0, answer.err
    assert "density_2d/kl" in answer.out
    assert (tmp_path / "run" / "samples" / "density_2d.png").exists()
    assert ebm("sample run=run n=5 steps=10 sampler=hmc sampler.adapt=0.65").code == 0
    assert "temperature 0.5" in ebm("sample run=run n=5 steps=3 sampler=langevin sampler.noise=0.1").err


def test_an_annealed_run_goes_to_its_final_step_and_noise():
    """Geometrically over four steps, where it stays; tied noise follows the step."""
    keys = {"step_size": 0.16, "noise": 0.1, "anneal": 4, "final_step_size": 0.01, "final_noise": 0.2}
    sampler = component("sampler", "langevin", **keys)
    rates = [tuple(map(float, sampler.rates(n))) for n in range(6)]
    assert [s for s, _ in rates] == pytest.approx([0.16, 0.08, 0.04, 0.02, 0.01, 0.01])
    assert [sigma for _, sigma in rates] == pytest.approx([0.1 * 2 ** (min(n, 4) / 4) for n in range(6)])
    tied = component("sampler", "langevin", step_size=0.16, anneal=4, final_step_size=0.01)
    assert float(tied.rates(2)[1]) == pytest.approx((2 * 0.04) ** 0.5)
    assert "temperature 2" in sampler.remark()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"final_step_size": 0.1}, "sampler.anneal = 0: "),
        ({"anneal": 5}, "sampler.anneal = 5: "),
        ({"anneal": 5, "final_noise": 0.1}, "sampler.final_noise = 0.1: "),
    ],
)
def test_a_schedule_without_length_or_end_is_refused(keys, said):
    assert component("sampler", "langevin", **keys).refusal(Real((2,))).startswith(said)
