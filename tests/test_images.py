"""Images in a box: dequantisation, chains that stay within, transforms, the KL term, and long runs."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from helpers.cli import ebm
from helpers.components import component, shipped
from helpers.models import small_model
from helpers.statistics import assert_mean
from helpers.training import small_run
from torch.testing import assert_close

from ebm_cli import rng
from ebm_cli.dataset.base import Arrays, GreyDataset, Raw
from ebm_cli.errors import RunError, UserError
from ebm_cli.evaluation.long_run import Film, Yardstick, measured, with_noise
from ebm_cli.model.base import EnergyModel
from ebm_cli.objective.base import Tail
from ebm_cli.objective.kl import kl_gradient, log_nearest
from ebm_cli.rng import stream
from ebm_cli.sampler.augmentation import TRANSFORMS, Strengths
from ebm_cli.sampler.base import followed, run
from ebm_cli.sampler.reflection import rebound
from ebm_cli.space import Binary, Box, Categorical, Real
from ebm_cli.training.step import check, train_step
from ebm_cli.yardstick import classifier
from ebm_cli.yardstick.classifier import judge
from ebm_cli.yardstick.features import frechet, kernel_distance

BOX = Box((2,), -1.0, 2.0)


# Boxes


def test_a_box():
    x = torch.tensor([[-1.0, 2.0], [0.0, 2.1], [-1.5, 0.0]])
    assert [BOX.contains(row[None]) for row in x] == [True, False, False]
    assert BOX.nearest(x).tolist() == [[-1, 2], [0, 2], [-1, 0]]
    assert BOX.allowed(torch.zeros(3), x).tolist() == [0, -math.inf, -math.inf]
    assert BOX.brightness(x[:1]).tolist() == [[0, 1]]
    assert BOX.of_unit(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0.5, 2]
    noise = BOX.noise(20_000, stream(0)).double()
    assert BOX.contains(noise)
    assert_mean(noise[:, 0], 0.5)
    assert_mean((noise[:, 0] - 0.5).square(), 9 / 12)


class Slope(EnergyModel):
    """E(x) = a.x, whose density on a box is a product of truncated exponentials."""

    def __init__(self, space, a):
        super().__init__()
        self.space, self.a = space, torch.nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def energy(self, x):
        return x.flatten(1) @ self.a


@pytest.mark.parametrize("name", ["metropolis", "mala", "hmc"])
def test_chains_in_a_box_have_its_truncated_density(name):
    """Exact draws by inversion stay what they are; moments of exp(-a x) on [-1, 2] in closed form."""
    a = torch.tensor([1.0, -2.5], dtype=torch.float64)
    u = rng.uniform((20_000, 2), stream(0, "draws"), dtype=torch.float64)
    x = BOX.low - torch.log1p(-u * (1 - torch.exp(-3 * a))) / a
    end, info = run(
        component("sampler", name, step_size=0.5 if name == "metropolis" else 0.05),
        Slope(BOX, a.tolist()),
        x,
        20,
        stream(1),
    )
    assert BOX.contains(end)
    assert 0.2 < info["acceptance"].mean() < 0.99
    mean, beyond = BOX.low + 1 / a - 3 / torch.expm1(3 * a), 1 - torch.expm1(-2 * a) / torch.expm1(-3 * a)
    for i in range(2):
        assert_mean(end[:, i], mean[i].item())
        assert_mean((end[:, i] > 1).double(), beyond[i].item())


class Waves(EnergyModel):
    """E(x, y) = 2 sin(3 x y) - y^2 on the box: steep at its walls, and no gradient is like another."""

    space = BOX

    def energy(self, x):
        a, b = x.unbind(1)
        return 2 * (3 * a * b).sin() - b.square()

    def sample(self, n):
        """Exact draws, from even ones by rejection: E > -2 - 4."""
        x = BOX.noise(n, stream(0, "even")).double()
        u = rng.uniform((n,), stream(0, "kept"), dtype=torch.float64)
        return x[u < (-6 - self.energy(x)).exp()]


REFLECTED = [
    ("metropolis", {"step_size": 0.3}),
    ("metropolis", {"step_size": 4.0}),
    ("mala", {"step_size": 0.02}),
    ("mala", {"step_size": 1.0}),
    ("mala", {"step_size": 1.0, "decades": 3.0}),
    ("hmc", {"step_size": 0.15, "leapfrog": 3}),
    ("hmc", {"step_size": 1.0, "leapfrog": 2}),
]


@pytest.mark.parametrize(("name", "keys"), REFLECTED)
def test_what_walls_throw_back_leaves_the_model_invariant(name, keys):
    """Exact draws after 5 steps, which cross a wall or many: means change by chance alone, near the walls too."""
    model = Waves()
    x = model.sample(2_000_000)
    y, info = run(component("sampler", name, **keys), model, x, 5, stream(1))
    assert len(x) > 20_000
    assert BOX.contains(y)
    assert info["acceptance"].mean() > 0.01
    for f in (
        lambda x: x,
        lambda x: x.square(),
        lambda x: x.prod(1, keepdim=True),
        lambda x: (x < -0.9).double(),
        lambda x: (x > 1.9).double(),
    ):
        for change in (f(y) - f(x)).unbind(1):
            assert_mean(change, 0.0)


@pytest.mark.parametrize("name", ["metropolis", "mala", "hmc"])
def test_chains_in_a_box_of_many_pixels_move_at_the_shipped_step_size(name):
    """One of 64 coordinates is beyond a wall in all but a few proposals; that rejects none of them."""
    space = Box((64,))
    _, info = run(
        component("sampler", name), Slope(space, [1.0, -1.0] * 32), space.noise(50, stream(0)).double(), 20, stream(1)
    )
    assert info["acceptance"].mean() > 0.3


def test_ways_are_reflected_as_often_as_they_meet_a_wall():
    x = torch.tensor([[-1.5, 2.5], [-4.5, 6.0], [0.25, 5.5], [-1.0, 2.0]])
    end, way = rebound(BOX, x, torch.ones_like(x))
    assert_close(end, torch.tensor([[-0.5, 1.5], [1.5, 0.0], [0.25, -0.5], [-1.0, 2.0]]), rtol=0, atol=1e-6)
    assert way.tolist() == [[-1, -1], [1, 1], [1, 1], [1, 1]]
    there = 3 * rng.normal((1000, 2), stream(0), dtype=torch.float64)
    start = BOX.noise(1000, stream(1)).double()
    end, way = rebound(BOX, start + there, there)
    back, returned = rebound(BOX, end - way, -way)
    assert BOX.contains(end)
    assert_close(back, start)
    assert_close(returned, -there)


def test_langevin_stays_in_the_box():
    start = BOX.noise(50, stream(0)).double()
    x, _ = run(component("sampler", "langevin", step_size=1.0), Slope(BOX, [3.0, -3.0]), start, 5, stream(1))
    assert BOX.contains(x)
    assert ((x == -1) | (x == 2)).any()


# Levels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grey(GreyDataset):
    """Four levels, as floats."""

    values = "grey"

    def read(self):
        part = Arrays(np.tile(np.arange(4, dtype=np.float32) / 3, (3000, 1)))
        return Raw("grey", part, None, part, categories=4)


def grey(**keys):
    settings = {"binarize": "auto", "box": "unit", "dequantise": True, "noise": 0.0}
    return Grey(**settings | keys)


@pytest.mark.parametrize(("box", "low"), [("unit", 0.0), ("symmetric", -1.0)])
def test_levels_are_spread_evenly_over_their_share_of_the_box(box, low):
    data = grey(box=box).load((Box,))
    assert data.space == Box((4,), low, 1.0)
    x = ((data.train.all() - low) / (1 - low)).double()
    for level in range(4):
        assert (x[:, level] * 4).floor().unique().tolist() == [level]
        assert_mean(x[:, level], (level + 0.5) / 4)
        assert_mean((x[:, level] - (level + 0.5) / 4).square(), 1 / 16 / 12)
    mean = low + (1 - low) * (torch.arange(4) + 0.5) / 4
    assert_close(data.train.mean(), mean)
    assert torch.equal(data.train.all(), data.train.all())
    index = torch.arange(5)
    assert not torch.equal(*(data.train.rows(index, stream(seed)) for seed in (0, 1)))


def test_noise_is_added_and_kept_within():
    x = grey(dequantise=False, noise=0.1).load((Box,)).train.all().double()
    assert x.min() == 0
    assert x.max() == 1
    assert_mean(x[:, 1], 1 / 3)  # what is cut off below, 3 standard deviations away, is 4e-5
    assert x[:, 1].std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(grey(dequantise=False).load((Box,)).train.all()[0], torch.arange(4) / 3)


def test_levels_are_spread_for_models_of_real_numbers_too():
    """Else the density of a level is a point's, which has no bound."""
    data = grey(noise=0.05).load((Real,))
    x = data.train.all().double()
    for level in range(4):
        assert_mean(x[:, level], (level + 0.5) / 4)
        assert_mean((x[:, level] - (level + 0.5) / 4).square(), 1 / 16 / 12 + 0.05**2)
    assert_close(data.train.mean(), (torch.arange(4) + 0.5) / 4)
    assert data.describe().startswith("4 real, 4 levels spread evenly, noise 0.05; 3000 rows")
    assert torch.equal(grey(dequantise=False).load((Real,)).train.all()[0], torch.arange(4) / 3)


