"""Points of the plane as bits: the code and its inverse, the laws, rows drawn anew, and a run on them."""

import json
import math

import numpy as np
import pytest
import torch
from helpers.cli import ebm
from helpers.components import component
from helpers.models import mean_of, small_model

from ebm_cli.dataset import plane
from ebm_cli.dataset.base import placeholder
from ebm_cli.dataset.gray_code import GrayCode
from ebm_cli.dataset.points_gray import GrayLaw
from ebm_cli.errors import UserError
from ebm_cli.rng import Counter, counters, stream
from ebm_cli.space import Binary, Categorical, Real, Spin
from ebm_cli.yardstick.mmd import mmd

CODE = GrayCode(8, 6.0)  # 3 digits, 8/7 whole numbers in a unit of length


def test_sign_and_magnitude_in_gray_code_by_hand():
    """k = |c| 8 / 7 cut off: 3.6 -> 4.11 -> 4 = 100 in binary, 110 in Gray code; -0.5 -> 0, with the sign of a -0."""
    rows = CODE.rows(torch.tensor([[3.6, -0.5], [-6.5, 2.0], [0.0, 99.0]]))
    expected = [[0, 1, 1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1, 0, 0]]
    assert rows.tolist() == expected
    assert CODE.points(rows[:1]).tolist() == [[pytest.approx(3.5), -0.0]]
    assert math.copysign(1, CODE.points(rows)[0, 1].item()) == -1


def test_every_row_is_that_of_its_points():
    """Rows -> points -> rows, in the middle of each square, for all of 8 bits; neighbours differ in one digit."""
    rows = Binary((8,)).enumerate()
    corners = CODE.points(rows)
    signs = torch.stack([1 - 2 * rows[:, 0], 1 - 2 * rows[:, 4]], 1)
    assert torch.equal(CODE.rows(corners + signs * 0.5 / CODE.scale), rows)
    line = torch.stack([(torch.arange(8) + 0.5) / CODE.scale, torch.zeros(8)], 1)
    assert CODE.rows(line).diff(dim=0).abs().sum(1).tolist() == [1.0] * 7


def test_32_bits_lose_less_than_the_side_of_a_square():
    x = plane.two_spirals(500, stream(3), "cpu")
    code = GrayCode(32, plane.REACH["2spirals"])
    off = x.double() - code.points(code.rows(x)).double()
    assert (off * x.sign()).min() > -1e-6  # cut off, not rounded
    assert (off.abs() < 1 / code.scale + 1e-6).all()


MOMENTS = {  # mean and covariance of 200 000 points by numpy from FFJORD's formulas, and the largest |coordinate|
    "2spirals": ([0.0, 0.0], [2.595, 0.582, 2.499], 3.57),
    "8gaussians": ([0.0, 0.0], [4.125, 0.0, 4.125], 4.21),
    "circles": ([0.0, 0.0], [2.87, 0.0, 2.87], 3.89),
    "moons": ([0.0, 0.3], [3.037, -0.773, 1.016], 3.82),
    "pinwheel": ([0.0, 0.0], [2.196, 0.0, 2.196], 4.34),
    "swissroll": ([0.403, 0.043], [1.781, 0.174, 1.976], 3.51),
    "checkerboard": ([0.0, 0.0], [5.33, 1.0, 5.33], 4.0),
}


@pytest.mark.parametrize("kind", plane.LAWS)
def test_the_sets_have_the_moments_of_those_of_the_papers(kind):
    mean, (first, both, second), largest = MOMENTS[kind]
    x = plane.LAWS[kind](20_000, stream(1), "cpu").double()
    assert x.mean(0).tolist() == pytest.approx(mean, abs=0.08)
    found = torch.cov(x.T)
    assert [found[0, 0], found[0, 1], found[1, 1]] == pytest.approx([first, both, second], abs=0.12)
    assert x.abs().max() < largest + 0.4
    assert largest + 0.2 < plane.REACH[kind] + 1


def test_checkerboard_and_pinwheel_are_no_mirror_images():
    """The squares of even column and row; blades bend against the clock as they leave the middle."""
    x = plane.checkerboard(1000, stream(1), "cpu")
    assert ((x / 2).floor().sum(1) % 2 == 0).all()
    x = plane.pinwheel(4000, stream(1), "cpu") / 2
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    turned = torch.polar(torch.ones(()), 5 * (angle + radius.exp() / 4))
    assert turned.mean().abs() > 0.7  # all blades lie at 2 pi k / 5 - exp(r) / 4


