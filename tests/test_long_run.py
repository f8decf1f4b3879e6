"""The classifier of images, films of long chains, and distances in feature space."""

import pytest
import torch
from helpers.components import component, shipped

from ebm_cli import rng
from ebm_cli.evaluation.class_chains import of_probabilities
from ebm_cli.evaluation.long_run import Film, LongRun, Yardstick, measured, with_noise
from ebm_cli.evaluation.samples import within
from ebm_cli.evaluation.table import Numbers
from ebm_cli.rng import stream
from ebm_cli.space import Box, Real
from ebm_cli.yardstick.classifier import judge
from ebm_cli.yardstick.features import frechet, kernel_distance

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


@pytest.mark.long
@pytest.mark.usefixtures("hasty")
def test_the_classifier_is_a_function_of_its_key():
    data = component("dataset", "digits").load((Box,))
    judges = [judge(data, data.test, stream(seed)) for seed in (0, 0, 1)]
    assert all(each.mistaken < 0.5 for each in judges), "what is no image is none of the classes"
    a, b, c = (each.features(data.test.all()[:5]) for each in judges)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


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


def test_each_number_of_a_film_stands_below_its_heading():
    """Of eight metrics each has its own number; one that is not finite is no number, and moves no other."""
    said = {"energy": "E [nats]", "energy_inside": "E as data", "recognised": "recognised", "moved": "moved"} | {
        "largest_class": "largest class", "rarest_class": "rarest", "class_kept": "class kept",
        "class_changed_since_half": "changed late",
    }  # fmt: skip
    values = {f"long_run/from_{start}/{name}": i / 10 for start in ("noise", "data") for i, name in enumerate(said)}
    (table,) = LongRun.tables(Numbers(values | {"long_run/from_noise/energy": float("inf")}))
    shown = {film: dict(zip(table.heads, cells, strict=True)) for film, cells in table.rows.items()}
    expected = {heading: f"{i / 10:.3g}" for i, heading in enumerate(said.values())}
    assert shown == {"from noise": expected | {"E [nats]": "-"}, "from data": expected}


# Classes along chains


def probabilities(classes, p=0.9):
    """p for the class of each chain at each step, (chains, steps), the rest shared by the two others."""
    found = torch.full((3, *classes.shape), (1 - p) / 2)
    return found.scatter(0, classes[None], p).double().numpy()


def test_chains_that_keep_their_class_and_chains_that_draw_it():
    stays = of_probabilities(probabilities(torch.arange(12)[:, None].remainder(3).expand(12, 100)))
    assert stays["chains/class_r_hat"] > 2
    assert stays["chains/class_changed"] == 0
    assert stays["chains/recognised"] == 1
    drawn = of_probabilities(probabilities(rng.integers(3, (12, 1000), stream(0))))
    assert drawn["chains/class_r_hat"] < 1.01
    assert drawn["chains/class_changed"] == pytest.approx(2 / 3, abs=0.02)
    assert drawn["chains/rarest_class"] == pytest.approx(1 / 3, abs=0.02)
    assert of_probabilities(probabilities(rng.integers(3, (4, 50), stream(0)), 0.7))["chains/recognised"] == 0


def test_a_change_is_looked_for_500_steps_later():
    """A chain that is of one class for 600 steps and of another for 600: 500 of the 700 pairs are of both."""
    classes = torch.zeros(4, 1200, dtype=torch.int64)
    classes[:, 600:] = 1
    classes[0] = rng.integers(3, (1200,), stream(0))  # R-hat wants chains that move
    by_hand = [(classes[i, 500:] != classes[i, :-500]).double().mean().item() for i in range(4)]
    assert by_hand[1] == pytest.approx(500 / 700)
    assert of_probabilities(probabilities(classes))["chains/class_changed"] == pytest.approx(sum(by_hand) / 4)


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


def test_pictures_of_shades_end_at_black_and_white():
    """Of real numbers that were shades; of others they are as they are."""
    x = torch.tensor([[-0.5, 0.25], [1.5, 1.0]])
    data = component("dataset", "digits").load((Real,))
    assert data.shaded
    assert within(data, x).tolist() == [[0.0, 0.25], [1.0, 1.0]]
    assert torch.equal(within(component("dataset", "points_2d").load((Real,)), x), x)
    boxed = component("dataset", "digits").load((Box,))
    assert torch.equal(within(boxed, x), x)
