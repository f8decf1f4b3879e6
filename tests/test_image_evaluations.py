"""Evaluations of image models: against closed forms, known kernels and counts by hand."""

import dataclasses
import gzip
import itertools
import math

import numpy as np
import pytest
import torch
from helpers.cli import train
from helpers.components import component
from helpers.data import small_data
from helpers.idx import idx
from helpers.models import small_model, target
from helpers.samplers import SAMPLERS, fits

from ebm_cli.dataset.base import Data, Split
from ebm_cli.device.base import CPU
from ebm_cli.device.engine import Engine
from ebm_cli.evaluation.base import Subject, refusal, some_rows
from ebm_cli.evaluation.denoise import psnr
from ebm_cli.evaluation.inpaint import hidden_sites, usual_values
from ebm_cli.evaluation.ood import auroc, made, scores
from ebm_cli.evaluation.resample import Target, looks
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import stream, uniform
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.langevin import LangevinState
from ebm_cli.space import Binary, Box, Categorical, Real, Spin
from ebm_cli.yardstick.mmd import kernel, mmd

SPACE = Box((6, 8), -1.0, 1.0)


class Bowl(EnergyModel):
    """E(x) = a |x - m|^2 / 2 + b, m different everywhere."""

    def __init__(self, space, a=1.0):
        super().__init__()
        self.space, self.a = space, a
        self.m = torch.linspace(-0.5, 0.5, space.sites).reshape(space.shape)

    def energy(self, x):
        return self.a * (x - self.m).square().flatten(1).sum(1) / 2


class Towards(Sampler):
    """x' = x + rate (goal - x), whatever the model; counts its steps in the state as Langevin does."""

    spaces = (Real, Box)
    compiles = False

    def __init__(self, goal, rate=1.0):
        self.goal, self.rate = goal, rate

    def init(self, model, x):
        return LangevinState(x, torch.zeros(()))

    def step(self, model, state, key):
        return LangevinState(state.x + self.rate * (self.goal - state.x), state.taken + 1), {}


def subject(model, sampler=None, data=None, seed=0):
    sampler = sampler or next(s for s in SAMPLERS.values() if fits(s, model))
    store = torch.empty(0, *model.space.shape)
    return Subject(model, data or small_data(model.space), "test", sampler, store, stream(seed, "subject"))


def evaluated(name, about, **changes):
    return component("evaluation", name, **changes).evaluate(about)


def data_of(space, rows) -> Data:
    """Data whose rows are x, or of discrete spaces as files have them."""
    split = Split(space, space.brightness(rows) if isinstance(space, Box) else rows, 1.0, stochastic=False, labels=None)
    return Data(space, split, None, split)


def test_some_rows_are_a_random_choice_without_repetition():
    about = subject(Bowl(SPACE))
    rows = {tuple(row.flatten().tolist()) for row in about.data.test.all()}
    found = [tuple(row.flatten().tolist()) for row in about.some_rows(30)]
    assert len(set(found)) == 30
    assert set(found) < rows
    assert len(about.some_rows(1000)) == 40
    assert set(found) != {tuple(row.flatten().tolist()) for row in about.data.test.all()[:30]}
    other = some_rows(about.data.test, 30, stream(1, "subject"))
    assert found != [tuple(row.flatten().tolist()) for row in other]


# Other data


@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_the_share_of_pairs_in_the_right_order(seed):
    """With ties, which count half."""
    draws = np.random.default_rng(seed)
    data, other = (torch.from_numpy(draws.integers(low, 6, n)).double() for low, n in ((1, 7), (0, 9)))
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(data.tolist(), other.tolist())]
    assert auroc(data, other) == pytest.approx(sum(pairs) / 63, abs=1e-12)


def test_scores_are_minus_energy_and_minus_the_length_of_its_gradient():
    """Of a bowl: -a r^2 / 2 and -a r; over several blocks of rows."""
    model = Bowl(SPACE, a=3.0)
    x = SPACE.noise(2300, stream(0, "x"))
    r = (x - model.m).flatten(1).norm(dim=1).double()
    found = scores(model, x)
    assert torch.allclose(found["energy"], -1.5 * r.square(), rtol=1e-5)
    assert torch.allclose(found["gradient"], -3 * r, rtol=1e-5)
    assert set(scores(target("rbm-binary").float(), Binary((2, 2)).noise(5, stream(0)))) == {"energy"}