def test_training_rows_are_drawn_anew_and_held_out_ones_stay():
    data = component("dataset", "points_gray", bits=10, train=50, held_out=20).load((Binary,))
    index, key = torch.arange(40), stream(5)
    first = data.train.rows(index, key)
    assert data.space.contains(first)
    assert torch.equal(first, data.train.rows(index, key))
    assert not torch.equal(first, data.train.rows(index, key.fold(1)))
    assert not torch.equal(first, data.train.all()[:40])
    assert torch.equal(data.train.rows(index[:7], key.after(3)), first[3:10])  # whoever draws them
    held = data.test.rows(index[:20], key)
    assert torch.equal(held, data.test.rows(index[:20], key.fold(1)))
    assert torch.equal(held, data.test.all())
    assert len(placeholder(data.space).train.rows(index[:1] * 0, key)) == 1


def test_rows_are_drawn_in_compiled_steps_too():
    law = GrayLaw("moons", GrayCode(32, 4.669))
    words = Counter(counters([stream(2)])[0])
    assert law.rows(30, words, "cpu").mean(0).std() > 0.05


def test_the_plane_is_in_the_data():
    data = component("dataset", "points_gray", kind="moons", bits=10, train=9, held_out=9).load((Binary,))
    assert data.truth.plane == GrayCode(10, plane.REACH["moons"])
    assert "drawn anew" in data.describe()


def test_odd_bits_are_refused():
    with pytest.raises(UserError, match=r"dataset\.bits = 7: half of them"):
        component("dataset", "points_gray", bits=7).load((Binary,))


def test_mmd_of_bits_has_the_kernel_of_the_papers():
    """Two pairs by hand: k = exp(-0.1 Hamming); within x 2 sites differ, within y 1, across 0, 1, 2, 1."""
    x, y = torch.tensor([[0.0, 0, 0], [1, 1, 0]]), torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    across = (1 + math.exp(-0.1) + math.exp(-0.2) + math.exp(-0.1)) / 4
    assert mmd(x, y, decay=0.1) == pytest.approx(math.exp(-0.2) + math.exp(-0.1) - 2 * across, abs=1e-12)


@pytest.mark.parametrize("space", [Binary((5,)), Spin((5,)), Categorical((3, 4))])
def test_a_discrete_perceptron_begins_as_independent_sites(space):
    """log Z is 0, and the means are those of the data."""
    spec = component("model", "mlp_discrete", widths=[6, 5])
    model = spec.build(space, mean_of(space), stream(0)).double()
    x = space.enumerate().double()
    log_p = -model.energy(x).detach()
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-6)
    bits = space.bits(x) if not isinstance(space, Categorical) else x
    assert torch.allclose((log_p.exp()[:, None] * bits.flatten(1)).sum(0).float(), mean_of(space).flatten(), atol=1e-5)
    even = component("model", "mlp_discrete", widths=[6], base="uniform").build(space, mean_of(space), stream(0))
    assert even.energy(space.enumerate()).std().item() == pytest.approx(0, abs=1e-5)


def test_a_discrete_perceptron_sees_bits_as_spins():
    model, spins = (small_model("mlp_discrete", space(shape=(2, 2))) for space in (Binary, Spin))
    spins.load_state_dict({**model.state_dict(), "field": model.field / 2})
    x = Binary((2, 2)).enumerate().double()
    off = model.energy(x) - spins.energy(2 * x - 1)
    assert off.std().item() == pytest.approx(0, abs=1e-12)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gray")
    answer = ebm(
        "train experiment=points_gray model.widths=[8] chains.steps=2 batch_size=16 steps=6 dataset.bits=8 "
        "dataset.train=100 dataset.held_out=50 evaluation=[exact,density_2d,samples] evaluation.density_2d.side=20 "
        f"evaluation.samples.steps=3 evaluation.samples.count=40 tracker=none hydra.run.dir={folder}/run"
    )
    assert answer.code == 0, answer.err
    return folder / "run"


@pytest.mark.long
def test_a_run_has_its_map_its_points_and_its_discrepancy(run):
    found = json.loads((run / "summary.json").read_text())
    assert -8 * math.log(2) - 0.5 < found["exact/log_likelihood"] < -4
    assert found["samples/mmd_standard_error"] > 0
    for name in ("density_2d", "points"):
        assert (run / "samples" / f"{name}.png").exists()


@pytest.mark.long
def test_samples_of_a_run_are_drawn_as_points(run):
    answer = ebm(f"sample run={run} n=9 steps=2")
    assert answer.code == 0, answer.err
    (there,) = (run / "samples").glob("*/points.png")
    assert np.load(there.with_name("samples.npz"))["samples"].shape == (9, 8)


def test_only_bits_that_stand_for_points_have_a_map():
    evaluation = component("evaluation", "density_2d")
    assert "points_gray" in evaluation.refusal_of_data(placeholder(Binary((4,))))
    assert evaluation.refusal_of_data(placeholder(Real((2,)))) is None