def test_noise_is_added_to_numbers_of_any_size(tmp_path):
    np.savez(tmp_path / "x.npz", train=np.tile([[-40.0, 7.0]], (4000, 1)))
    x = component("dataset", "npz", path=str(tmp_path / "x.npz"), noise=0.5).load((Real,)).train.all().double()
    assert_mean(x[:, 0], -40)
    assert_mean((x[:, 1] - 7).square(), 0.25)


def test_levels_nobody_knows_are_refused():
    data = component("dataset", "npz", path="x.npz", dequantise=True)
    part = Arrays(np.zeros((3, 2), np.float32))
    with pytest.raises(UserError, match=r"^dataset.dequantise = true: "):
        _read(data, Raw("grey", part, part, part)).load((Box,))


def _read(data, raw):
    """The dataset as if it had read that."""
    keys = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    return type("Read", (type(data),), {"read": lambda _: raw})(**keys)


def test_models_without_a_box_get_what_they_take():
    assert grey().load((Real,)).space == Real((4,))
    assert grey().load((Categorical,)).space == Categorical((4, 4))
    assert isinstance(grey(binarize="threshold").load((Binary,)).space, Binary)


# Transforms


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_transform_is_an_images_own(name):
    """A function of its key, different for each image, the same alone as among others, and none at strength near 0."""
    image = rng.uniform((6, 3, 8, 8), stream(0, "image"))
    strong, weak = Strengths(0.3, 0.5, 1.0, 0.5, 0.1), Strengths(1e-7, 1e-7, 1e-2, 1e-7, 1e-7)
    found = TRANSFORMS[name](image, strong, stream(1))
    assert (found - image).abs().flatten(1).amax(1).min() > 0.01
    assert torch.equal(found, TRANSFORMS[name](image, strong, stream(1)))
    assert_close(TRANSFORMS[name](image[2:4], strong, stream(1).at_row(2)), found[2:4])
    same = image[:1].expand(6, -1, -1, -1)
    assert len(TRANSFORMS[name](same, strong, stream(1)).flatten(1).unique(dim=0)) == 6
    assert_close(TRANSFORMS[name](image, weak, stream(1)), image, atol=1e-4, rtol=0)