@pytest.mark.parametrize("space", [SPACE, Binary((4, 5)), Spin((4, 5)), Categorical((4, 5, 3)), Real((7,))])
def test_made_rows(space):
    own = space.noise(300, stream(0, "own"))
    found = {name: made(name, space, own, stream(1, name)) for name in ("noise", "shuffled", "constant")}
    assert all(space.contains(x) and len(x) == 300 for x in found.values())
    sites = {name: x.reshape(300, space.sites, -1) for name, x in found.items()}
    assert (sites["constant"] == sites["constant"][:, :1]).all()
    assert len(found["constant"].unique(dim=0)) > 1
    before = own.reshape(300, space.sites, -1)
    columns = [[torch.equal(a, b) for b in before.unbind(1)].index(True) for a in sites["shuffled"].unbind(1)]
    assert sorted(columns) == [*range(space.sites)]
    assert columns != [*range(space.sites)]


def test_rows_without_density_are_the_least_likely_of_all():
    """A gamma law of positive numbers beside normal ones: those below 0 are impossible, and ties among them."""
    model = small_model("exponential_family", Real((1, 2)), family="gamma").float()
    rows = model.sample(60, stream(0, "rows"))
    found = evaluated("ood", subject(model, data=data_of(model.space, rows)), datasets=["noise", "shuffled"])
    assert set(found.metrics) == {"ood/noise/energy", "ood/shuffled/energy", "ood/shuffled/gradient"}
    assert found.metrics["ood/noise/energy"] > 0.75
    assert "of 60 rows (noise) have an infinite energy" in " ".join(found.warnings)
    assert found.images["ood"].shape[2] == 3
    rows[:3] = -1
    held = evaluated("ood", subject(model, data=data_of(model.space, rows)), datasets=["noise"])
    assert any("3 of 60 rows (held-out rows)" in warning for warning in held.warnings)
    for name in ("resample", "long_run"):
        assert "support of this family" in refusal(component("evaluation", name), model, None)


def test_the_area_of_scores_without_bounds():
    low, high = torch.tensor([-math.inf, 1.0]), torch.tensor([-math.inf, -math.inf, 0.0])
    assert auroc(low, high) == pytest.approx((2 * 0.5 + 0 + 3) / 6)
    assert math.isnan(auroc(low, torch.tensor([math.nan])))


@pytest.mark.long
def test_a_model_of_the_data_knows_them_from_noise():
    """Rows at the bottom of the bowl; at the top, of a bowl upside down, noise looks more like data."""
    model, rows = Bowl(SPACE), Bowl(SPACE).m + 0.1 * uniform((50, 6, 8), stream(0, "rows"))
    found = evaluated("ood", subject(model, data=data_of(SPACE, rows))).metrics
    assert set(found) == {f"ood/{a}/{b}" for a in ("noise", "shuffled", "constant") for b in ("energy", "gradient")}
    assert min(found.values()) == 1
    found = evaluated("ood", subject(Bowl(SPACE, a=-1.0), data=data_of(SPACE, rows)), datasets=["noise"]).metrics
    assert found == {"ood/noise/energy": 0, "ood/noise/gradient": 1}


@pytest.fixture
def kmnist(tmp_path):
    """A made-up Kuzushiji-MNIST: light training images, test images of one dark level each."""
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    test = np.tile(np.arange(20)[:, None, None], (1, 28, 28))
    for stem, images in (("train", np.full((10_001, 28, 28), 200)), ("t10k", test)):
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), 1))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(len(images)))))
    return tmp_path


