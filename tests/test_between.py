"""`ebm sample between=...`: from code to code, on a line and over the lowest pass."""

import csv
import math

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.models import small_model
from helpers.statistics import assert_close
from PIL import Image
from test_latent_ebm import linear

import ebm_cli
from ebm_cli.commands import between, ways
from ebm_cli.errors import RunError, UserError
from ebm_cli.model.base import EnergyModel
from ebm_cli.space import Real

EXACT = {"rtol": 1e-9, "atol": 1e-12}


class Trough(EnergyModel):
    """E(z) = c (|z| - 1)^2: its valley is the unit circle."""

    def __init__(self, depth: float) -> None:
        super().__init__()
        self.space, self.depth = Real((2,)), depth

    def energy(self, x):
        return self.depth * (x.norm(dim=1) - 1).square()


@pytest.mark.long
@pytest.mark.parametrize("depth", [5.0, 500.0])
def test_a_string_comes_to_rest_on_the_circle_of_least_energy(depth):
    """At even angles, whatever the first step is beside the curvature; of two pairs each goes a way of its own."""
    ends = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-0.6, -0.8]], dtype=torch.float64)
    model, line = Trough(depth), ways.straight(ends[::2], ends[1::2], 9)
    found = ways.string(model, line)
    angles = torch.tensor([[0.0, math.pi / 2], [-math.pi / 2, -math.pi / 2 - math.atan2(0.6, 0.8)]])
    angle = ways.straight(angles[:, :1].double(), angles[:, 1:].double(), 9)[..., 0]
    circle = torch.stack([angle.cos(), angle.sin()], 2)
    assert (found - circle).abs().max() < 2e-3
    assert (line - circle).abs().max() > 0.1
    assert torch.equal(found[:, [0, -1]], line[:, [0, -1]])