def test_a_shift_is_a_share_of_the_side():
    """A bright pixel moves by at most 2 of 8 pixels and on average by none."""
    image = torch.zeros(4000, 1, 9, 9)
    image[:, :, 4, 4] = 1
    found = TRANSFORMS["shift"](image, Strengths(2 / 9, 0, 0, 0, 0), stream(0)).double()
    place = torch.arange(9) - 4.0
    moved = (found.sum((1, 2)) * place).sum(1)
    assert moved.abs().max() <= 2 + 1e-6
    assert_mean(moved, 0.0)
    assert_mean(moved.square(), 4 / 3)


def test_rescaling_is_symmetric_in_its_logarithm():
    image = torch.zeros(2000, 1, 33, 33)
    image[:, :, 12:21, 12:21] = 1
    area = TRANSFORMS["rescale"](image, Strengths(0, 0.5, 0, 0, 0), stream(0)).sum((1, 2, 3)).double() / 81
    assert area.min() > 1 / 1.5**2 * 0.9
    assert area.max() < 1.5**2 * 1.1
    assert area.log().mean().item() == pytest.approx(0, abs=0.03)


def test_augmented_chains_are_transformed_when_it_is_due():
    """With steps of the kernel that do not move, what changes is the transform, before steps 1 and 4."""
    model = small_model("convnet", Box((4, 4), -1.0, 1.0))
    kernel = shipped("sampler")["langevin"] | {"step_size": 1e-12, "noise": 0.0}
    sampler = component("sampler", "augmented", kernel=kernel, every=3, elastic=0.2)
    x, found = model.space.noise(3, stream(0)).double(), []
    for frame in followed(sampler, model, x, [stream(1, i) for i in range(7)], range(8)):
        found.append(frame)
    changed = [(a - b).abs().max() > 1e-6 for a, b in itertools.pairwise(found)]
    assert changed == [True, False, False, True, False, False, True]
    assert all(model.space.contains(frame) for frame in found)
    assert "elastic every 3 steps" in sampler.remark()


