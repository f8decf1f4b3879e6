"""What pictures show: every image upright and in its place, every axis, colour and name as it is meant."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import ebm, trained
from helpers.data import small_data
from helpers.models import small_model
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from ebm_cli.dataset.density import Gaussians
from ebm_cli.evaluation import classify, contacts, density_2d, long_run, ood, resample, retrieval, topics
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.dbn_bound import DBNBound
from ebm_cli.evaluation.mixing import Course as Mixed
from ebm_cli.evaluation.mixing import figure as mixing_figure
from ebm_cli.record import picture, run
from ebm_cli.rng import stream, uniform
from ebm_cli.space import Binary, Box, Categorical, Real

pytestmark = pytest.mark.usefixtures("laid_out")


def tiles(pixels: np.ndarray, rows: int, height: int, width: int) -> np.ndarray:
    """The images of a grid, (rows, columns, height, width) or with three colours last, one pixel for each of theirs."""
    factor = len(pixels) // (rows * (height + 1) + 1)
    small = pixels[factor // 2 :: factor, factor // 2 :: factor]
    columns = (small.shape[1] - 1) // (width + 1)
    cut = small[1:, 1:].reshape(rows, height + 1, columns, width + 1, *small.shape[2:])
    return cut[:, :height, :, :width].swapaxes(1, 2)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def lines(axis) -> dict[str, tuple[list[float], list[float]]]:
    """Curves by their names."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}


# Grids


