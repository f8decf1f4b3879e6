"""Philox4x32-10 in tensor operations: the published numbers, and which counter each word of a draw comes from."""

import importlib
import itertools
import re
import sys

import numpy as np
import pytest
import torch
from helpers.components import ROOT, component, shipped
from helpers.keys import COUNTING, form, keys_used
from helpers.models import target
from helpers.samplers import FITTING, SAMPLERS, marked
from helpers.training import small_run

from ebm_cli import philox, rng
from ebm_cli.log_z import paths
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.rng import Counter, stream
from ebm_cli.sampler.base import transitions
from ebm_cli.space import Real
from ebm_cli.training.plan import plan
from ebm_cli.training.step import execute

# counter, key -> words: Random123's kat_vectors, the lines of philox4x32 with 10 rounds.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numbers(text):
    return [int(word, 16) for word in text.split()]


def tensors(words):
    return tuple(torch.tensor(word, dtype=torch.int64) for word in words)


def reference(counter, key):
    """The same ten rounds in Python's integers, from table 2 and figure 4 of Salmon et al. 2011."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for turn in range(10):
        if turn:
            k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
        (high0, low0), (high1, low1) = divmod(c0 * 0xD2511F53, 2**32), divmod(c2 * 0xCD9E8D57, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return [c0, c1, c2, c3]


@pytest.mark.long
def test_the_kernel_draws_what_the_tensor_operations_draw(monkeypatch):
    """By Triton's interpreter: tests marked gpu compile it."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, "ebm_cli.philox_triton", raising=False)
    kernel = importlib.import_module("ebm_cli.philox_triton")
    monkeypatch.delitem(sys.modules, "ebm_cli.philox_triton")  # others get one that is compiled
    for rows, count, row in ((1, 1, 0), (3, 7, 5), (9, 5, 3), (130, 9, 2), (5, 64, 10**9), (2, 2050, 0), (0, 5, 0)):
        key = rng.counters([stream(3, "kernel", rows).at_row(row)])[0]
        assert torch.equal(kernel.words(rows, count, key), philox.words(rows, count, key, 0))


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    found = philox.philox4x32(tensors(numbers(counter)), tensors(numbers(key)))
    assert [word.item() for word in found] == numbers(words) == reference(numbers(counter), numbers(key))


def test_any_counter_and_key_in_any_shape():
    """2000 random ones with extreme words among them, all at once, against Python's integers."""
    draw = np.random.default_rng(0)  # of the test's own: the generator under test cannot judge itself
    words = draw.integers(0, 2**32, (2000, 6))
    words[:300] = draw.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1], (300, 6))
    table = torch.from_numpy(words)
    found = torch.stack(philox.philox4x32(table[:, :4].unbind(1), table[:, 4:].unbind(1)), 1)
    assert found.tolist() == [reference(row[:4], row[4:]) for row in words.tolist()]
    shaped = philox.philox4x32(tensors([5, 6, 7, 8])[:2] + tuple(table[:, :2].T[..., None]), tensors([1, 2]))
    assert shaped[0].shape == (2000, 1)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 21])