# The KL term


def written_out(sampler, model, x, keys, parameters):
    """The ends of Langevin steps from the formula alone, E of these parameters throughout."""
    for key in keys:
        x = x.detach() if x.grad_fn is None else x
        x = x.requires_grad_()
        energy = torch.func.functional_call(model, parameters, (x,)).sum()
        (grad,) = torch.autograd.grad(energy, x, create_graph=True)
        z = rng.normal(x.shape, key, dtype=x.dtype)
        x = (x - sampler.step_size * grad + sampler.noise * z).clamp(-1, 1)
    return x


@pytest.mark.parametrize("kind", ["langevin", "augmented"])
def test_the_gradient_through_the_sampler(kind):
    """d/dtheta of L_opt + 0.7 L_ent by central differences in every parameter, two steps, some coordinates clamped."""
    model = small_model("convnet", Box((4, 4), -1.0, 1.0))
    kernel = shipped("sampler")["langevin"] | {"step_size": 0.4, "noise": 0.3}
    inner = component("sampler", "langevin", step_size=0.4, noise=0.3)
    sampler = inner if kind == "langevin" else component("sampler", "augmented", kernel=kernel, every=2)
    x, others = (model.space.noise(n, stream(0, str(n))).double() for n in (3, 5))
    tail = Tail(x, sampler, [stream(2, i) for i in range(2)], 1, others)
    found, metrics = kl_gradient(model, tail, 0.7)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters()}

    def value():
        ends = tail.ends(model).detach()
        energy = torch.func.functional_call(model, frozen, (ends,)).mean()
        return (energy - 0.7 * log_nearest(ends, others).mean()).item()

    ends = tail.ends(model)
    assert ((ends == 1) | (ends == -1)).any()
    assert metrics["kl_energy"].item() == pytest.approx(model.energy(ends).mean().item())
    for name, p in model.named_parameters():
        flat = p.detach().view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 3)):
            kept, ways = flat[i].item(), []
            for h in (1e-6, -1e-6):
                flat[i] = kept + h
                ways.append(value())
            flat[i] = kept
            assert found[name].view(-1)[i].item() == pytest.approx((ways[0] - ways[1]) / 2e-6, rel=1e-5, abs=1e-8), name


def test_the_chains_go_through_the_same_steps_with_and_without_their_graph():
    model = small_model("convnet", Box((4, 4), -1.0, 1.0))
    sampler = component("sampler", "langevin", step_size=0.3, noise=0.1, anneal=2, final_step_size=0.1)
    x, keys = model.space.noise(4, stream(0)).double(), [stream(1).fold(i) for i in range(3)]
    end, _ = run(sampler, model, x, 3, stream(1))
    assert_close(sampler.through(model, x, keys, 0).detach(), end)
    plain = component("sampler", "langevin", step_size=0.3, noise=0.1)
    expected = written_out(plain, model, x, keys, dict(model.named_parameters()))
    assert_close(plain.through(model, x, keys, 0), expected)


