"""Datasets: their configuration, batches and binarisation."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from helpers.components import FALSE_ALARM, component
from helpers.idx import idx_files, write_idx
from helpers.keys import ENGINES, form
from helpers.statistics import chi_square
from helpers.training import batch

from ebm_cli import registry, rng
from ebm_cli.dataset import files
from ebm_cli.dataset.base import Data, Split, batch_index
from ebm_cli.errors import UserError
from ebm_cli.space import Binary, Real

REPOSITORY = Path(__file__).parents[1]
DEFAULTS = {path.stem: path for path in sorted((REPOSITORY / "conf" / "dataset").glob("*.yaml"))}


def defaults(name: str, **changes):
    return yaml.safe_load(DEFAULTS[name].read_text()) | changes


# Configuration


def test_every_component_has_a_file_and_every_file_a_component():
    assert sorted(DEFAULTS) == sorted(registry.components("dataset"))


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_build_and_are_exactly_the_fields(name):
    config = defaults(name)
    reader = registry.build("dataset", config)
    assert config.pop("name") == name
    assert set(config) == {field.name for field in dataclasses.fields(reader)}
    assert DEFAULTS[name].read_text().startswith("# ")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("digits", {"valid": -1}),
        ("digits", {"binarize": "maybe"}),
        ("mnist", {"valid": 1.5}),
        ("emnist", {"split": "all"}),
        ("bars_and_stripes", {"side": 1}),
        ("bars_and_stripes", {"side": 7}),
        ("array", {"held_out": 0.0}),
        ("array", {"held_out": 0.6}),
        ("binary_tabular", {"table": "adult"}),
    ],
)
def test_values_out_of_range_are_refused(name, change):
    with pytest.raises(UserError, match=rf"dataset\.{next(iter(change))} = "):
        component("dataset", name, **change)


def test_data_root_prefers_key_then_environment_then_cache(monkeypatch):
    monkeypatch.setenv("EBM_DATA", "/from/environment")
    assert files.data_root("/from/key") == Path("/from/key")
    assert files.data_root(None) == Path("/from/environment")
    monkeypatch.delenv("EBM_DATA")
    assert files.data_root(None).parts[-2:] == ("ebm", "data")


# Batches and binarisation


@pytest.mark.parametrize(("rows", "size"), [(10, 3), (10, 10), (7, 20), (5, 1), (12, 4)])
def test_batches_visit_each_row_once_per_pass(rows, size):
    passes = 2 * size  # so many passes are a whole number of batches
    index = torch.cat([batch_index(rows_of(rows), step, size, 3) for step in range(passes * rows // size)])
    orders = index.reshape(passes, rows)
    assert torch.equal(orders.sort(1).values, torch.arange(rows).expand(passes, rows))
    assert rows == 1 or len({tuple(order) for order in orders.tolist()}) > 1


def test_batch_index_is_a_function_of_seed_and_step():
    forward = [batch_index(rows_of(50), step, 8, 1) for step in range(30)]
    assert all(torch.equal(batch_index(rows_of(50), step, 8, 1), forward[step]) for step in reversed(range(30)))
    assert not torch.equal(batch_index(rows_of(50), 0, 8, 2), forward[0])


def rows_of(count, weights=None):
    """So many rows."""
    return Split(Binary((1,)), torch.zeros(count, 1), 1.0, stochastic=False, labels=None, weights=weights)


def test_rows_are_drawn_by_their_weights():
    """6000 draws of rows of weight 0, 1, 2, 3; each batch another one, and the same again for the same step."""
    split = rows_of(4, torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    drawn = torch.cat([batch_index(split, step, 60, 0) for step in range(100)])
    count = torch.bincount(drawn, minlength=4)
    assert chi_square(count, 1000 * split.weights) > FALSE_ALARM
    assert split.size == 6
    assert torch.equal(batch_index(split, 7, 60, 0), drawn[420:480])
    assert not torch.equal(batch_index(split, 8, 60, 0), drawn[420:480])


def data_of(grey: torch.Tensor, scale: float, stochastic: bool) -> Data:
    space = Binary(tuple(grey.shape[1:]))
    split = Split(space, grey, scale, stochastic, None)
    return Data(space, split, None, split)


def test_stochastic_binarisation_is_drawn_anew_at_each_step():
    data = data_of(torch.full((4, 100), 128, dtype=torch.uint8), 255.0, stochastic=True)
    first = batch(data, 0, 4, 0)
    assert data.space.contains(first)
    assert torch.equal(batch(data, 0, 4, 0), first)
    assert not torch.equal(batch(data, 1, 4, 0), first)
    assert not torch.equal(batch(data, 0, 4, 1), first)
    assert torch.equal(data.train.all(), data.train.all())


def test_stochastic_binarisation_has_the_grey_mean():
    """Each of 52 grey levels in 4000 draws: 5 standard errors miss in 1 of 30000 runs of another key, never of this."""
    grey = torch.arange(0, 256, 5, dtype=torch.uint8).repeat(4000, 1)
    p = grey[0].double() / 255
    mean = (
        Split(Binary((52,)), grey, 255.0, stochastic=True, labels=None)
        .rows(torch.arange(4000), rng.stream(0, "test"))
        .double()
        .mean(0)
    )
    assert ((mean - p).abs() <= 5 * (p * (1 - p) / 4000).sqrt()).all()


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_some_rows_are_binarised_as_among_all(engine):
    """A share of a batch with the key at its first row."""
    split = Split(Binary((3, 3)), torch.full((20, 3, 3), 100, dtype=torch.uint8), 255.0, stochastic=True, labels=None)
    index, key = torch.arange(20).flip(0), rng.stream(0, "binarize")
    whole = split.rows(index, form(engine, key))
    assert set(whole.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(split.rows(index[3:8], form(engine, key.at_row(3))), whole[3:8])


@pytest.mark.parametrize("method", ["auto", "none", "threshold", "stochastic"])
def test_binarising_binary_data_changes_nothing(method):
    data = component("dataset", "bars_and_stripes", binarize=method).load((Binary,))
    assert torch.equal(data.train.all(), component("dataset", "bars_and_stripes").load((Binary,)).train.all())
    assert data.space == Binary((4, 4))


def test_explicit_method_and_default_method(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", idx_files())
    root = {"root": str(tmp_path), "valid": 0}
    grey = component("dataset", "mnist", dequantise=False, **root).load((Real,)).train.all()
    assert component("dataset", "mnist", **root).load((Binary,)).train.stochastic
    assert component("dataset", "mnist", **root).load((Binary, Real)).space == Binary((28, 28))
    half = component("dataset", "mnist", binarize="threshold", **root).load((Real,))
    assert half.space == Binary((28, 28))
    assert torch.equal(half.train.all(), (grey >= 0.5).float())
    assert component("dataset", "mnist", binarize="none", **root).load((Binary,)).space == Real((28, 28))


@pytest.mark.parametrize("name", ["digits", "bars_and_stripes"])
@pytest.mark.parametrize("method", ["auto", "none", "threshold", "stochastic"])
@pytest.mark.parametrize("accepted", [(Binary,), (Real,), (Binary, Real)])
def test_space_is_known_before_reading(name, method, accepted):
    reader = component("dataset", name, binarize=method)
    assert reader.space_type(accepted) is type(reader.load(accepted).space)