@pytest.mark.long
def test_another_data_set_is_brought_to_the_space_of_the_model(kmnist):
    """Its test rows, in the run's box, spread or not and with noise or none, as the run's own are."""
    space = Box((28, 28), -1.0, 1.0)
    about = subject(Bowl(space), data=data_of(space, space.noise(30, stream(0, "rows"))))
    evaluation = component("evaluation", "ood", datasets=["kmnist"], root=str(kmnist))
    assert evaluation.refusal(about.model, about.sampler) is None
    found = evaluation._rows("kmnist", about, about.some_rows(10))
    assert sorted(found[:, 0, 0].tolist()) == pytest.approx([2 * i / 255 - 1 for i in range(20)])
    spread = dataclasses.replace(about.data.train, levels=256)
    about = dataclasses.replace(about, data=dataclasses.replace(about.data, train=spread))
    found = evaluation._rows("kmnist", about, about.some_rows(10)).sort(0).values
    level = torch.arange(20)[:, None, None]
    assert ((found + 1) * 128 - level).min() >= -1e-4
    assert ((found + 1) * 128 - level).max() < 1 + 1e-4
    assert (found + 1).mul(128).frac().std() > 0.2
    assert set(evaluation.evaluate(about).metrics) == {"ood/kmnist/energy", "ood/kmnist/gradient"}


def test_grey_images_are_compared_with_binary_ones_as_bits(kmnist):
    space = Binary((28, 28))
    rows = space.noise(30, stream(0, "rows"))
    data = dataclasses.replace(data_of(space, rows), method="none")
    about = subject(target("rbm-binary"), data=data)
    about = dataclasses.replace(about, model=Bowl(space))
    evaluation = component("evaluation", "ood", datasets=["kmnist"], root=str(kmnist))
    assert evaluation.refusal(about.model, about.sampler) is None
    assert space.contains(evaluation._rows("kmnist", about, rows))
    at_half = dataclasses.replace(about, data=dataclasses.replace(data, method="threshold"))
    assert evaluation._rows("kmnist", at_half, rows).sum() == 0


@pytest.mark.long
def test_data_that_cannot_be_compared_are_refused_before_any_work(kmnist, tmp_path, monkeypatch):
    def refusal(name, space, root=kmnist):
        model = Bowl(space)
        return component("evaluation", "ood", datasets=["noise", name], root=str(root)).refusal(model, None)

    assert refusal("kmnist", SPACE).startswith(
        "datasets has kmnist: its rows are 28x28 boxed in [-1, 1], those of the model 6x8 boxed in [-1, 1]"
    )
    assert "no such data set; there are noise, shuffled, constant, array, bag_of_words, bars_and_stripes" in refusal(
        "nosuch", SPACE
    )
    assert "no such data set" in refusal("../model/rbm", SPACE)
    missing = refusal("omniglot", Box((28, 28)))
    assert missing.startswith(f"datasets has omniglot: evaluation.ood.root: {tmp_path / 'binary_images'} lacks ")
    monkeypatch.chdir(tmp_path)
    answer = train("evaluation=[samples,ood] evaluation.ood.datasets=[omniglot] evaluation.ood.root=absent")
    assert answer.code == 2
    assert f"evaluation.ood.root: {tmp_path / 'absent' / 'binary_images'} lacks omniglot28.npz" in answer.err
    assert not (tmp_path / "run").exists()


# Noise taken away


def test_psnr_is_that_of_the_definition():
    """An error of a tenth of the width everywhere is 20 dB, whatever the width."""
    x = torch.zeros(3, 6, 8)
    for space in (SPACE, Box((6, 8))):
        width = space.high - space.low
        assert psnr("a", x + 0.1 * width, x, space)["a"] == pytest.approx(20, abs=1e-5)
    assert psnr("a", x, x, SPACE) == {}


def test_denoising_starts_at_noisy_rows_of_the_given_size():
    """In the middle of the box nothing is cut off: noise of 0.05 widths is 26.02 dB, 4800 draws within 0.1 dB."""
    rows = 0.2 * uniform((100, 6, 8), stream(0, "rows")) - 0.1
    about = subject(Bowl(SPACE), Towards(torch.zeros(6, 8), rate=0.0), data_of(SPACE, rows))
    found = evaluated("denoise", about, noise=0.05).metrics
    assert found["denoise/psnr_before"] == pytest.approx(-20 * math.log10(0.05), abs=0.3)
    assert found["denoise/psnr_before"] == found["denoise/psnr_after"]