def test_entropy_by_nearest_neighbours():
    """H = D mean log NN + log(n - 1) + log V_D + gamma (Kozachenko & Leonenko 1987), of a normal in the plane."""
    n, scale = 4000, torch.tensor([0.5, 2.0], dtype=torch.float64)
    x = scale * rng.normal((n, 2), stream(0), dtype=torch.float64)
    distances = log_nearest(x, x[:0])
    entropy = 2 * distances.mean() + math.log(n - 1) + math.log(math.pi) + np.euler_gamma
    exact = math.log(2 * math.pi * math.e) + scale.log().sum()
    error = 2 * distances.std() / n**0.5
    assert abs(entropy - exact) < 5 * error + 0.01
    apart = log_nearest(x[:3], x[3:6])
    assert_close(apart, torch.cdist(x[:3], x[3:6]).amin(1).log())


def image_run(**changes):
    """A small convolutional network on digits."""
    config = {
        "dataset": shipped("dataset")["digits"],
        "model": shipped("model")["convnet"] | {"widths": [4, 4], "hidden": 4},
        "sampler": shipped("sampler")["langevin"] | {"step_size": 1.0, "noise": 0.01},
        "chains": shipped("chains")["replay"] | {"size": 30, "steps": 4, "restart": 0.3},
        "objective": shipped("objective")["ml_replay"],
    }
    return small_run(**config | changes)


@pytest.mark.parametrize(("kl", "sign"), [("du2021", 1), ("cd", -1)])
def test_the_kl_term_in_a_training_step(kl, sign):
    """Gradient = that of the likelihood + sign * weight * the KL term's, others being slots outside the batch."""
    objective = shipped("objective")["ml_replay"] | {"kl": kl, "kl_weight": 0.3, "kl_steps": 2}
    (parts, state), seen = image_run(objective=objective), []

    class Watching(type(parts.components.objective)):
        def gradient(self, model, batch, key):
            found = super().gradient(model, batch, key)
            seen.append((batch, found))
            return found

    watching = Watching(**dataclasses.asdict(parts.components.objective))
    parts = dataclasses.replace(parts, components=dataclasses.replace(parts.components, objective=watching))
    model, store = state.model, state.store.clone()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_step(parts, state)
    ((batch, found),) = seen
    model.load_state_dict(before)
    plain = component("objective", "ml_replay").gradient(model, batch._replace(tail=None), stream(0))
    term, _ = kl_gradient(model, batch.tail, 1.0)
    for name, grad in found.parameters.items():
        assert_close(grad, plain.parameters[name] + sign * 0.3 * term[name])
    assert_close(batch.x_neg, batch.tail.ends(model).detach())
    slots = parts.components.chains.choose(parts.loop.batch_size, stream(0, "chains", 0))
    assert torch.equal(state.store[slots], batch.x_neg)
    rows = {tuple(row.flatten().tolist()) for row in store}
    assert {tuple(row.flatten().tolist()) for row in batch.tail.others} == rows - {
        tuple(row.flatten().tolist()) for row in store[slots]
    }


def test_what_the_kl_term_needs_is_said():
    with pytest.raises(UserError, match=r"^objective.kl_steps = 4: must be below chains.steps = 4"):
        image_run(objective=shipped("objective")["ml_replay"] | {"kl": "cd", "kl_steps": 4})
    with pytest.raises(UserError, match=r"^objective.kl: .*use sampler=augmented or langevin"):
        image_run(
            objective=shipped("objective")["ml_replay"] | {"kl": "cd"},
            sampler=shipped("sampler")["mala"],
        )
    with pytest.raises(UserError, match=r"^objective.kl = cd: needs chains"):
        image_run(objective=shipped("objective")["exact"] | {"kl": "cd"})


