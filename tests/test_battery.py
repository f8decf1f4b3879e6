"""Are the words of both generators random? By dieharder where it is installed, and by a small battery in numpy.

The words lie as training draws them (`word_stream.py`): chains by numbers, one key after the other. 6.6e6 of each.
"""

import itertools
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.components import FALSE_ALARM, ROOT
from helpers.statistics import assert_uncorrelated, chi_square
from helpers.word_stream import CHAINS, NUMBERS, blocks
from test_compiled import COMPILER

from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.rng import stream

MATRICES = 32
N = MATRICES * CHAINS * NUMBERS
FORMS = ["keys", pytest.param("counters", marks=pytest.mark.skipif(not COMPILER, reason="no C++ compiler here"))]


@pytest.fixture(scope="module", params=FORMS)
def words(request):
    """(keys, chains, numbers) uint32."""
    torch._dynamo.reset()
    engine = Engine(compiled=True) if request.param == "counters" else EAGER
    found = list(itertools.islice(blocks(engine, stream(1, "battery")), MATRICES))
    yield torch.stack(found).numpy().view(np.uint32)
    torch._dynamo.reset()


# The three ways to walk through them: along the numbers of a chain, from chain to chain, from key to key.
ORDERS = {
    "numbers": lambda words: words.ravel(),
    "chains": lambda words: words.swapaxes(1, 2).ravel(),
    "keys": lambda words: words.transpose(1, 2, 0).ravel(),
}


def normal_tail(z):
    """P(|normal| > |z|)."""
    return math.erfc(abs(z) / 2**0.5)


def bits_of(flat):
    """(words, 32) of 0 and 1, the highest bit first."""
    return np.unpackbits(flat.astype(">u4").view(np.uint8)).reshape(-1, 32)


# Each test of the battery: words in one order -> p-values, uniform if the words are.


def bit_frequencies(flat):
    """Each of 32 bits is one half the time."""
    return [
        normal_tail((2 * (flat >> bit & 1).sum(dtype=np.int64) - len(flat)) / len(flat) ** 0.5) for bit in range(32)
    ]


def bit_pairs(flat):
    """Each pair of bits of one word, and each pair of bits of two successive words, is equal half the time."""
    flat, n, some = flat[: 2**20], min(len(flat), 2**20) - 1, 2**14  # as many at once as a cache holds
    inside, across = np.zeros((2, 32, 32), np.float32)  # exact: whole numbers below 2^24
    for first in range(0, n, some):
        bits = bits_of(flat[first : first + some + 1]).astype(np.float32) * 2 - 1
        inside += bits[:-1].T @ bits[:-1]
        across += bits[:-1].T @ bits[1:]
    return [normal_tail(z / n**0.5) for z in [*inside[np.triu_indices(32, 1)], *across.ravel()]]


def serial_pairs(flat):
    """Pairs of successive bytes at the top, at the bottom and in the middle, in 65 536 cells; pairs do not overlap."""
    found = []
    for shift in (24, 12, 0):
        part = (flat >> shift & 0xFF).astype(np.int64).reshape(-1, 2)
        count = np.bincount(part[:, 0] * 256 + part[:, 1], minlength=2**16)
        found.append(chi_square(count, np.full(2**16, len(part) / 2**16)))
    return found


