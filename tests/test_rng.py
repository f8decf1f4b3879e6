"""Keyed streams: pure in their key, independent of each other, of the right distribution, and always the same."""

import itertools

import numpy as np
import pytest
import torch
from helpers.components import FALSE_ALARM, SIGMAS
from helpers.keys import COUNTING, ENGINES, form
from helpers.statistics import assert_uncorrelated, chi_square

from ebm_cli import rng
from ebm_cli.rng import Key, stream

N = 200_000
FORMS = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
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


@FORMS
def test_folding_depends_on_the_whole_key_and_the_whole_path(engine):
    key = stream(0, "a")
    assert key.fold(1).fold(2) != key.fold(2).fold(1)
    assert key.fold(1, 2) != key.fold(12)
    flipped = [Key(bytes(b ^ (i == j) for j, b in enumerate(key.digest))) for i in range(16)]
    assert len({k.fold("x") for k in (key, *flipped)}) == 17
    first = [tuple(rng.uniform((2,), form(engine, k), dtype=torch.float64).tolist()) for k in (key, *flipped)]
    assert len(set(first)) == 17, "part of the 128 bits does not reach the generator"


def test_streams_of_several_steps_are_those_of_each():
    assert rng.streams(3, "chains", range(7, 12)) == [stream(3, "chains", step) for step in range(7, 12)]


def test_the_streams_are_frozen():
    """A change of these numbers changes every run ever made: it must be meant, and said in the notes of a release."""
    key = stream(7, "golden", 3)
    assert key.digest.hex() == GOLDEN["digest"]
    assert key.fold("x", 1).digest.hex() == GOLDEN["fold"]
    assert rng.permutation(8, key).tolist() == GOLDEN["permutation"]
    for engine in ENGINES:
        found = golden(form(ENGINES[engine], key))
        assert {name: found[name].tolist() for name in found} == GOLDEN[engine], engine
    lane = form(COUNTING, key).fold("x", 1)
    assert (lane.lane, rng.uniform((2,), lane).tolist()) == GOLDEN["lane"]


def golden(key):
    """Some numbers of each kind. Those that are not multiples of 2^-53 are rounded: libraries differ in a logarithm."""
    rounded = {"normal": (3, 3), "normal64": (3,)}
    normals = [rng.normal((3, 3), key), rng.normal((3,), key, dtype=torch.float64)]
    return {
        "words": rng._words(2, 3, key, "cpu"),
        "uniform": rng.uniform((3,), key),
        "uniform64": rng.uniform((2, 2), key, dtype=torch.float64),
        **{name: (x * 1e4).round().long() for name, x in zip(rounded, normals, strict=True)},
        "integers": rng.integers(1000, (6,), key),
        "bernoulli": rng.bernoulli(torch.zeros(12), key).int(),
        "categorical": rng.categorical(torch.zeros(8, 5), key),
    }


GOLDEN = {
    "digest": "8161494a942a27186cb69a360cbfd0b6",
    "fold": "8fa5f20cfd5bb8db1396c475e95a002a",
    "permutation": [4, 0, 2, 5, 6, 7, 3, 1],
    "keys": {
        "words": [[-1249618695, -1879012189, -245208618], [-998792440, 1776688354, -176344003]],
        "uniform": [0.7090504169464111, 0.7674505114555359, 0.6264591217041016],
        "uniform64": [[0.7090504761256867, 0.5625083879770687], [0.7674505186002083, 0.41366749935315605]],
        "normal": [[7765, 4274, -2911], [7035, 11246, -1856], [-9631, -4860, 886]],
        "normal64": [14713, 16515, -13975],
        "integers": [709, 767, 626, 892, 0, 666],
        "bernoulli": [0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1],
        "categorical": [3, 3, 3, 4, 0, 3, 0, 3],
    },
    "counters": {
        "words": [[1020437506, -1493284026, -1678280616], [1519345988, -2024394205, -1819178609]],
        "uniform": [0.23758912086486816, 0.3537502884864807, 0.4584580659866333],
        "uniform64": [[0.23758912540409594, 0.6523177227932802], [0.35375030768245064, 0.5286589948415502]],
        "normal": [[-13115, -3540, -10745], [-12785, 5164, -6661], [9098, -9152, -8556]],
        "normal64": [-5698, -8287, 8068],
        "integers": [237, 353, 458, 476, 3, 952],
        "bernoulli": [1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 1],
        "categorical": [1, 1, 2, 2, 0, 4, 1, 4],
    },
    "lane": (489770683, [0.9183130860328674, 0.06268972158432007]),
}