def test_every_image_of_a_grid_is_upright_and_in_its_place():
    x = (uniform((7, 2, 3), stream(0, "x")) < 0.5).float()
    found = tiles(picture.grid(Binary((2, 3)), x, columns=3), 3, 2, 3)
    for i, image in enumerate(x.numpy()):
        assert_array_equal(found[i // 3, i % 3], 255 * image)
    assert (found[2, 1:] == picture._FRAME).all()


def test_a_grid_of_very_many_is_no_wider_than_can_be_looked_at():
    """64 columns of 9 pixels and a frame: three times as large, where few are seven times."""
    few, many = (picture.grid(Binary((8, 8)), torch.zeros(n, 8, 8)) for n in (16, 4000))
    assert few.shape == (7 * 37, 7 * 37)
    assert many.shape == (3 * 577, 3 * 568)


def test_colours_of_an_image_stay_its_colours():
    x = uniform((4, 3, 2, 5), stream(1, "x"))
    found = tiles(picture.grid(Box((3, 2, 5)), x, columns=2), 2, 2, 5)
    for i, image in enumerate(x.numpy()):
        assert_allclose(found[i // 2, i % 2], 255 * image.transpose(1, 2, 0), atol=0.5)


def test_low_is_black_and_high_is_white():
    box = Box((1, 2), -1.0, 3.0)
    assert box.pixels(torch.tensor([[[-1.0, 3.0]], [[1.0, 1.0]]])).flatten().tolist() == [0, 255, 128, 128]
    letters = Categorical((1, 3, 3))
    assert letters.pixels(letters.encode(torch.tensor([[[0, 1, 2]]]))).flatten().tolist() == [0, 128, 255]


def test_a_row_of_sites_is_a_line_each_under_the_other():
    x = torch.tensor([[0, 1, 0, 0, 1], [1, 1, 0, 1, 0.0]])
    found = tiles(picture.grid(Binary((5,)), x), 2, 1, 5)
    assert_array_equal(found[:, 0, 0], 255 * x.numpy())


@pytest.mark.parametrize("shape", [(2, 2), (5,)])
def test_below_each_row_stands_the_one_beside_it(shape):
    space = Binary(shape)
    x, y = (uniform((2, 3, *shape), stream(2, "x")) < 0.5).float()
    pixels = picture.beside(space, x, y, 2)
    found = tiles(pixels, 2, 2, 2) if len(shape) == 2 else tiles(pixels, 4, 1, 5).reshape(2, 2, 1, 5).swapaxes(0, 1)
    for row, of in zip(found, (x, y), strict=True):
        assert_array_equal(row.reshape(2, -1), 255 * of[:2].flatten(1).numpy())


@pytest.mark.long
def test_points_of_the_plane_are_drawn_by_what_they_are(drawings):
    x, y = torch.tensor([[0.0, 2.0], [1.0, 5.0]]), torch.tensor([[7.0, 8.0]])
    picture.beside(Real((2,)), x, y, 16)
    drawn = {each.get_label(): each.get_offsets() for each in drawings[0].at[0][0].collections}
    assert_allclose(drawn["samples"], x)
    assert_allclose(drawn["nearest training rows"], y)
    assert [drawings[0].at[0][0].xaxis_inverted(), drawings[0].at[0][0].yaxis_inverted()] == [False, False]


def test_axes_have_their_pixels_upright():
    with picture.axes(1, 1) as drawing:
        axis = drawing.at[0][0]
        axis.set_axis_off()
        axis.set(xlim=(0, 1), ylim=(0, 1))
        axis.fill_between([0, 0.4], 0.6, 1, color="red")
    pixels = drawing.pixels.astype(int)
    rows, columns = np.nonzero(pixels[:, :, 0] - pixels[:, :, 2] > 100)
    assert rows.max() < pixels.shape[0] / 2  # what is high is at the top
    assert columns.max() < pixels.shape[1] / 2  # what is low is at the left
    assert pixels.shape == (350, 500, 3)


def test_a_picture_lies_on_the_disk_as_it_was_drawn(tmp_path):
    shades = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert_array_equal(read(run.Run(tmp_path).write_image("shades.png", shades)), shades)
    colours = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert_array_equal(read(run.Run(tmp_path).write_image("colours.png", colours)), colours)


def test_pictures_of_a_run_show_its_samples_and_their_neighbours(tmp_path, monkeypatch):
    """Those of `ebm sample` beside the numbers they are of, neighbours among the training rows."""
    monkeypatch.chdir(tmp_path)
    home = trained("dataset=bars_and_stripes dataset.side=3 steps=2")
    assert ebm("sample run=run n=6 steps=3").code == 0
    folder = next((home / "samples").glob("*/samples.npz"), None) or next(home.glob("**/samples.npz"))
    x = np.load(folder)["samples"].reshape(6, 3, 3)
    found = tiles(read(folder.with_name("grid.png")), 3, 3, 3)
    assert_array_equal(found.reshape(-1, 3, 3)[:6], 255 * x)
    below = tiles(read(home / "samples" / "neighbours.png"), 2, 3, 3) / 255
    bars = [(row == row[:1]).all() or (row == row[:, :1]).all() for row in below[1]]
    assert all(bars)
    shown = tiles(read(home / "samples" / "samples.png"), 2, 3, 3) / 255
    assert_array_equal(below[0], shown.reshape(-1, 3, 3)[:4])


def test_a_film_has_a_row_for_each_chain_and_a_column_for_each_frame():
    x = (uniform((3, 2, 2, 2), stream(3, "x")) < 0.5).float()  # frames, chains
    film = long_run.Film(None, "noise", (0, 1, 2), x, torch.zeros(3, 2), None)
    data = small_data(Binary((2, 2)))
    found = tiles(long_run.strip(data, film), 2, 2, 2)
    assert_array_equal(found, 255 * x.transpose(0, 1).numpy())


# Curves and maps


@pytest.mark.long
def test_films_are_drawn_beside_the_energies_of_held_out_rows(drawings):
    energy = torch.tensor([[0.0, 1, 2], [3.0, 4, 5]])
    classes = torch.eye(3)[torch.tensor([[0, 0, 0], [2, 2, 0]])]
    film = long_run.Film(0.5, "data", (0, 8), torch.zeros(2, 3, 2), energy, classes)

    class Judge:
        classes = 3

    long_run.figure([film], long_run.Yardstick((-1.0, 6.0), 1.0, Judge()))
    left, right = drawings[0].at[0]
    assert lines(left)["from data"] == ([0, 8], [1.0, 4.0])
    assert (left.get_xlabel(), left.get_ylabel(), left.get_title()) == ("steps", "E(x) [nats]", "noise 0.5")
    band = left.patches[0].get_bbox()
    assert (band.ymin, band.ymax) == (-1.0, 6.0)
    assert_allclose([bar.get_height() for bar in right.patches], [1 / 3, 0, 2 / 3], rtol=1e-6)


@pytest.mark.long
def test_a_contact_map_has_its_contacts_above_the_diagonal_and_right_ones_green(drawings):
    truth = torch.zeros(5, 5)
    truth[0, 3] = truth[3, 0] = 1
    score = torch.arange(25.0).reshape(5, 5)
    score = score + score.T
    contacts.contact_map(score, truth, torch.tensor([[0, 3], [1, 4]]))
    left, beside = drawings[0].at[0]
    drawn = {each.get_label(): (each.get_offsets().tolist(), each.get_facecolor()[0]) for each in left.collections}
    assert drawn["found, a contact (1)"][0] == [[4, 1]]  # site j to the right, site i down, from 1
    assert drawn["found, none (1)"][0] == [[5, 2]]
    assert left.images[0].get_extent() == beside.images[0].get_extent() == [0.5, 5.5, 5.5, 0.5]
    assert drawn["found, a contact (1)"][1][1] > drawn["found, a contact (1)"][1][0]
    assert drawn["found, none (1)"][1][0] > drawn["found, none (1)"][1][1]
    assert_allclose(left.images[0].get_array(), truth)
    assert left.images[0].get_cmap()(1.0)[0] < left.images[0].get_cmap()(0.0)[0]  # contacts are dark
    assert_allclose(beside.images[0].get_array(), score)
    red, blue = (beside.images[0].get_cmap()(value)[0] for value in (1.0, 0.0))
    assert red > blue  # the highest scores are red
    assert all(axis.yaxis_inverted() for axis in (left, beside))  # as matrices are written
    assert left.get_title() == "the 2 highest scores, contacts grey"


@pytest.mark.long
def test_a_map_of_a_density_has_its_mode_where_it_is(drawings):
    cells = density_2d.Cells((-1.0, -3.0), (1.0, 3.0), 12)
    density = Gaussians(torch.tensor([[0.5, 2.0]]), 0.3, 3.0)
    log_p = density.log_prob(cells.centres().double()).log_softmax(0)
    density_2d.density_map(log_p, density, cells, torch.tensor([[0.5, 2.0]]))
    model, true, log = drawings[0].at[0]
    assert [axis.get_title() for axis in (model, true, log)] == [
        "model and chains",
        "truth",
        "log-density of the model",
    ]
    density_2d.density_map(log_p, density, cells, torch.empty(0, 2))
    assert drawings[1].at[0][0].get_title() == "model"
    for axis in (model, true, log):
        shown = axis.images[0]
        assert shown.get_extent() == [-1.0, 1.0, -3.0, 3.0]
        row, column = np.unravel_index(shown.get_array().argmax(), (12, 12))
        x, y = -1 + (column + 0.5) / 6, -3 + (row + 0.5) / 2
        assert (abs(x - 0.5) < 0.1, abs(y - 2) < 0.3) == (True, True)
        assert shown.origin == "lower"
        assert not axis.yaxis_inverted()
    assert model.collections[0].get_offsets().tolist() == [[0.5, 2.0]]
    assert model.images[0].get_clim() == true.images[0].get_clim()  # the same colours for the same density


@pytest.mark.long
def test_distributions_of_energies_are_named_by_their_data_and_have_a_step_for_each_row(drawings):
    ood.figure({"held-out rows": torch.tensor([3.0, 1, 2]), "noise": torch.tensor([9.0, torch.inf])})
    axis = drawings[0].at[0][0]
    drawn = lines(axis)
    assert drawn["held-out rows"] == ([1, 1, 2, 3], [0, 1 / 3, 2 / 3, 1])
    assert drawn["noise"] == ([9, 9], [0, 0.5])  # an infinite energy is never reached
    assert all(line.get_drawstyle() == "steps-post" for line in axis.lines)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("energy [nats]", "share of rows with at most this energy")


@pytest.mark.long
def test_the_course_of_chains_from_noise_is_drawn_from_the_first_step_on(drawings):
    course = resample.Course([0, 1, 10], [9.0, 2.0, 1.0], [5.0, 4.0, 3.0])
    resample.figure(course, resample.Target(torch.zeros(2, 2), 1.0, 0.0, -7.0), 0.1)
    left, right = drawings[0].at[0]
    assert lines(left)["chains from noise"] == ([1, 10], [2.0, 1.0])
    assert lines(left)["noise"][1] == [9.0, 9.0]
    assert lines(right)["chains from noise"] == ([1, 10], [4.0, 3.0])
    assert lines(right)["held-out rows"][1] == [-7.0, -7.0]
    assert [axis.get_ylabel() for axis in (left, right)] == ["MMD² to held-out rows", "mean energy [nats]"]


@pytest.mark.long
def test_a_reliability_diagram_has_accuracy_over_confidence(drawings):
    bins = classify.calibration(torch.tensor([0.9, 0.9, 0.3, 0.3]), torch.tensor([True, False, False, False]), 5)
    classify.reliability(bins)
    left, right = drawings[0].at[0]
    assert_allclose([bar.get_height() for bar in left.patches], [0, 0, 0, 0, 0.5])
    assert_allclose([bar.get_height() for bar in right.patches], [0, 0.5, 0, 0, 0.5])
    assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in left.patches], [0.1, 0.3, 0.5, 0.7, 0.9])
    assert (left.get_xlabel(), left.get_ylabel(), left.get_title()) == ("confidence", "accuracy", "ECE 0.350")
    assert right.get_ylabel() == "share of rows"


@pytest.mark.long
def test_retrieval_has_precision_over_recall(drawings):
    one = retrieval.Retrieved(np.array([1, 2]), np.array([0.5, 0.25]), np.array([0.1, 0.2]), 0.3, 0.4)
    retrieval.figure({"model": one}, 0.05)
    axis = drawings[0].at[0][0]
    assert lines(axis)["model"] == ([10.0, 20.0], [50.0, 25.0])
    assert lines(axis)["by chance"][1] == [5.0, 5.0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("recall [%]", "precision [%]")


def test_the_first_word_of_a_topic_stands_at_the_top(drawings):
    described = topics.Described(
        "unit", np.array([4, 7]), np.array([0.5, 0.1]), {"lift": np.array([[2, 0], [1, 2]])},
        {"lift": np.array([[3.0, 1.0], [2.0, 0.5]])}, {"lift": np.array([0.2, 0.4])},
    )  # fmt: skip
    topics.bars(described, "lift", ("a", "b", "c"))
    axis = drawings[0].at[0][0]
    assert axis.get_title() == "unit 7, NPMI 0.40"  # the most coherent one
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "c"]
    assert [bar.get_width() for bar in axis.patches] == [2.0, 0.5]
    assert axis.yaxis_inverted()
    assert axis.get_xlabel() == "lift"


@pytest.mark.long
def test_curves_of_samplers_are_named_and_against_their_units(drawings):
    course = Mixed.__new__(Mixed)
    vars(course).update(steps=[1, 10], seconds=[0.5, 5.0], mmd=[0.9, 0.2], energy_error=[8.0, 2.0])
    metrics = {"mixing/mmd_standard_error": 0.1, "mixing/energy_standard_error": 1.0, "mixing/noise_mmd": 0.95}
    mixing_figure({"gibbs": course}, metrics)
    (by_steps, by_seconds), (energy, _) = drawings[0].at
    assert lines(by_steps)["gibbs"] == ([1, 10], [0.9, 0.2])
    assert lines(by_seconds)["gibbs"] == ([0.5, 5.0], [0.9, 0.2])
    assert lines(energy)["gibbs"] == ([1, 10], [8.0, 2.0])
    assert lines(by_steps)["noise"][1] == [0.95, 0.95]
    assert (by_seconds.get_xlabel(), energy.get_ylabel()) == ("seconds", "error of the mean energy [nats]")


def test_the_first_machine_stands_to_the_left_of_the_network(monkeypatch):
    """One that is all black beside one that is all white."""
    model = small_model("dbn", Binary((2, 2)))
    store = torch.empty(0, 2, 2)
    about = Subject(model, small_data(model.space), "test", None, store, stream(0, "subject"))

    def drawn(subject, count, *_):
        return torch.full((count, 2, 2), float(subject.model.depth > 1)), {}

    model.stacked.fill_(2)
    monkeypatch.setattr("ebm_cli.evaluation.dbn_bound.draw", drawn)
    evaluation = DBNBound.__new__(DBNBound)
    vars(evaluation).update(pictures=4, steps=1)
    (pixels,) = evaluation._beside(about, model).values()
    middle = pixels.shape[1] // 2
    assert not (pixels[:, : middle - 10] == 255).any()
    assert (pixels[:, middle + 10 :] == 255).any()
