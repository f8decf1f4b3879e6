"""Keyed streams: pure in their key, independent of each other, of the right distribution, and always the same."""

import itertools

import numpy as np
import pytest
import torch
from targets import FALSE_ALARM, SIGMAS, chi_square

from ebm_cli import rng
from ebm_cli.rng import Key, stream

N = 200_000
DRAWS = {
    "uniform": lambda key: rng.uniform((50,), key),
    "normal": lambda key: rng.normal((50,), key),
    "integers": lambda key: rng.integers(1000, (50,), key),
    "permutation": lambda key: rng.permutation(50, key),
    "bernoulli": lambda key: rng.bernoulli(torch.zeros(50), key),
    "categorical": lambda key: rng.categorical(torch.zeros(50, 9), key),
}
draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@draws
def test_a_draw_is_a_function_of_its_key_alone(draw):
    """Neither torch's nor numpy's global generator is read or moved."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # noqa: TID251
        np.random.seed(seed)  # noqa: NPY002
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        found.append(draw(stream(0, "test")))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.equal(*found)


@draws
def test_other_keys_give_other_numbers(draw):
    key = stream(0, "test")
    others = [stream(1, "test"), stream(0, "tests"), stream(0, "test", 0), key.fold(0), key.fold(1), key.fold("0")]
    found = [draw(k) for k in (key, *others)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(found, 2))


def test_no_two_paths_share_a_key():
    """Were the parts only joined, ("a", 1) and ("a1",) would be one stream."""
    paths = [(), ("a", 1), ("a1",), ("a", "1"), ("a", 11), ("a1", 1), ("a", 1, 1), (1, "a"), ("", "a1"), ("a1", ""),
             ("i1:1",), ("a", -1), ("a-1",), ("ab", "c"), ("a", "bc"), ("1:a",), ("a", 1, "")]  # fmt: skip
    keys = [stream(0, *path) for path in paths] + [stream(0).fold(*path) for path in paths]
    assert len(set(keys)) == len(keys)
    assert stream(1, 0) != stream(0, 1) != stream(10)


def test_folding_depends_on_the_whole_key_and_the_whole_path():
    key = stream(0, "a")
    assert key.fold(1).fold(2) != key.fold(2).fold(1)
    assert key.fold(1, 2) != key.fold(12)
    flipped = [Key(bytes(b ^ (i == j) for j, b in enumerate(key.digest))) for i in range(16)]
    assert len({k.fold("x") for k in (key, *flipped)}) == 17
    first = [tuple(rng.uniform((2,), k, dtype=torch.float64).tolist()) for k in (key, *flipped)]
    assert len(set(first)) == 17, "part of the 128 bits does not reach the generator"


def test_the_streams_are_frozen():
    """A change of these numbers changes every run ever made: it must be meant, and said in the notes of a release."""
    key = stream(7, "golden", 3)
    assert key.digest.hex() == GOLDEN["digest"]
    assert key.fold("x", 1).digest.hex() == GOLDEN["fold"]
    assert rng.uniform((3,), key).tolist() == GOLDEN["uniform"]
    assert rng.uniform((3,), key, dtype=torch.float64).tolist() == GOLDEN["uniform64"]
    assert rng.normal((3,), key).tolist() == GOLDEN["normal"]
    assert rng.integers(1000, (6,), key).tolist() == GOLDEN["integers"]
    assert rng.permutation(8, key).tolist() == GOLDEN["permutation"]
    assert rng.bernoulli(torch.zeros(12), key).int().tolist() == GOLDEN["bernoulli"]
    assert rng.categorical(torch.zeros(8, 5), key).tolist() == GOLDEN["categorical"]


GOLDEN = {
    "digest": "8161494a942a27186cb69a360cbfd0b6",
    "fold": "8fa5f20cfd5bb8db1396c475e95a002a",
    "uniform": [0.7090504169464111, 0.5625083446502686, 0.9429078698158264],
    "uniform64": [0.5625083827667521, 0.8152246815019538, 0.6335540148363681],
    "normal": [2.1468896865844727, 1.0035338401794434, -2.130629539489746],
    "integers": [709, 562, 942, 815, 971, 633],
    "permutation": [4, 0, 2, 5, 6, 7, 3, 1],
    "bernoulli": [0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0],
    "categorical": [3, 4, 0, 4, 0, 0, 3, 4],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_is_uniform(dtype):
    x = rng.uniform((N,), stream(1, "uniform"), dtype=dtype)
    assert x.dtype == dtype
    assert x.min() >= 0
    assert x.max() < 1
    count = torch.histc(x.float(), 100, 0, 1)
    assert chi_square(count, np.full(100, N / 100)) > FALSE_ALARM


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_is_normal(dtype):
    x = rng.normal((N,), stream(2, "normal"), dtype=dtype)
    assert x.dtype == dtype
    count = torch.histc(torch.special.ndtr(x.double()), 100, 0, 1)  # equally likely intervals
    assert chi_square(count, np.full(100, N / 100)) > FALSE_ALARM
    # Standard errors of the first four moments are sqrt(1, 2, 15, 96) / sqrt(N).
    moments = [(x.double() ** k).mean().item() for k in (1, 2, 3, 4)]
    for value, expected, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(value - expected) < SIGMAS * (variance / N) ** 0.5


def test_double_precision_is_not_float32_in_disguise():
    x = rng.uniform((1000,), stream(3, "double"), dtype=torch.float64)
    assert (x != x.float().double()).sum() > 990


def test_bernoulli_has_the_probability_of_its_logit():
    logits = torch.tensor([-40.0, -3.0, -0.5, 0.0, 1.0, 4.0, 40.0])
    x = rng.bernoulli(logits.expand(N, -1), stream(4, "bernoulli"))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    p = logits.double().sigmoid()
    deviation = (x.double().mean(0) - p) / (p * (1 - p) / N).sqrt().clamp_min(1 / N)
    assert deviation.abs().max() < SIGMAS


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_bernoulli_keeps_its_precision(dtype, result):
    logits = torch.tensor([[-2.0, 0.0, 3.0]], dtype=dtype)
    x = rng.bernoulli(logits.expand(N, -1), stream(5, "precision"))
    assert x.dtype == result
    p = logits[0].double().sigmoid()
    assert ((x.double().mean(0) - p).abs() / (p * (1 - p) / N).sqrt()).max() < SIGMAS


def test_categorical_is_the_softmax():
    logits = torch.tensor([[0.0, 1.0, -2.0, 3.0], [5.0, 5.0, 4.0, -1.0]])
    x = rng.categorical(logits[:, None].expand(2, N, 4), stream(6, "categorical"))
    for row, index in zip(logits.double().softmax(1), x, strict=True):
        assert chi_square(torch.bincount(index, minlength=4), row * N) > FALSE_ALARM


def test_integers_are_uniform():
    x = rng.integers(7, (N,), stream(7, "integers"))
    assert x.dtype == torch.int64
    assert chi_square(torch.bincount(x, minlength=7), np.full(7, N / 7)) > FALSE_ALARM


def test_permutations_are_uniform():
    """All 24 orders of four things, each from its own key."""
    found = [tuple(rng.permutation(4, stream(8, "order", i)).tolist()) for i in range(12_000)]
    count = [found.count(order) for order in itertools.permutations(range(4))]
    assert sum(count) == len(found)
    assert chi_square(count, np.full(24, len(found) / 24)) > FALSE_ALARM


@pytest.mark.parametrize(
    "keys",
    [[stream(9, "step", i) for i in range(40)], [stream(9).fold(i) for i in range(40)], [stream(i) for i in range(40)]],
    ids=["steps", "folds", "seeds"],
)
def test_neighbouring_keys_are_uncorrelated(keys):
    """Correlations of n numbers are N(0, 1/n) under independence; 780 pairs at lags 0 and 1, so 6 rather than 5."""
    n = 5000
    x = torch.stack([rng.normal((n + 1,), key, dtype=torch.float64) for key in keys])
    for a, b in ((x[:, :-1], x[:, :-1]), (x[:, :-1], x[:, 1:])):
        correlation = (a @ b.T) / n
        if a is b or torch.equal(a, b):
            correlation.fill_diagonal_(0)
        assert correlation.abs().max() < 6 / n**0.5


def test_shapes():
    key = stream(0)
    assert rng.uniform((), key).shape == ()
    assert rng.normal((2, 0, 3), key).shape == (2, 0, 3)
    assert rng.permutation(0, key).shape == (0,)
    assert rng.bernoulli(torch.zeros(2, 3), key).shape == (2, 3)
    assert rng.categorical(torch.zeros(2, 3), key).shape == (2,)