# Ages and divergence


def test_ages_count_transitions_since_a_chain_began():
    parts, state = image_run()
    ages = torch.zeros(30, dtype=torch.long)
    for step in range(12):
        before = state.store.clone()
        train_step(parts, state)
        key = stream(0, "chains", step)
        slots = parts.components.chains.choose(6, key)
        fresh = parts.components.chains.fresh(6, step, key, before.device)
        ages[slots] = torch.where(fresh, 0, ages[slots]) + 4
        assert torch.equal(state.ages, ages)
    assert 0 < (ages == 4).sum() < 30


def test_energies_that_run_apart_stop_the_run_by_name():
    parts, state = image_run(objective=shipped("objective")["ml_replay"] | {"max_gap": 1e-6})
    report = train_step(parts, state)
    with pytest.raises(RunError, match=r"^step 1: energy_gap is .* beyond objective.max_gap = 1e-06"):
        check(state, [report], parts.components.objective)
    assert state.step == 0


# The classifier and long runs


@pytest.mark.long
def test_the_classifier_of_digits_is_right_about_most():
    data = component("dataset", "digits").load((Box,))
    found = judge(data, data.test, stream(0))
    assert found.accuracy > 0.95
    assert found.mistaken < 0.02
    sure = found.probabilities(data.test.all())
    assert sure.shape == (360, 10)
    assert (sure.sum(1) <= 1 + 1e-6).all()
    assert sure.amax(1).mean() > 0.9
    assert found.probabilities(data.space.noise(500, stream(9))).amax(1).mean() < 0.05


@pytest.mark.usefixtures("hasty")
def test_the_classifier_is_a_function_of_its_key():
    data = component("dataset", "digits").load((Box,))
    judges = [judge(data, data.test, stream(seed)) for seed in (0, 0, 1)]
    assert all(each.mistaken < 0.5 for each in judges), "what is no image is none of the classes"
    a, b, c = (each.features(data.test.all()[:5]) for each in judges)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.fixture
def hasty(monkeypatch):
    """A classifier of few steps, where it matters that there is one and not how often it is right."""
    monkeypatch.setattr(classifier, "_UPDATES", 50)


def test_another_noise_of_a_sampler_within():
    inner = with_noise(component("sampler", "langevin", noise=0.1), 0.2)
    assert inner.noise == 0.2
    kernel = shipped("sampler")["langevin"] | {"noise": 0.1}
    assert with_noise(component("sampler", "augmented", kernel=kernel), 0.2).kernel.noise == 0.2


def test_numbers_of_a_film():
    """Three frames of four chains on one pixel, by hand."""
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4], [0.4, 0.4, 0.4, 0.4]])[..., None]
    energy = torch.tensor([[9.0, 9, 9, 9], [0, 1, 2, 3], [0.5, 1.5, 2.5, 0.7]])
    sure, unsure, other = [0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.1, 0.9, 0.0]
    classes = torch.tensor([[sure] * 4, [sure, other, other, other], [sure, unsure, other, unsure]])
    film = Film(0.1, "noise", (0, 5, 10), x, energy, classes)
    rows = list(measured(film, Yardstick((0.6, 2.0), 0.8, None), 0.8))
    assert [row["energy_inside"] for row in rows] == [0, 0.5, 0.5]
    assert [row["recognised"] for row in rows] == [1, 1, 0.5]
    assert [row["largest_class"] for row in rows] == [1, 0.75, 0.75]
    assert [row["rarest_class"] for row in rows] == [0, 0, 0]
    assert [row["class_kept"] for row in rows] == [1, 0.25, 0.75]
    assert [row["class_changed_since_half"] for row in rows] == [0, 0, 0.5]
    assert [row["moved"] for row in rows] == pytest.approx([0, 0.25 / 0.8, 0.5])
    assert [row["energy"] for row in rows] == pytest.approx([9, 1.5, 1.3])


# From the command line

QUICK = (
    "train model=convnet dataset=digits objective=ml_replay optimizer=adam model.widths=[4,4] chains.size=20 "
    "batch_size=10 chains.steps=3 steps=4 tracker=none hydra.run.dir=run checkpoint.monitor=null "
)