# Rows

ROWS = {
    "uniform": lambda n, key: rng.uniform((n, 5), key),
    "uniform of rows": lambda n, key: rng.uniform((n,), key),
    "uniform, float64": lambda n, key: rng.uniform((n, 2, 3), key, dtype=torch.float64),
    "uniform, many": lambda n, key: rng.uniform((n, 67), key),
    "normal": lambda n, key: rng.normal((n, 5), key),
    "normal of rows": lambda n, key: rng.normal((n,), key),
    "normal, float64": lambda n, key: rng.normal((n, 3, 3), key, dtype=torch.float64),
    "integers": lambda n, key: rng.integers(1000, (n, 9), key),
    "bernoulli": lambda n, key: rng.bernoulli(torch.zeros(n, 5), key),
    "bernoulli, float64": lambda n, key: rng.bernoulli(torch.zeros(n, 5, dtype=torch.float64), key),
    "categorical": lambda n, key: rng.categorical(torch.zeros(n, 4, 9), key),
}
row_draws = pytest.mark.parametrize("draw", ROWS.values(), ids=ROWS)


@FORMS
@row_draws
def test_a_draw_of_some_rows_is_those_rows_of_the_whole(draw, engine):
    """Processes that share the chains draw what one process would, whatever each one's share."""
    key = stream(0, "rows")
    whole = draw(12, form(engine, key))
    for first, last in ((0, 12), (0, 1), (3, 8), (11, 12), (0, 7)):
        assert torch.equal(draw(last - first, form(engine, key.at_row(first))), whole[first:last])
    assert torch.equal(draw(5, form(engine, key.at_row(2).at_row(4))), whole[4:9]), "the number of a row is absolute"
    assert torch.equal(draw(5, form(engine, key.at_row(2)).after(4)), whole[6:11])


@FORMS
@row_draws
def test_rows_differ(draw, engine):
    whole = draw(40, form(engine, stream(0, "rows"))).flatten()
    assert not torch.equal(whole, draw(40, form(engine, stream(0, "rows").at_row(1))).flatten())
    assert len(whole.unique()) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [3, 700])
def test_a_large_draw_is_what_its_pieces_are(monkeypatch, dtype, count):
    """Numbers are made some rows at a time; how many must not be seen in them."""
    key, logits = stream(0, "pieces").at_row(5), torch.linspace(-3, 3, 90 * count, dtype=dtype).reshape(90, count)
    draws = (
        lambda: rng.uniform((90, count), key, dtype=dtype),
        lambda: rng.normal((90, count), key, dtype=dtype),
        lambda: rng.bernoulli(logits, key),
    )
    whole = [draw() for draw in draws]
    for size in (1, 1000, 7001):
        monkeypatch.setattr(rng, "_AT_ONCE", size)
        assert all(torch.equal(draw(), found) for draw, found in zip(draws, whole, strict=True))


@FORMS
def test_no_word_comes_twice(engine):
    """6400 of 2^32 words in rows of several blocks: two agree with probability 0.005, so a shared block shows."""
    key = stream(3, "words")
    keys = (key, key.fold(0), key.fold(1), key.at_row(40))
    found = [rng._words(40, 40, form(engine, k), "cpu").flatten() for k in keys]
    assert len(torch.cat(found).unique()) == 6400


def test_a_row_stays_with_its_key():
    key = stream(0, "a")
    assert key.at_row(3).fold("x") == key.fold("x").at_row(3) != key.fold("x")
    assert key.at_row(3) != key
    assert key.at_row(0) == key
    assert key.at_row(3).after(4) == key.at_row(7)
    assert rng.counters([key.at_row(3)])[0, :4].tolist() == rng.counters([key])[0, :4].tolist()