def test_noise_stays_within_the_box():
    about = subject(Bowl(SPACE), Towards(torch.zeros(6, 8), rate=0.0), data_of(SPACE, torch.ones(100, 6, 8)))
    found = evaluated("denoise", about, noise=0.1).metrics["denoise/psnr_before"]
    assert found == pytest.approx(20 + 10 * math.log10(2), abs=0.3)  # half of the draws are cut off


def test_denoising_is_the_sampler_at_work():
    """Towards the clean image by a half each step: the error is divided by 2^steps."""
    clean = torch.full((6, 8), 0.3)
    about = subject(Bowl(SPACE), Towards(clean, rate=0.5), data_of(SPACE, clean.repeat(20, 1, 1)))
    result = evaluated("denoise", about, steps=3, noise=0.05)
    gained = result.metrics["denoise/psnr_after"] - result.metrics["denoise/psnr_before"]
    assert gained == pytest.approx(60 * math.log10(2), abs=1e-3)
    assert set(result.images) == {"denoise"}


def test_langevin_on_the_true_energy_denoises():
    """E = |x - m|^2 / (2 s^2) around the image: the noise becomes smaller."""
    model = Bowl(SPACE, a=100.0)
    data = data_of(SPACE, model.m.repeat(20, 1, 1))
    sampler = component("sampler", "langevin", step_size=0.005, noise=0.01)
    found = evaluated("denoise", subject(model, sampler, data), steps=20).metrics
    assert found["denoise/psnr_after"] > found["denoise/psnr_before"] + 10


def test_only_boxes_are_denoised():
    evaluation = component("evaluation", "denoise")
    assert "a binary space has none" in evaluation.refusal(target("rbm-binary"), None)
    assert "a real space has none" in evaluation.refusal(target("mlp-real"), None)
    assert evaluation.refusal(Bowl(SPACE), None) is None


# Hidden parts


def test_the_hidden_half_is_where_it_is_said():
    def drawn(region, space=SPACE):
        return ["".join(".#"[site] for site in row) for row in hidden_sites(space, region).int().tolist()]

    assert drawn("lower") == ["........"] * 3 + ["########"] * 3
    assert drawn("upper") == ["########"] * 3 + ["........"] * 3
    assert drawn("left") == ["####...."] * 6
    assert drawn("right") == ["....####"] * 6
    assert drawn("centre") == ["........"] + ["..####.."] * 3 + ["........"] * 2
    assert drawn("lower", Categorical((2, 2, 3))) == ["..", "##"]
    colour = hidden_sites(Box((3, 6, 8)), "left")
    assert torch.equal(colour, hidden_sites(SPACE, "left").expand(3, 6, 8))


def test_known_sites_stay_and_hidden_ones_move():
    """A sampler that brings everything to 0.3: the hidden half comes there, and every look at the chains has the known
    one as it was."""
    seen = []

    class Watched(Towards):
        def init(self, model, x):
            seen.append(x)
            return super().init(model, x)

    rows = 0.5 * SPACE.noise(30, stream(0, "rows"))
    about = subject(Bowl(SPACE), Watched(torch.full((6, 8), 0.3), rate=0.5), data_of(SPACE, rows))
    found = component("evaluation", "inpaint", steps=10).evaluate(about)
    known = about.some_rows(100)
    assert len(seen) == 10
    assert all(torch.equal(x[:, :3], known[:, :3]) for x in seen)
    start, hidden = seen[0][:, 3:], known[:, 3:]
    assert not torch.isclose(start, hidden).any()
    end = 0.3 + (start - 0.3) / 2**10
    expected = 10 * math.log10(4 / (end - hidden).square().mean().item())
    assert found.metrics["inpaint/psnr"] == pytest.approx(expected, abs=1e-3)
    mean = (rows.mean(0)[3:] - hidden).square().mean().item()
    assert found.metrics["inpaint/psnr_of_mean"] == pytest.approx(10 * math.log10(4 / mean), abs=1e-3)


