"""Tables of real numbers: standardised and brought back, and what is said of scales and of values that repeat."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, forge, last_step
from helpers.components import component
from helpers.statistics import assert_close
from scipy import stats

from ebm_cli.dataset.base import Data
from ebm_cli.dataset.tables import remarks
from ebm_cli.errors import UserError
from ebm_cli.record import checkpoint
from ebm_cli.space import Box, Real, Units

SCALE, OFFSET = np.array([3.0, 4e5, 0.02]), np.array([0.0, 1e6, 5.0])
NORMAL = np.random.Generator(np.random.Philox(1)).normal(size=(600, 3))
ROWS = NORMAL * SCALE + OFFSET
TABLE = "dataset=array dataset.path=table.npz tracker=none device=cpu"


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def loaded(rows: np.ndarray, *spaces, **keys) -> Data:
    """The data of a file with these rows in train, the first 50 of them in the other splits."""
    np.savez("table.npz", train=rows, valid=rows[:50], test=rows[:50])
    return component("dataset", "array", path="table.npz", **keys).load(spaces or (Real,))


# Standardised


def test_columns_have_mean_0_and_deviation_1_and_come_back():
    data = loaded(ROWS, standardise=True)
    x = data.train.all().double()
    assert_close(x.mean(0), torch.zeros(3).double(), atol=1e-6, rtol=0)
    assert_close(x.std(0, correction=0), torch.ones(3).double(), rtol=1e-6)
    assert np.allclose(data.space.as_data(data.train.all()).numpy(), ROWS, rtol=1e-6, atol=1e-6)
    assert np.allclose(data.space.as_data(data.test.all()).numpy(), ROWS[:50], rtol=1e-6, atol=1e-6)
    assert data.space.log_volume == pytest.approx(np.log(ROWS.std(0)).sum())
    assert "3 real, standardised" in data.describe()
    assert data.idle >= {"box", "dequantise", "binarize"}


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_times_of_which_float32_has_no_digits_are_kept_or_refused(dtype):
    rows = (1.6e9 + 20 * NORMAL[:, :2]).astype(dtype)
    with pytest.raises(
        UserError, match=r"column 0 of train has mean 1[.0-9e+]*.*float32 are too few; set dataset.stand"
    ):
        loaded(rows)
    data = loaded(rows, standardise=True)
    assert np.abs(data.space.as_data(data.train.all().double()).numpy() - rows).max() < 1e-3


def test_images_and_shares_are_numbers_where_they_are_standardised():
    shares = np.random.Generator(np.random.Philox(2)).random((600, 4))
    assert isinstance(loaded(shares, Box).space, Box)
    assert type(loaded(shares, Box, standardise=True).space) is Real
    assert type(loaded((shares * 255).astype(np.uint8), standardise=True).space) is Real
    assert "standardise" in loaded((shares < 0.5).astype(float), standardise=True).idle


@pytest.mark.parametrize(
    ("constant", "said"), [([1], "column 1 of .* is constant"), ([0, 2], "columns 0, 2 of .* are")]
)
def test_constant_columns_cannot_be_standardised(constant, said):
    rows = ROWS.copy()
    rows[:, constant] = 0.1
    with pytest.raises(UserError, match=rf"^dataset.standardise = true: {said}.*leave out such columns$"):
        loaded(rows, standardise=True)


@pytest.mark.long
def test_likelihoods_samples_and_the_run_are_of_the_data_as_they_were():
    """Independent normal units: the likelihood is that of the fitted normal law in the units of the file."""
    loaded(ROWS)
    line = f"train {TABLE} dataset.standardise=true model=exponential_family sampler=mala objective=exact"
    answer = ebm(
        f"{line} evaluation=[exact] seed=1 steps=600 batch_size=600 optimizer=adam optimizer.lr=0.02 eval_every=0 "
        "hydra.run.dir=run"
    )
    assert answer.code == 0, answer.err
    found = json.loads(Path("run/summary.json").read_text())
    expected = stats.norm(ROWS.mean(0), ROWS.std(0)).logpdf(ROWS[:50]).sum(1).mean()
    assert found["exact/log_likelihood"] == pytest.approx(expected, abs=0.02)
    assert found["baseline/independent"] == pytest.approx(expected, abs=0.002)
    assert f"independent units (test) {expected:.2f} nats" in " ".join(answer.out.split())
    above = found["exact/log_likelihood"] - found["baseline/independent"]
    assert found["exact/above_independent"] == pytest.approx(above, abs=1e-6)
    Path("table.npz").unlink()
    assert ebm("sample run=run n=400 steps=20").code == 0
    samples = np.load(next(Path("run/samples").glob("*/samples.npz")))["samples"]
    assert (np.abs(samples.mean(0) - OFFSET) < SCALE).all()
    assert np.allclose(samples.std(0), SCALE, rtol=0.5)


@pytest.mark.long
@pytest.mark.quick("units2*")
@pytest.mark.parametrize(
    ("units", "said"),
    [
        ({"mean": [0.0], "deviation": [1.0]}, "records no known units of its 3 sites"),
        ({"mean": [0.0] * 3, "deviation": [1.0, 0.0, 1.0]}, "records units that are none"),
        ({"mean": [0.0, None, 0.0], "deviation": [1.0] * 3}, "records units that are none"),
        ([1, 2], "records no known units"),
    ],
)
def test_units_of_a_checkpoint_are_checked(units, said):
    loaded(ROWS)
    line = f"train {TABLE} dataset.standardise=true model=gaussian_rbm model.hidden=2 evaluation=[] steps=1"
    assert ebm(f"{line} hydra.run.dir=run").code == 0
    folder = last_step(Path("run"))
    numbers = json.loads((folder / checkpoint.NUMBERS).read_text())
    numbers["space"]["units"] = units
    forge(folder, numbers=json.dumps(numbers).encode())
    assert_refused(ebm("sample run=run n=2 steps=1"), said)


def test_pictures_show_the_data_as_they_were():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    space = Real((2,), units=Units((0.0, 0.5), (1.0, 0.25)))
    assert space.brightness(x).tolist() == [[0.0, 0.5], [1.0, 0.75]]


# What is said


def test_scales_far_from_1_are_said_with_the_key_that_mends_them():
    (sentence,) = remarks(loaded(ROWS), own_scale=False)
    assert "columns have means up to 9.96e+05 from 0 and standard deviations from 0.02" in sentence
    assert "dataset.standardise=true" in sentence
    assert remarks(loaded(ROWS, standardise=True), own_scale=False) == ()
    assert remarks(loaded(NORMAL), own_scale=False) == ()
    assert remarks(loaded(ROWS), own_scale=True) == ()


def test_a_failure_names_the_scale():
    loaded(ROWS)
    answer = ebm(f"train {TABLE} model=gaussian_rbm model.hidden=2 evaluation=[] steps=9 hydra.run.dir=run")
    assert answer.code == 1
    assert "The data may be at fault: columns have means up to 9.96e+05" in answer.err


LEVELS = (np.random.Generator(np.random.Philox(3)).random((200, 5)) * 256).astype(np.uint8)


@pytest.mark.parametrize("space", [Real, Box])
def test_bare_levels_are_said_and_spread_ones_are_not(space):
    few = LEVELS // 64 * 85
    (sentence,) = remarks(loaded(few, space), own_scale=False)
    assert (
        "the values of columns 0, 1, 2, ... (5 of them) repeat (column 0 has 4 distinct values in 200 rows)" in sentence
    )
    assert "can grow on them without bound" in sentence
    assert "dataset.dequantise=true (of uint8) or dataset.noise spreads them" in sentence
    assert remarks(loaded(few, space, dequantise=True), own_scale=False) == ()
    assert remarks(loaded(few, space, noise=0.01), own_scale=False) == ()


def test_a_column_of_few_numbers_is_said():
    rows = NORMAL.copy()
    rows[:, 1] = np.rint(rows[:, 1])
    (sentence,) = remarks(loaded(rows), own_scale=False)
    assert "the values of column 1 repeat" in sentence
    assert "dataset.noise spreads them" in sentence
    assert math.isfinite(loaded(rows).train.all().sum())


def test_families_of_counts_are_not_told_of_repetition():
    np.savez("table.npz", train=np.random.Generator(np.random.Philox(4)).poisson(3.0, (400, 2)))
    line = f"train {TABLE} model=exponential_family model.family=poisson sampler=metropolis objective=exact steps=2"
    answer = ebm(f"{line} evaluation=[] hydra.run.dir=run")
    assert answer.code == 0, answer.err
    assert "repeat" not in answer.err