@pytest.mark.long
@pytest.mark.usefixtures("hasty")
def test_an_image_run_from_start_to_long_chains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ebm(QUICK + "sampler=augmented sampler.kernel.noise=0.01 objective.kl=du2021 evaluation=[samples]")
    assert answer.code == 0, answer.err
    assert "boxed in [0, 1], 17 levels spread evenly" in answer.err
    answer = ebm("evaluate run=run evaluation=long_run evaluation.long_run.steps=8 evaluation.long_run.chains=9 "
                 "evaluation.long_run.noises=[0.01,0.1]")  # fmt: skip
    assert answer.code == 0, answer.err
    folder = next((tmp_path / "run" / "evaluations").iterdir())
    names = {path.name for path in folder.iterdir()}
    assert {"long_run.png", "long_run.csv", "results.json", "long_run_noise_0.1_from_noise.png"} <= names
    assert "long chains" in answer.out
    assert all(f"noise {noise}, from {start}" in answer.out for noise in (0.01, 0.1) for start in ("noise", "data"))
    lines = (folder / "long_run.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3 * 5
    answer = ebm("sample run=run n=4 steps=5 sampler.every=2 sampler.kernel.noise=0.5")
    assert answer.code == 0
    assert "temperature 12.5" in answer.err
    assert "elastic every 2 steps" in answer.err
    answer = ebm("sample run=run n=4 steps=5 sampler.kernel.nose=0.5")
    assert answer.code == 2
    assert "sampler.kernel.nose" in answer.err
    assert "did you mean" in answer.err


def test_a_run_that_diverges_stops_by_name_and_leaves_a_healthy_checkpoint(tmp_path, monkeypatch):
    """A step that is far too long: within 25 steps, the reason on the screen, and the run can be sampled."""
    monkeypatch.chdir(tmp_path)
    answer = ebm(QUICK + "steps=400 save_every=2 log_every=1 optimizer.lr=0.05 sampler.step_size=10 sampler.noise=0.01 "
                 "objective.max_gap=3 evaluation=[samples]")  # fmt: skip
    assert answer.code == 1
    assert "energy_gap is" in answer.err
    assert "beyond objective.max_gap = 3" in answer.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(line["energy_gap"]) <= 3 for line in lines)
    kept = int(answer.err.partition("the newest checkpoint is of step ")[2].split()[0])
    assert lines[-1]["step"] - 2 <= kept <= lines[-1]["step"] + 2
    assert {"chains_gradient", "chains_temperature", "energy_data", "energy_chains"} <= set(lines[0])
    assert ebm("sample run=run n=4 steps=5").code == 0


def test_what_is_usual_and_does_not_apply_is_left_out(tmp_path, monkeypatch):
    """A newcomer's first image model: no likelihood by chains that do not sample it; asked for, it is refused."""
    monkeypatch.chdir(tmp_path)
    answer = ebm("train model=convnet model.widths=[4] chains.count=4 batch_size=4 steps=2 tracker=none "
                 "hydra.run.dir=run evaluation.samples.steps=2 evaluation.chains.steps=20 "
                 "evaluation.chains.warmup=2")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "evaluation ais does not apply: sampler=langevin does not leave" in answer.err
    answer = ebm("evaluate run=run evaluation=[ais]")
    assert answer.code == 2
    assert (
        "evaluation=ais: sampler=langevin does not leave the model invariant; samplers that do and fit this model: "
        "hmc, mala, mala_mixed, metropolis"
    ) in answer.err


def test_long_runs_want_langevin_for_their_noises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ebm(QUICK + "sampler=mala evaluation=[samples]").code == 0
    answer = ebm("evaluate run=run evaluation=long_run evaluation.long_run.noises=[0.1]")
    assert answer.code == 2
    assert "evaluation=long_run: noises are those of sampler=langevin" in answer.err


# Distances in feature space