def test_words_are_those_of_row_block_and_lane(count):
    """Counter (row, block, third word xor lane, fourth word), key the first two; a block gives four columns."""
    key, lane = stream(0, "words").at_row(1000), 0xDEADBEEF
    k0, k1, c2, c3 = rng.counters([key])[0, :4].tolist()
    found = philox.words(6, count, form(COUNTING, key).words, lane)
    assert (found.dtype, found.shape) == (torch.int32, (6, count))
    blocks = -(-count // 4)
    for row in range(6):
        answers = [reference([1000 + row, block, c2 ^ lane, c3], [k0, k1]) for block in range(blocks)]
        expected = list(itertools.chain(*zip(*answers, strict=True)))[:count]
        assert [word % 2**32 for word in found[row].tolist()] == expected


def test_words_of_a_row_do_not_depend_on_the_others():
    key = stream(0, "shape")
    whole = philox.words(50, 12, form(COUNTING, key).words, 7)
    for first, last in ((0, 50), (0, 1), (17, 18), (3, 8), (49, 50)):
        assert torch.equal(
            philox.words(last - first, 12, form(COUNTING, key.at_row(first)).words, 7), whole[first:last]
        )


def test_a_key_without_a_lane_is_that_on_the_device():
    """`Key` on CUDA and `Counter` in a region share one generator."""
    counter = form(COUNTING, stream(0, "a").at_row(5))
    assert torch.equal(rng._words(3, 9, counter, "cpu"), philox.words(3, 9, counter.words, 0))


# Lanes


def vocabulary():
    """Every name that a draw of the package folds into its key."""
    text = "".join(file.read_text() for file in (ROOT / "ebm_cli").rglob("*.py"))
    return sorted(
        {name for arguments in re.findall(r"fold\(([^()]*)\)", text) for name in re.findall(r'"(\w+)"', arguments)}
    )


def test_lanes_of_all_paths_differ():
    """Names used anywhere, alone, in pairs and with numbers, from any lane that one of them leads to."""
    names = vocabulary()
    assert {"hidden", "visible", "accept", "proposal", "number", "restart", "noise"} <= set(names)
    counter = Counter(torch.zeros(5, dtype=torch.int64))
    paths = [(), *((name,) for name in names), *itertools.product(names, names), *((i,) for i in range(3000))]
    paths += [(name, i) for name in names for i in range(100)]
    assert len({counter.fold(*path).lane for path in paths}) == len(paths)


@pytest.mark.parametrize(("name", "model_name"), marked(FITTING))
def test_draws_of_one_transition_have_lanes_of_their_own(name, model_name, monkeypatch):
    model = target(model_name).float()
    x = model.space.noise(5, stream(0))
    used = keys_used(monkeypatch)
    transitions(SAMPLERS[name], model, x, [form(COUNTING, stream(1))])
    assert len([key for key in used if isinstance(key, tuple)]) == len(used) >= 1
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("policy", list(shipped("chains")))
def test_draws_of_one_policy_have_lanes_of_their_own(policy, monkeypatch):
    parts = component("chains", policy)
    store, batch, slots = torch.zeros(parts.slots, 2), torch.zeros(6, 2), parts.choose(6, stream(0))
    used = keys_used(monkeypatch)
    key = form(COUNTING, stream(0, "draw"))
    fresh = parts.fresh(len(slots) or len(batch), 0, key, batch.device)
    parts.draw(store[slots], fresh, batch, Real((2,)), key)
    assert len(set(used)) == len(used)
    assert len(used) == {"noise": 1, "replay": 2, "replay_data": 1}.get(policy, 0)


def test_draws_of_one_temperature_have_lanes_of_their_own(monkeypatch):
    model = target("rbm-binary")
    path = paths.BipartitePath(BernoulliProduct(model.space, torch.full((2, 2), 0.3)).double(), model)
    state = path.observe(model.space.noise(5, stream(0)).double())
    used = keys_used(monkeypatch)
    with torch.no_grad():
        path.move(state, 0.5, form(COUNTING, stream(1)))
    assert len(set(used)) == len(used) == 2


@pytest.mark.parametrize("policy", list(shipped("chains")))
def test_no_counter_of_training_serves_two_draws(policy, monkeypatch):
    """Across purposes and steps, as in a compiled run."""
    chains = shipped("chains")[policy] | {"steps": 3}
    parts, state = small_run(COUNTING, chains=chains)
    used = keys_used(monkeypatch)
    for _ in range(5):
        execute(parts, state, plan(parts, state))
        state.step += 1
    assert sum(isinstance(key, tuple) for key in used) >= 5 * 3 * 2
    assert len(set(used)) == len(used)