def triples(flat):
    """Three successive 5-bit values from the top and from the bottom."""
    found = []
    for shift in (27, 0):
        part = (flat >> shift & 31).astype(np.int64)[: len(flat) // 3 * 3].reshape(-1, 3)
        count = np.bincount(part @ np.array([1024, 32, 1]), minlength=2**15)
        found.append(chi_square(count, np.full(2**15, len(part) / 2**15)))
    return found


def runs(flat):
    """Lengths of ascending runs, each followed by a word that is left out (Knuth 3.3.2 G): P(r) = 1/r! - 1/(r+1)!."""
    ends = np.flatnonzero(flat[1:] <= flat[:-1]) + 1  # the first words of the next runs
    count, start, length = np.zeros(7, np.int64), 0, []
    for end in ends[:400_000].tolist():
        if end > start:
            length.append(end - start)
            start = end + 1
    count = np.bincount(np.minimum(length, 7), minlength=8)[1:]
    p = [1 / math.factorial(r) - 1 / math.factorial(r + 1) for r in range(1, 7)]
    return [chi_square(count, np.array([*p, 1 - sum(p)]) * len(length))]


def gaps(flat):
    """Words between two whose top (or bottom) 4 bits are 0: geometric with p = 1/16."""
    found = []
    for shift in (28, 0):
        gap = np.diff(np.flatnonzero((flat >> shift & 15) == 0)) - 1
        most = 120
        count = np.bincount(np.minimum(gap, most), minlength=most + 1)
        p = (15 / 16) ** np.arange(most) / 16
        found.append(chi_square(count, np.append(p, 1 - p.sum()) * len(gap)))
    return found


def birthday_spacings(flat):
    """2048 birthdays in 2^30 days: how many spacings are equal is Poisson with mean 2048^3 / 2^32 = 2 (Marsaglia)."""
    n, found = 2048, []
    for shift in (2, 0):
        days = np.sort((flat >> shift & (2**30 - 1)).astype(np.int64)[: len(flat) // n * n].reshape(-1, n), 1)
        spacings = np.sort(np.diff(days, axis=1), 1)
        repeats = (np.diff(spacings, axis=1) == 0).sum(1)
        mean = n**3 / 2**32
        p = [math.exp(-mean) * mean**k / math.factorial(k) for k in range(9)]
        count = np.bincount(np.minimum(repeats, 9), minlength=10)
        found.append(chi_square(count, np.array([*p, 1 - sum(p)]) * len(repeats)))
    return found


def matrix_ranks(flat):
    """Rank over GF(2) of 32 x 32 bits, one word for each row: 32, 31, 30 and less."""
    n = 40_000
    rows = flat[: 32 * n].reshape(n, 32).astype(np.uint64)
    rank = np.zeros(n, np.int64)
    for bit in range(32):
        has = (rows >> np.uint64(bit) & np.uint64(1)).astype(bool)
        pivot, there = has.argmax(1), has.any(1)
        chosen = rows[np.arange(n), pivot].copy()
        rows = np.where(has & there[:, None], rows ^ chosen[:, None], rows)  # the pivot itself becomes zero
        rank += there

    def p_rank(r):
        powers = np.prod([(1 - 2.0 ** (i - 32)) ** 2 / (1 - 2.0 ** (i - r)) for i in range(r)])
        return 2.0 ** (r * (64 - r) - 1024) * powers

    p = [p_rank(32), p_rank(31)]
    count = [(rank == 32).sum(), (rank == 31).sum(), (rank < 31).sum()]
    return [chi_square(count, np.array([*p, 1 - sum(p)]) * n)]


def hamming_weights(flat):
    """Number of ones in a word is binomial, and independent of that of the next word."""
    weight = bits_of(flat[: 2**21]).sum(1, dtype=np.int64)
    p = np.array([math.comb(32, k) / 2**32 for k in range(33)])
    single = chi_square(np.bincount(weight, minlength=33), p * len(weight))
    coarse = np.digitize(weight, [13, 15, 16, 17, 18, 20])
    groups = np.bincount(np.digitize(np.arange(33), [13, 15, 16, 17, 18, 20]), p)
    pair = np.bincount(coarse[::2] * 7 + coarse[1::2], minlength=49)
    return [single, chi_square(pair, np.outer(groups, groups) * len(weight) / 2)]


BATTERY = [
    bit_frequencies,
    bit_pairs,
    serial_pairs,
    triples,
    runs,
    gaps,
    birthday_spacings,
    matrix_ranks,
    hamming_weights,
]
CASES = [
    (test, order)
    for test in BATTERY
    for order in ORDERS
    if test is not bit_frequencies or order == "numbers"  # counts of bits, which are the same in any order
]


@pytest.mark.long
@pytest.mark.parametrize(("test", "order"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_battery(test, order, words):
    """False alarms of one in a million in each test of the battery, whichever of its p-values is the smallest."""
    values = np.array(test(ORDERS[order](words)))
    assert ((values >= 0) & (values <= 1)).all()
    assert values.min() > FALSE_ALARM / len(values)


@pytest.mark.long
def test_every_word_is_a_new_one(words):
    """n^2 / 2^33 pairs of equal words: Poisson, here within six of its standard deviations."""
    pairs = (np.unique(words, return_counts=True)[1] ** 2).sum() / 2 - N / 2
    expected = N**2 / 2**33
    assert abs(pairs - expected) < 6 * expected**0.5


@pytest.mark.long
def test_keys_steps_and_rows_are_uncorrelated(words):
    """Of 32 keys, of 256 chains, and of 256 columns."""
    x = torch.from_numpy(words.astype(np.float64)) / 2**32 - 0.5
    x *= 12**0.5
    assert_uncorrelated(x.flatten(1))
    assert_uncorrelated(x.transpose(0, 1).flatten(1))
    assert_uncorrelated(x[:, :, :256].permute(2, 0, 1).flatten(1))


# Would it notice?


def flawed():
    """Sequences with one flaw each, from a generator of numpy's own."""
    draw = np.random.default_rng(0)
    n = 2**21
    good = draw.integers(0, 2**32, n, dtype=np.uint32)
    congruential = np.empty(n, np.uint32)
    state = np.arange(1, n // 2**10 + 1, dtype=np.uint64)
    for i in range(2**10):
        state = state * np.uint64(1664525) + np.uint64(1013904223) & np.uint64(2**32 - 1)
        congruential[i :: 2**10] = state
    shifted = good.copy()
    shifted[1::2] = good[::2] << np.uint32(1) | good[1::2] & np.uint32(1)
    rank = good.reshape(-1, 32).copy()
    rank[::4, 31] = rank[::4, 0] ^ rank[::4, 1]
    heavy = np.where((good & 1 == 0) & (np.arange(n) % 64 == 0), good | np.uint32(0xF0F0), good)
    spaced = good.copy()
    spaced.reshape(-1, 2048)[:, 3::8] = spaced.reshape(-1, 2048)[:, 2::8] + np.uint32(12345 << 2)
    return {
        "good": (good, []),
        "bit 3 too often": (good | np.where(np.arange(n) % 100 == 0, np.uint32(8), np.uint32(0)), [bit_frequencies]),
        "each word a shift of the last": (shifted, [bit_pairs, serial_pairs, triples]),
        "rows that depend": (rank.ravel(), [matrix_ranks]),
        "words that weigh more": (heavy, [hamming_weights]),
        "equal spacings": (spaced, [birthday_spacings]),
        "sorted in fours": (np.sort(good.reshape(-1, 4), 1).ravel(), [runs]),
        "no zero after a zero": (np.where((good >> 28 == 0) & (np.roll(good, 1) >> 28 == 0), ~good, good), [gaps]),
        "congruential": (congruential, [bit_pairs]),
    }


@pytest.mark.long
def test_the_battery_notices_flaws():
    """Each flaw by the tests that are there for it; a good generator, numpy's PCG64, passes all, not too well."""
    sequences = flawed()
    assert {test for _, by in sequences.values() for test in by} == set(BATTERY)
    for name, (flat, by) in sequences.items():
        for test in by or BATTERY:
            values = np.array(test(flat))
            alarm = values.min() <= FALSE_ALARM / len(values)
            assert alarm == bool(by), f"{test.__name__} is wrong about: {name}"
            assert by or len(values) < 30 or 0.3 < values.mean() < 0.7


# Dieharder

# Its counts of bits and of ascending runs would say again what the battery says.
DIEHARDER = {"birthdays": 0, "ranks 6x8": 3, "squeeze": 13, "craps": 16, "STS runs": 101, "bytes": 205}


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("dieharder"), reason="dieharder is not installed (apt-get install dieharder)")
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("test", DIEHARDER.values(), ids=DIEHARDER)
def test_dieharder(test, name):
    """Its verdict on the endless stream; WEAK, one in 200, is looked at again with more words until it is neither."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "word_stream.py"), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as source:
        asked = ["dieharder", "-g", "200", "-d", str(test), "-k", "2", "-Y", "1"]
        answer = subprocess.run(asked, stdin=source.stdout, capture_output=True, text=True, timeout=500).stdout
        source.stdout.close()
        source.kill()
    verdicts = [line.split("|")[-1].strip() for line in answer.splitlines() if line.count("|") == 5]
    verdicts = [verdict for verdict in verdicts if verdict != "Assessment"]
    assert verdicts, answer
    assert "FAILED" not in verdicts, answer
    assert "PASSED" in verdicts, answer