def test_places_are_even_along_a_way_with_a_corner():
    """Three units to the right and one up, whatever lay where on the way; a way of no length stays."""
    corner = torch.tensor([[0.0, 0.0], [0.5, 0.0], [3.0, 0.0], [3.0, 0.2], [3.0, 1.0]], dtype=torch.float64)
    even = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    found = ways.evenly(torch.stack([corner, corner[:1].expand(5, -1)]))
    assert_close(found[0], even, **EXACT)
    assert torch.equal(found[1], torch.zeros(5, 2, dtype=torch.float64))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny run with codes of two numbers."""
    path = tmp_path_factory.mktemp("between") / "run"
    model = "model=latent_ebm model.dim=2 model.widths=[8] model.energy_widths=[8] dataset=digits dataset.binarize=none"
    answer = ebm(f"train {model} steps=12 batch_size=10 evaluation=[] tracker=none device=cpu hydra.run.dir={path}")
    assert answer.code == 0, answer.err
    return path


def arrays(folder):
    with np.load(folder / "samples.npz") as file:
        return dict(file)


@pytest.mark.long
def test_rows_of_a_file_are_joined_two_and_two(home, tmp_path):
    """In samples.npz and between.csv what the model says of the codes on each line, in between.png a strip a pair."""
    rows = np.random.default_rng(0).random((6, 8, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    answer = ebm(f"sample run={home} between={tmp_path / 'rows.npy'} frames=5 device=cpu out={tmp_path / 'out'}")
    assert answer.code == 0, answer.err
    run, found = ebm_cli.load(home), arrays(tmp_path / "out")
    codes = torch.from_numpy(np.asarray(run.features(rows, "code")))
    line = ways.straight(codes[::2], codes[1::2], 5)
    assert_close(torch.from_numpy(found["codes"]), line.float(), rtol=1e-5, atol=1e-6)
    flat = line.float().flatten(0, 1)
    energy = run.model.prior.energy(flat).reshape(3, 5)
    assert_close(torch.from_numpy(found["energy"]), energy, rtol=1e-5, atol=1e-6)
    decoded = run.model.space.as_data(run.model.decoded(flat)).reshape(3, 5, 8, 8)
    assert_close(torch.from_numpy(found["samples"]), decoded.float(), rtol=1e-5, atol=1e-6)
    assert np.array_equal(found["rows"].reshape(rows.shape), run.rows(rows).numpy())
    same = run.between(rows, frames=5)
    for name in ("samples", "energy", "codes"):
        assert np.array_equal(getattr(same, name), found[name])
    lines = list(csv.DictReader((tmp_path / "out" / "between.csv").open()))
    assert [(int(line["pair"]), int(line["frame"]), float(line["way"])) for line in lines] == [
        (pair, frame, (frame - 1) / 4) for pair in (1, 2, 3) for frame in (1, 2, 3, 4, 5)
    ]
    assert np.allclose([float(line["energy"]) for line in lines], energy.flatten().numpy(), atol=1e-5)
    assert np.allclose([float(line["norm"]) for line in lines], line.norm(dim=2).flatten().numpy(), atol=1e-5)
    with Image.open(tmp_path / "out" / "between.png") as image:
        assert round(image.width / image.height) == round(7 / 3)
    assert "3 pairs of rows" in answer.out


@pytest.mark.long
def test_held_out_rows_and_samples_are_chosen_by_the_seed(home, tmp_path):
    """A string begins at the codes where the line does, and its mean energy is lower."""
    lines = {"a": "test seed=3", "b": "test seed=3 way=string", "c": "test seed=4", "d": "samples seed=3"}
    for name, ends in lines.items():
        line = f"sample run={home} n=3 steps=2 device=cpu out={tmp_path / name} between={ends}"
        assert ebm(line).code == 0
    one, slid, other, drawn = (arrays(tmp_path / name) for name in "abcd")
    assert np.array_equal(one["rows"], slid["rows"])
    assert not np.array_equal(one["rows"], other["rows"])
    assert np.array_equal(one["codes"][:, [0, -1]], slid["codes"][:, [0, -1]])
    assert (slid["energy"].mean(1) < one["energy"].mean(1)).all()
    assert np.array_equal(drawn["rows"].reshape(6, 8, 8), ebm_cli.load(home).sample(6, 2, seed=3))


@pytest.mark.long
def test_what_has_no_way_is_refused_in_a_sentence(home, tmp_path):
    np.save(tmp_path / "odd.npy", np.zeros((3, 8, 8)))
    said = {
        f"between={tmp_path / 'odd.npy'}": "has 3 rows, which go in pairs; add one, or leave one out",
        "between=test n=1000": "n = 1000: so many pairs are 2000 rows, the test split has",
        "between=test given=rows.npy": "given: says nothing of the way between codes (between = test)",
        "between=test label=1": "label: says nothing of the way between codes",
        "frames=4": "frames = 4: has no effect without between; add between=test, or leave it out",
        "way=string": "way = string: has no effect without between",
        "between=test frames=1": "frames = 1",
        "between=test way=arc": 'way = "arc"',
    }
    for line, words in said.items():
        assert_refused(ebm(f"sample run={home} device=cpu {line}"), words)
    assert not list(home.glob("samples/*/"))
    run, x = ebm_cli.load(home), np.zeros((2, 8, 8))
    for ask, words in {
        lambda: run.between(np.zeros((3, 8, 8))): "x: has 3 rows, which go in pairs; add one, or leave one out",
        lambda: run.between(x, frames=1): "frames = 1: must be 2 at least, for both ends count",
        lambda: run.between(x, way="arc"): "way = arc: must be straight or string",
    }.items():
        with pytest.raises(UserError, match=words):
            ask()


def test_a_model_without_codes_is_refused():
    with pytest.raises(UserError, match="between = test: this model has no codes of rows; leave it out, or train one"):
        between.of_codes(small_model("mlp", Real((2,))), "test")


def test_energies_that_are_no_numbers_are_not_written():
    model = linear()
    with torch.no_grad():
        model.decoder.bias.fill_(math.inf)
    with pytest.raises(RunError, match="not finite; nothing was written"):
        between.course(model, torch.zeros(2, 3), between.Asked("test", None, None))


@pytest.mark.parametrize(
    ("energy", "said"),
    [
        ([[5.0, 1.0, 2.0, 3.0]], "4 nats at the ends, 2 at the highest frame between those of a pair (means)"),
        ([[5.0, 3.0]], "4 nats at the ends (mean)"),
    ],
)
def test_the_highest_frame_is_one_between_the_ends(energy, said):
    course = between.Course(torch.zeros(()), torch.tensor(energy), torch.zeros(()), torch.zeros(()))
    assert between.said(course) == f"energy of codes: {said}"
