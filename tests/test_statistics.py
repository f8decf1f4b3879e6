"""Pictures of samples that are no images: each number drawn is the statistic that its axis names."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import Answer, ebm, train
from helpers.data import small_data
from numpy.testing import assert_allclose
from scipy.sparse import csr_matrix

from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Box, Categorical, Counts, Real, Spin, Words
from ebm_cli.yardstick import statistics
from ebm_cli.yardstick.statistics import Against, fit, shown_by_statistics


def points(axis) -> list[np.ndarray]:
    """Of each scatter plot, (points, 2), in the order in which they were drawn."""
    return [np.asarray(each.get_offsets()) for each in axis.collections]


def bits(n: int = 300, sites: int = 6) -> np.ndarray:
    """Rows of a table whose columns have other shares each, the first three of them coupled."""
    generator = np.random.default_rng(0)
    x = generator.random((n, sites)) < np.linspace(0.2, 0.9, sites)
    x[:, 1] ^= x[:, 0]
    x[:, 2] |= x[:, 1]
    return x.astype(np.float64)


def table(x: np.ndarray, space=None, **more) -> Data:
    """Rows for training, and half of them for testing."""
    space = space or Binary(x.shape[1:])
    split = Split(space, torch.from_numpy(x).float(), 1.0, stochastic=False, labels=None, **more)
    return Data(space, split, None, dataclasses.replace(split, stored=split.stored[::2], weights=None))


def pairs(x: np.ndarray, diagonal: int = 1) -> np.ndarray:
    covariance = np.cov(x.T, bias=True)
    return covariance[np.triu_indices(len(covariance), diagonal)]


def test_frequencies_and_connected_pair_correlations_of_bits_are_drawn(drawings):
    x, y = bits(), bits(500)[200:]
    Against(table(x)).picture(torch.from_numpy(y).float())
    (single, pair, plane), figure = drawings[0].at[0], drawings[0].at[0][0].figure
    chance, found = points(single)
    assert_allclose(found, np.stack([x.mean(0), y.mean(0)], 1), atol=1e-6)
    assert_allclose(chance, np.stack([x.mean(0), x[::2].mean(0)], 1), atol=1e-6)
    assert_allclose(points(pair)[1], np.stack([pairs(x), pairs(y)], 1), atol=1e-6)
    assert (single.get_xlabel(), single.get_ylabel()) == ("in training rows", "in samples")
    assert single.get_title() == f"frequencies of 1\n{fit(x.mean(0), y.mean(0))}"
    assert pair.get_title() == f"connected pair correlations\n{fit(pairs(x), pairs(y))}"
    assert figure.get_suptitle() == "300 samples and 300 training rows"
    for axis in (single, pair):
        ends = np.asarray(axis.lines[0].get_xydata())
        assert (ends[:, 0] == ends[:, 1]).all()
        assert axis.lines[0].get_xydata().min() <= points(axis)[1].min()
    assert plane.get_xlabel() == "first principal component of training rows"


@pytest.mark.long
def test_rows_are_projected_on_the_principal_components_of_the_training_rows(drawings):
    x = bits() * np.array([1, 1, 1, 1, 1, 0])
    y = bits(20)
    Against(table(x)).picture(torch.from_numpy(y).float())
    train, samples = points(drawings[0].at[0][2])
    _, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    first = axes[:, ::-1][:, :2]
    first *= np.sign(first[abs(first).argmax(0), [0, 1]])
    assert_allclose(train, (x - x.mean(0)) @ first, atol=1e-4)
    assert_allclose(samples, (y - x.mean(0)) @ first, atol=1e-4)
    assert train[:, 0].var() > train[:, 1].var()


@pytest.mark.long
def test_exchanged_sites_lie_off_the_diagonal(drawings):
    """And the same rows lie on it."""
    x = bits()
    for y in (x, x[:, ::-1].copy()):
        Against(table(x)).picture(torch.from_numpy(y).float())
    same, exchanged = ([points(axis)[1] for axis in drawing.at[0][:2]] for drawing in drawings)
    assert all(abs(xy[:, 0] - xy[:, 1]).max() < 1e-6 for xy in same)
    assert all(abs(xy[:, 0] - xy[:, 1]).max() > 0.1 for xy in exchanged)
    assert "r 1.000, slope 1.000" in drawings[0].at[0][0].get_title()


def test_of_categories_states_are_counted_and_pairs_are_of_two_sites(drawings):
    space = Categorical((3, 4))
    data = small_data(space, 60)
    x, y = data.train.all(), space.noise(50, stream(1, "y"))
    Against(data).picture(y)
    single, pair, _ = drawings[0].at[0]
    assert_allclose(points(single)[1], np.stack([x.flatten(1).mean(0), y.flatten(1).mean(0)], 1), atol=1e-6)
    assert len(points(pair)[1]) == 3 * 4 * 4
    joint = torch.einsum("na,nb->ab", x[:, 0], x[:, 1]) / 60 - torch.outer(x[:, 0].mean(0), x[:, 1].mean(0))
    drawn = points(pair)[1][:32, 0].reshape(4, 8)  # the states of the first site with those of the others
    assert_allclose(drawn[:, :4], joint, atol=1e-6)


def test_weights_of_training_rows_count(drawings):
    x, weights = bits(), np.random.default_rng(1).random(300)
    Against(table(x, weights=torch.from_numpy(weights))).picture(torch.from_numpy(x).float())
    mean = weights @ x / weights.sum()
    assert_allclose(points(drawings[0].at[0][0])[1][:, 0], mean, atol=1e-6)
    covariance = np.cov(x.T, aweights=weights, bias=True)[np.triu_indices(6, 1)]
    assert_allclose(points(drawings[0].at[0][1])[1][:, 0], covariance, atol=1e-6)


@pytest.mark.long
def test_of_real_numbers_means_and_covariances_with_variances_are_drawn(drawings):
    generator = np.random.default_rng(2)
    x, y = generator.normal(2, 3, (200, 4)), generator.normal(2, 3, (90, 4))
    Against(table(x, Real((4,)))).picture(torch.from_numpy(y).float())
    single, pair, _ = drawings[0].at[0]
    assert_allclose(points(single)[1], np.stack([x.mean(0), y.mean(0)], 1), rtol=1e-5)
    assert_allclose(points(pair)[1], np.stack([pairs(x, 0), pairs(y, 0)], 1), atol=1e-4)
    assert [axis.get_title().split("\n")[0] for axis in (single, pair)] == ["means", "covariances"]


@pytest.mark.long
def test_of_documents_shares_of_words_are_drawn(drawings):
    counts = np.random.default_rng(3).poisson(2.0, (80, 5)) + 1
    space = Counts((5,), 10)
    split = Split(space, SparseRows.of(csr_matrix(counts)), 1.0, stochastic=False, labels=None)
    Against(Data(space, split, None, split)).picture(torch.from_numpy(counts[:30]).float())
    share = counts / counts.sum(1, keepdims=True)
    single, pair, _ = drawings[0].at[0]
    assert_allclose(points(single)[1], np.stack([share.mean(0), share[:30].mean(0)], 1), atol=1e-6)
    assert_allclose(points(pair)[1][:, 1], pairs(np.sqrt(share[:30])), atol=1e-6)
    assert single.get_title().startswith("shares of words")


def test_of_many_pairs_the_strongest_are_drawn_and_evenly_spaced_ones(monkeypatch):
    monkeypatch.setattr(statistics, "_POINTS", 8)
    monkeypatch.setattr(statistics, "_PAIRED", 5)
    x = bits()
    found = Against(table(x))
    assert found.chosen.tolist() == sorted(np.argsort(-x.var(0))[:5].tolist())
    covariance = pairs(x[:, found.chosen])
    drawn = set(np.flatnonzero(np.isin(covariance.round(6), found.train.pairs.round(6))))
    assert {*np.argsort(-abs(covariance))[:4], 0, 2, 5, 7} <= drawn
    assert len(found.train.pairs) <= 8


def test_of_many_rows_evenly_spaced_ones_are_read(monkeypatch):
    monkeypatch.setattr(statistics, "_ROWS", 100)
    x = bits()
    assert_allclose(Against(table(x)).train.means, x[::3].mean(0), atol=1e-6)


@pytest.mark.long
def test_samples_that_are_not_finite_and_a_single_site_are_drawn_too():
    against = Against(table(bits(sites=4)[:, 3:]))
    assert against.picture(torch.ones(3, 1)).std() > 0
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    x[0, 0] = torch.nan
    assert Against(table(bits(sites=3), Real((3,)))).picture(x).std() > 0


def test_correlation_and_slope_are_those_of_numpy_and_a_dash_where_they_are_not():
    x, y = np.random.default_rng(4).normal(size=(2, 50))
    assert fit(x, y + x) == f"r {np.corrcoef(x, y + x)[0, 1]:.3f}, slope {np.polyfit(x, y + x, 1)[0]:.3f}"
    assert fit(x, np.ones(50)) == "r -, slope 0.000"
    assert fit(np.ones(50), x) == "r -, slope -"
    assert fit(np.ones(0), np.ones(0)) == "r -, slope -"


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (Binary((16,)), True), (Spin((1, 9)), True), (Categorical((5, 3)), True), (Counts((9,), 4), True),
        (Real((3,)), True), (Box((2,)), True), (Real((2,)), False), (Binary((3, 3)), False), (Words((4,), 9), False),
        (Categorical((2, 2, 4)), False), (Box((3, 8, 8)), False), (Box((1, 8, 8)), False), (Box((5, 8, 8)), True),
    ],
)  # fmt: skip
def test_images_are_shown_as_images_and_other_rows_by_statistics(space, shown):
    assert shown_by_statistics(space) is shown


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """A tiny run on a table, and what it said."""
    home = tmp_path_factory.mktemp("table")
    np.savez(home / "table.npz", train=bits(200, 9))
    answer = train(f"dataset=array dataset.path={home}/table.npz eval_every=12", str(home / "run"))
    assert answer.code == 0, answer.err
    return home / "run", answer.err


def drawn(run: Path, name: str, line: str = "") -> tuple[Answer, set[str]]:
    """What `ebm sample` says and leaves."""
    answer = ebm(f"sample run={run} n=6 steps=3 device=cpu out={run.parent / name} {line}")
    assert answer.code == 0, answer.err
    return answer, {path.name for path in (run.parent / name).iterdir()}


@pytest.mark.long
def test_a_run_on_a_table_draws_statistics_and_names_the_picture(run):
    home, said = run
    assert f"{home}/samples/statistics.png" in said
    assert {path.name for path in (home / "samples").iterdir()} == {"statistics.png", "step-00000012.png"}


@pytest.mark.long
def test_samples_of_a_table_are_drawn_beside_its_rows(run):
    answer, files = drawn(run[0], "beside")
    assert files == {"statistics.png", "samples.npz"}
    assert "beside/statistics.png" in answer.out


@pytest.mark.parametrize(("rows", "why"), [(None, "nothing is there"), (1 - bits(200, 9), "reads other rows")])
def test_without_the_rows_of_the_run_samples_have_no_picture(run, rows, why):
    table = run[0].parent / "table.npz"
    content = table.read_bytes()
    table.unlink()
    if rows is not None:
        np.savez(table, train=rows)
    answer, files = drawn(run[0], why.replace(" ", "_"))
    table.write_bytes(content)
    assert "no picture of samples against the data: " in answer.err
    assert why in answer.err
    assert files == {"samples.npz"}


@pytest.mark.long
def test_while_training_plots_get_rarer(tmp_path):
    """Images come at every evaluation; a plot costs more than they do."""
    np.savez(tmp_path / "table.npz", train=bits(200, 9))
    words = "steps=18 eval_every=2"
    assert train(f"dataset=array dataset.path={tmp_path}/table.npz {words}", str(tmp_path / "table")).code == 0
    assert train(words, str(tmp_path / "digits")).code == 0
    steps = {
        run: sorted(int(path.stem.removeprefix("step-")) for path in (tmp_path / run).glob("samples/step-*.png"))
        for run in ("table", "digits")
    }
    assert steps == {"table": [2, 4, 8, 16, 18], "digits": list(range(2, 19, 2))}