def test_counters_are_one_transfer_of_all_keys():
    keys = [stream(0, i).at_row(i) for i in range(5)]
    table = rng.counters(keys)
    assert (table.shape, table.dtype) == ((5, 5), torch.int64)
    assert table.min() >= 0
    assert [int.from_bytes(key.digest[8:12], "little") for key in keys] == table[:, 2].tolist()
    assert table[:, 4].tolist() == [0, 1, 2, 3, 4]


def test_lanes_depend_on_the_whole_path():
    """A counter cannot hash its key, so draws of one region are told apart by a lane: 32 bits of the path."""
    counter = form(COUNTING, stream(0, "a"))
    paths = [(), ("a", 1), ("a1",), ("a", "1"), ("1", "a"), ("ab",), ("a", "b"), (1,), (2,), (1, 2), (2, 1), ("i1",)]
    assert len({counter.fold(*path).lane for path in paths}) == len(paths)
    assert counter.fold("a").fold("b", 3) == counter.fold("a", "b").fold(3)
    assert counter.fold("a").words is counter.words
    assert all(0 <= counter.fold(*path).lane < 2**32 for path in paths)


# Distributions


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(N,), (N // 100, 100)])
def test_uniform_is_uniform(dtype, shape, engine):
    x = rng.uniform(shape, form(engine, stream(1, "uniform")), dtype=dtype).flatten()
    assert x.dtype == dtype
    assert x.min() >= 0
    assert x.max() < 1
    count = torch.histc(x.float(), 100, 0, 1)
    assert chi_square(count, np.full(100, N / 100)) > FALSE_ALARM


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(N,), (N // 100, 100)])
def test_normal_is_normal(dtype, shape, engine):
    x = rng.normal(shape, form(engine, stream(2, "normal")), dtype=dtype).flatten()
    assert x.dtype == dtype
    count = torch.histc(torch.special.ndtr(x.double()), 100, 0, 1)  # equally likely intervals
    assert chi_square(count, np.full(100, N / 100)) > FALSE_ALARM
    # Standard errors of the first four moments are sqrt(1, 2, 15, 96) / sqrt(N).
    moments = [(x.double() ** k).mean().item() for k in (1, 2, 3, 4)]
    for value, expected, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(value - expected) < SIGMAS * (variance / N) ** 0.5


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_two_normals_of_a_pair_are_independent(dtype, engine):
    """Cosine and sine of one angle with one radius: not even their squares or signs are related."""
    a, b = rng.normal((N, 2), form(engine, stream(2, "pairs")), dtype=dtype).double().unbind(1)
    for x, y in ((a, b), (a.square() - 1, b.square() - 1), (a.abs() - a.abs().mean(), b.abs() - b.abs().mean())):
        assert abs((x * y).mean()) < SIGMAS * ((x * y).std() / N**0.5)
    quarter = 2 * (a > 0).long() + (b > 0)
    assert chi_square(torch.bincount(quarter, minlength=4), np.full(4, N / 4)) > FALSE_ALARM


@FORMS
def test_double_precision_is_not_float32_in_disguise(engine):
    x = rng.uniform((1000,), form(engine, stream(3, "double")), dtype=torch.float64)
    y = rng.normal((1000,), form(engine, stream(3, "double")), dtype=torch.float64)
    assert (y != y.float().double()).sum() > 990
    assert (x != x.float().double()).sum() > 990


@FORMS
def test_bernoulli_has_the_probability_of_its_logit(engine):
    logits = torch.tensor([-40.0, -3.0, -0.5, 0.0, 1.0, 4.0, 40.0])
    x = rng.bernoulli(logits.expand(N, -1), form(engine, stream(4, "bernoulli")))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    p = logits.double().sigmoid()
    deviation = (x.double().mean(0) - p) / (p * (1 - p) / N).sqrt().clamp_min(1 / N)
    assert deviation.abs().max() < SIGMAS


@FORMS
@pytest.mark.parametrize(
    ("dtype", "result"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_bernoulli_keeps_its_precision(dtype, result, engine):
    logits = torch.tensor([[-2.0, 0.0, 3.0]], dtype=dtype)
    x = rng.bernoulli(logits.expand(N, -1), form(engine, stream(5, "precision")))
    assert x.dtype == result
    p = logits[0].double().sigmoid()
    assert ((x.double().mean(0) - p).abs() / (p * (1 - p) / N).sqrt()).max() < SIGMAS


@FORMS
def test_categorical_is_the_softmax(engine):
    logits = torch.tensor([[0.0, 1.0, -2.0, 3.0], [5.0, 5.0, 4.0, -1.0]])
    x = rng.categorical(logits[:, None].expand(2, N, 4), form(engine, stream(6, "categorical")))
    for row, index in zip(logits.double().softmax(1), x, strict=True):
        assert chi_square(torch.bincount(index, minlength=4), row * N) > FALSE_ALARM


@FORMS
def test_integers_are_uniform(engine):
    x = rng.integers(7, (N,), form(engine, stream(7, "integers")))
    assert x.dtype == torch.int64
    assert chi_square(torch.bincount(x, minlength=7), np.full(7, N / 7)) > FALSE_ALARM


def test_permutations_are_uniform():
    """All 24 orders of four things, each from its own key."""
    found = [tuple(rng.permutation(4, stream(8, "order", i)).tolist()) for i in range(12_000)]
    count = [found.count(order) for order in itertools.permutations(range(4))]
    assert sum(count) == len(found)
    assert chi_square(count, np.full(24, len(found) / 24)) > FALSE_ALARM


@FORMS
@pytest.mark.parametrize(
    "keys",
    [[stream(9, "step", i) for i in range(40)], [stream(9).fold(i) for i in range(40)], [stream(i) for i in range(40)]],
    ids=["steps", "folds", "seeds"],
)
def test_neighbouring_keys_are_uncorrelated(keys, engine):
    """Whether their numbers lie in one row or in many."""
    n = 5000
    for shape in ((n + 1,), (1, n + 1)):
        draws = [rng.normal(shape, form(engine, key), dtype=torch.float64).flatten() for key in keys]
        assert_uncorrelated(torch.stack(draws))


@FORMS
def test_rows_are_uncorrelated(engine):
    """Neighbouring chains; and the same chain's numbers in neighbouring places."""
    x = rng.normal((40, 5001), form(engine, stream(10, "rows")), dtype=torch.float64)
    assert_uncorrelated(x)
    assert_uncorrelated(rng.normal((5001, 40), form(engine, stream(10, "places")), dtype=torch.float64).T)


def test_lanes_are_uncorrelated():
    counter = form(COUNTING, stream(11, "lanes"))
    lanes = [counter, *(counter.fold(i) for i in range(20)), *(counter.fold(name) for name in ("hidden", "visible"))]
    assert_uncorrelated(torch.stack([rng.normal((5001,), lane, dtype=torch.float64) for lane in lanes]))


@pytest.mark.parametrize("row", [0, 7])
def test_ragged_draws_are_those_of_each_row(row):
    """In tiers of 64, 64, 128, ... words, each of which has a key: of all rows alike, of the few long ones alone."""
    size = torch.tensor([3, 70, 0, 64, 900] + [1] * 40 + [200, 300])
    key = stream(0, "ragged").at_row(row)
    owner, u = rng._ragged_uniform(size, key)
    for r, number in enumerate(size.tolist()):
        tiers = [(0, 64), (64, 64), (128, 128), (256, 256), (512, 512)]
        words = torch.cat([rng._words(1, width, key.fold(first).after(r), "cpu")[0] for first, width in tiers])
        expected = ((words[:number].long() >> 8) & 0xFFFFFF).double() / 2**24
        assert torch.equal(u[owner == r], expected), r


@FORMS
def test_shapes(engine):
    key = form(engine, stream(0))
    assert rng.uniform((), key).shape == ()
    assert rng.normal((2, 0, 3), key).shape == (2, 0, 3)
    assert rng.permutation(0, stream(0)).shape == (0,)
    assert rng.bernoulli(torch.zeros(2, 3), key).shape == (2, 3)
    assert rng.categorical(torch.zeros(2, 3), key).shape == (2,)