@pytest.mark.parametrize("space", [Binary((2, 2)), Categorical((2, 2, 3))])
def test_block_gibbs_fills_in_what_the_model_thinks(space):
    """The share of right sites is that of the enumerated p(hidden | known)."""
    model = small_model("rbm", space).float()
    one = space.enumerate()[[5]]
    known = space.decode(one) if isinstance(space, Categorical) else one
    about = subject(model, component("sampler", "block_gibbs"), data_of(space, known.repeat(4000, 1, 1)))
    result = evaluated("inpaint", about, rows=4000, steps=30)
    found = result.metrics["inpaint/right"]
    assert result.by_row["inpaint/right"].mean().item() == pytest.approx(found)
    assert (result.index["inpaint/right"] == about.which_rows(4000)).all()
    states, hidden = space.enumerate(), hidden_sites(space, "lower")
    same = space.decode(states) == space.decode(one)
    p = torch.softmax(torch.where(same[:, ~hidden].all(1), -model.energy(states).double(), -torch.inf), 0)
    expected = (p * same[:, hidden].double().mean(1)).sum().item()
    assert found == pytest.approx(expected, abs=5 * 0.5 / 4000**0.5)


def test_the_most_frequent_value_is_the_yardstick_of_bits_and_categories():
    bits = torch.tensor([[[1.0, 0, 1, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 0]]])
    assert usual_values(data_of(Binary((1, 4)), bits)).tolist() == [[1, 0, 0, 0]]
    assert usual_values(data_of(Spin((1, 4)), bits)).tolist() == [[1, -1, -1, -1]]
    numbers = torch.tensor([[[0, 2]], [[1, 2]], [[1, 0]]])
    assert usual_values(data_of(Categorical((1, 2, 3)), numbers)).argmax(-1).tolist() == [[1, 2]]


def test_replicas_keep_the_known_sites_too(monkeypatch):
    """Every transition begins with the known half of all replicas as it was."""
    model, ladder, seen = target("rbm-binary").float(), component("sampler", "parallel_tempering"), []
    init = type(ladder).init
    monkeypatch.setattr(type(ladder), "init", lambda self, model, x: seen.append(x) or init(self, model, x))
    about = subject(model, ladder, data_of(model.space, torch.ones(50, 2, 2)))
    result = component("evaluation", "inpaint", steps=5).evaluate(about)
    assert [x.dim() for x in seen] == [3, 4, 4, 4, 4]
    assert seen[1].shape == (50, ladder.replicas, 2, 2)
    assert all((x[..., 0, :] == 1).all() for x in seen)
    assert all((x[..., 1, :] == 0).any() for x in seen)
    assert 0 < result.metrics["inpaint/right"] < 1


def test_only_images_have_a_part():
    evaluation = component("evaluation", "inpaint")
    assert "the data have shape 7" in evaluation.refusal(Bowl(Box((7,))), None)
    assert "the data have shape 1x7" in evaluation.refusal(Bowl(Box((1, 7))), None)
    assert "a real space has none" in evaluation.refusal(Bowl(Real((6, 8))), None)
    assert evaluation.refusal(Bowl(Box((3, 6, 8))), None) is None


# Chains from noise


def test_looks_are_evenly_spaced_in_the_logarithm():
    assert looks(1000) == [1, 3, 10, 30, 100, 300, 1000]
    assert looks(250) == [1, 3, 10, 30, 100, 250]
    assert looks(1) == [1]


def test_the_unit_of_the_discrepancy_is_the_spread_of_the_rows():
    """k(a, b) = exp(-|a - b|^2 / s), s the mean over pairs of different rows, by hand."""
    x = Real((2, 3)).noise(5, stream(0, "x"))
    found = Target.of(Bowl(Real((2, 3))), x)
    pairs = {(i, j): (x[i] - x[j]).square().sum().item() for i, j in itertools.permutations(range(5), 2)}
    s = sum(pairs.values()) / 20
    k = kernel(found.features, found.features)
    assert all(k[i, j].item() == pytest.approx(math.exp(-d / s), rel=1e-5) for (i, j), d in pairs.items())
    assert found.within == pytest.approx(sum(math.exp(-d / s) for d in pairs.values()) / 20, rel=1e-5)