def test_frechet_distance_of_normal_rows():
    """|m - n|^2 + sum (s - t)^2 where both covariances are diagonal; rows are made to have exactly these moments."""
    z = rng.normal((500, 3), stream(0), dtype=torch.float64)
    z = z - z.mean(0)
    white = z @ torch.linalg.inv(torch.linalg.cholesky(z.T.cov()).T)
    s, t = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    m = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    assert frechet(white * s, white.flip(0) * t + m) == pytest.approx(5 + 4 + 1, rel=1e-9)
    turned = torch.linalg.qr(rng.normal((3, 3), stream(1), dtype=torch.float64))[0]
    assert frechet(white * s @ turned, (white * t + m) @ turned) == pytest.approx(10, rel=1e-9)
    assert frechet(white, white) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_by_hand():
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [3.0, 0.0]])
    cross = (1.5**3 + 2.5**3 + 2.0**3 + 1.0) / 4
    assert kernel_distance(x, y) == pytest.approx(1.0 + 2.5**3 - 2 * cross)


@pytest.mark.usefixtures("hasty")
def test_samples_of_an_image_run_have_distances(tmp_path, monkeypatch):
    """Those of data are small, those of noise are not; Inception is refused by name where it is not at hand."""
    monkeypatch.chdir(tmp_path)
    assert ebm(QUICK + "evaluation=[samples] evaluation.samples.features=classifier evaluation.samples.steps=1 "
               "evaluation.samples.count=200 evaluation.samples.start=noise").code == 0  # fmt: skip
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["samples/frechet_distance"] > 10 * found["samples/frechet_distance_of_data"] > 0
    assert found["samples/kernel_distance"] > 10 * abs(found["samples/kernel_distance_of_data"])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    answer = ebm("evaluate run=run evaluation=[samples] evaluation.samples.features=inception")
    assert answer.code == 2
    assert "evaluation.samples.features = inception: " in answer.err


# What a newcomer meets


def test_images_with_channels_last_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("rgb.npz", train=np.arange(7680, dtype=np.uint8).reshape(40, 8, 8, 3))
    answer = ebm("train model=convnet dataset=npz dataset.path=rgb.npz tracker=none")
    assert answer.code == 2
    assert "the data have shape 8x8x3; store channels first" in answer.err


def test_floats_beyond_one_are_no_images_and_the_way_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", train=np.linspace(-1, 1, 640, dtype=np.float32).reshape(10, 8, 8))
    answer = ebm("train model=convnet dataset=npz dataset.path=x.npz dataset.box=symmetric tracker=none")
    assert answer.code == 2
    assert "rescale the data to [0, 1], or store images as uint8" in answer.err


def test_a_classifier_of_samples_without_labels_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", train=np.arange(640, dtype=np.uint8).reshape(10, 8, 8))
    answer = ebm("train model=convnet dataset=npz dataset.path=x.npz evaluation=[samples] tracker=none "
                 "evaluation.samples.features=classifier hydra.run.dir=run")  # fmt: skip
    assert answer.code == 2
    assert "the data have no labels to train one by; set evaluation.samples.features=none" in answer.err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_chains_that_ran_away_are_said(tmp_path, monkeypatch):
    """Numbers of the order of 100 on a machine made for numbers of the order of 1."""
    monkeypatch.chdir(tmp_path)
    table = 100 + 50 * rng.normal((400, 7), stream(0)).numpy()
    np.savez("table.npz", train=table)
    answer = ebm("train model=gaussian_rbm model.hidden=8 dataset=npz dataset.path=table.npz steps=100 tracker=none "
                 "evaluation=[samples] hydra.run.dir=run")  # fmt: skip
    assert answer.code == 0
    assert "the chains have run away; standardise the data" in answer.err


def test_a_key_of_the_kernel_is_found_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ebm(QUICK + "sampler=augmented evaluation=[samples]").code == 0
    answer = ebm("sample run=run sampler.noise=0.1")
    assert answer.code == 2
    assert "sampler.noise: is a key of its kernel in this run; use sampler.kernel.noise" in answer.err
    answer = ebm("train resume=run steps=9 sampler.every=3")
    assert answer.code == 2
    assert "sampler.every: a resumed run keeps its own" in answer.err
