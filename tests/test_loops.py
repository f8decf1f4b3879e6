"""Stages of annealing as libraries of their own do what the same code does operation by operation."""

from types import SimpleNamespace

import pytest
import torch
from helpers.libraries import uncompiled
from helpers.statistics import assert_close
from test_ais import bipartite, geometric

from ebm_cli.device.engine import EAGER, INLINE
from ebm_cli.device.loops import Loops
from ebm_cli.device.replay import copy_all
from ebm_cli.evaluation.ais import forward, reverse_log_p
from ebm_cli.rng import stream


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def made(monkeypatch):
    """Identities of the libraries that were made."""
    return uncompiled(monkeypatch).identities


@pytest.mark.long
def test_annealing_by_libraries_is_that_of_the_operations(made):
    """Up and down, chains to the bit, weights but for roundings; a library for each stage and number of chains."""
    said = []
    path, loops = bipartite("rbm-binary"), Loops(4, lambda: said.append(1))
    inline = SimpleNamespace(
        **{name: getattr(INLINE, name) for name in ("region", "repeated", "keys", "compiled")}, slices=loops.slices
    )
    for chains in (4, 10):
        (log_w, end), (expected, where) = (forward(path, chains, 7, stream(3), engine) for engine in (loops, inline))
        assert torch.equal(end, where)
        assert_close(log_w, expected, rtol=1e-12, atol=1e-12)
    log_p, expected = (reverse_log_p(path, end[:3], 2, 7, stream(4), engine) for engine in (loops, inline))
    assert_close(log_p, expected, rtol=1e-12, atol=1e-12)
    assert len(said) == len(made) == len(set(made)) == 3, "up with 4 and with 2, down with 3"


def test_what_cannot_be_compiled_goes_as_before(made):
    path = geometric("gibbs", "ising-spin")
    loops = Loops(10**6, lambda: pytest.fail("it cannot"))
    expected, found = (forward(path, 5, 4, stream(3), engine)[0] for engine in (EAGER, loops))
    assert torch.equal(found, expected)
    assert not made


@pytest.mark.long
def test_another_model_of_the_same_form_takes_the_same_library(made):
    """What differs is in its tensors."""
    loops = Loops(10**6, lambda: None)
    first, second = bipartite("rbm-binary"), bipartite("rbm-binary", 2.0)
    one, other = (forward(path, 4, 5, stream(3), loops)[0] for path in (first, second))
    assert not torch.equal(one, other)
    assert_close(other, forward(second, 4, 5, stream(3), INLINE)[0], rtol=1e-12, atol=1e-12)
    assert len(set(made)) == 1


def test_tensors_of_several_types_are_copied_each_into_its_place():
    types = (torch.int64, torch.float64, torch.int64, torch.bool)
    own = [torch.zeros(2, dtype=dtype) for dtype in types]
    given = [torch.full((2,), value, dtype=dtype) for value, dtype in zip((3, 4, 5, 1), types, strict=True)]
    copy_all(own, given)
    assert all(map(torch.equal, own, given))