class Passing(Towards):
    """Goes through the data, at `goal`, after some steps, and on in the same direction."""

    def __init__(self, goal, at):
        super().__init__(goal)
        self.at = at

    def step(self, model, state, key):
        x = self.goal + 0.1 * state.x.sign() * abs(state.taken + 1 - self.at)
        return LangevinState(torch.where(state.x == 0, 0.1, x), state.taken + 1), {}


@pytest.mark.long
def test_chains_that_pass_the_data_are_best_on_the_way():
    space = Real((1, 2))
    rows = 3 + 0.1 * space.noise(200, stream(0, "rows"))
    about = subject(Bowl(space), Passing(torch.full((1, 2), 3.0), at=10), data_of(space, rows))
    result = evaluated("resample", about, chains=50, steps=100)
    found = result.metrics
    assert found["resample/best_steps"] == 10
    assert found["resample/mmd_best"] < found["resample/mmd_at_end"]
    assert "nearest to the data after 10 steps and further away after 100" in result.warnings[0]
    assert set(result.images) == {"resample"}


def test_chains_that_reach_the_data_and_stay_are_in_equilibrium():
    """A sampler that draws from the law of the data from its third step on."""

    class Drawing(Towards):
        def step(self, model, state, key):
            fresh = 3 + 0.1 * Real((1, 2)).noise(len(state.x), key)
            return LangevinState(fresh if state.taken >= 2 else state.x, state.taken + 1), {}

    space = Real((1, 2))
    rows = 3 + 0.1 * space.noise(400, stream(0, "rows"))
    about = subject(Bowl(space), Drawing(torch.zeros(1, 2)), data_of(space, rows))
    result = evaluated("resample", about, chains=200, steps=30)
    found = result.metrics
    assert result.warnings == ()
    assert abs(found["resample/mmd_at_end"]) < 4 * found["resample/mmd_standard_error"]
    assert found["resample/best_steps"] in (3, 10, 30)
    assert found["resample/mmd_of_noise"] > 0.5
    energy = Bowl(space).energy(about.data.test.all()).mean().item()
    assert found["resample/energy_of_data"] == pytest.approx(energy, rel=1e-6)
    assert found["resample/energy_at_end"] == pytest.approx(energy, rel=0.02)


def test_the_discrepancy_of_noise_is_that_of_where_chains_start():
    model = target("rbm-binary").float()
    about = subject(model)
    found = evaluated("resample", about, chains=50, steps=2, rows=1000).metrics
    start = model.space.noise(50, about.key.fold("noise"))
    mean = Target.of(model, about.some_rows(1000))
    assert found["resample/mmd_of_noise"] == pytest.approx(mmd(start * mean.scale, mean.features), abs=1e-9)


@pytest.mark.quick("block_gibbs")
@pytest.mark.parametrize("name", ["block_gibbs", "parallel_tempering"])
def test_chains_in_groups_draw_what_they_draw_at_once(name):
    about = subject(target("rbm-binary").float(), component("sampler", name))
    few = dataclasses.replace(CPU, engine=Engine(compiled=False, rows=7))
    found = [
        evaluated("resample", dataclasses.replace(about, device=device), chains=20, steps=10).metrics
        for device in (CPU, few)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.long
def test_a_schedule_goes_on_between_looks():
    """The chains run in one piece: the sampler's count of steps reaches the last."""
    taken = []

    class Counting(Towards):
        def step(self, model, state, key):
            taken.append(int(state.taken))
            return super().step(model, state, key)

    evaluated("resample", subject(Bowl(SPACE), Counting(torch.zeros(6, 8))), chains=2, steps=15)
    assert taken == list(range(15))


def test_one_held_out_row_is_said():
    about = subject(Bowl(SPACE), data=data_of(SPACE, torch.zeros(1, 6, 8)))
    result = evaluated("resample", about)
    assert result.metrics == {}
    assert "one held-out row" in result.warnings[0]
