"""Counts that stay sparse through chains and objective: what the same dense rows give."""

from dataclasses import replace

import pytest
import torch
from helpers.components import shipped
from helpers.training import small_run
from scipy.sparse import csr_matrix

from ebm_cli import rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.functional import joined, product, sparse_rows, totals, transposed_product
from ebm_cli.model.replicated_softmax import ReplicatedSoftmax
from ebm_cli.rng import stream
from ebm_cli.space import Counts
from ebm_cli.training import state
from ebm_cli.training.step import train_step

WORDS = 30


def counts(n=8, seed=0):
    """Documents of 1 to 40 words."""
    length = torch.arange(n) * 39 // max(1, n - 1) + 1
    return rng.multinomial(length, 2 * rng.normal((n, WORDS), stream(seed, "l")), stream(seed, "m"))


def sparse(x):
    row, column = x.nonzero().T
    return sparse_rows(row, column, x[row, column], tuple(x.shape))


def test_products_and_sums_are_those_of_dense_rows():
    x, other, table = (part.double() for part in (counts(), counts(3, seed=1), rng.normal((WORDS, 4), stream(0, "t"))))
    x[2] = 0  # a row with nothing in it
    for of in (sparse(x), x):
        torch.testing.assert_close(product(of, table), x @ table, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(totals(of), x.sum(1), rtol=0, atol=0)
        found = transposed_product(of, x[:, :5])
        torch.testing.assert_close(found, x.T @ x[:, :5], rtol=1e-13, atol=1e-13)
    both = joined(sparse(x), sparse(other))
    assert both.is_coalesced()
    assert torch.equal(both.to_dense(), torch.cat([x, other]))


def test_the_same_words_are_drawn(monkeypatch):
    logits, number, key = rng.normal((50, 9), stream(0, "l")), torch.arange(50) % 7, stream(0, "m")
    number[31] = 900
    whole = rng.multinomial(number, logits, key)
    for size in (rng._SHARES, 40):  # all rows at once, and some at a time
        monkeypatch.setattr(rng, "_SHARES", size)
        found = rng.sparse_multinomial(number, logits, key)
        assert torch.equal(found.to_dense(), whole)
        assert (found.values() > 0).all(), "none twice, none that was not drawn"


def test_rows_of_a_data_set_are_sparse_ones():
    x = counts()
    rows, index = SparseRows.of(csr_matrix(x.numpy())), torch.tensor([3, 0, 3])
    assert torch.equal(rows.sparse(index).to_dense(), x[index])
    assert torch.equal(rows[index].float(), x[index])


@pytest.mark.parametrize("gradient", ["exact", "without_length"])
def test_energies_and_gradients_are_those_of_dense_rows(gradient):
    space, x = Counts((WORDS,), 10), counts().double()
    model = ReplicatedSoftmax(space, 5, 0.3, torch.full((WORDS,), 1 / WORDS), stream(0, "w"), gradient).double()
    with torch.no_grad():
        model.b += rng.normal((WORDS,), stream(0, "b")).double()
        model.c += rng.normal((5,), stream(0, "c")).double()
    weight = rng.normal((len(x),), stream(0, "weight")).double()
    (energy, pull), (due, pull_due) = model.energy_vjp(sparse(x)), model.energy_vjp(x)
    torch.testing.assert_close(due, model.energy(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(energy, due, rtol=1e-12, atol=0)
    for name, grad in pull_due(weight).items():
        torch.testing.assert_close(pull(weight)[name], grad, rtol=1e-12, atol=1e-12, msg=name)


PARTS = {
    "dataset": "bag_of_words",
    "model": "replicated_softmax",
    "sampler": "block_gibbs",
    "chains": "data",
    "noise": "fitted",
    "objective": "cd",
    "optimizer": "sgd",
}


def run(others=(), **changes):
    """A replicated softmax on 40 documents, before its first step."""
    rows = SparseRows.of(csr_matrix(counts(40).numpy()))
    space = Counts((WORDS,), 10)
    split = Split(space, rows, scale=1.0, stochastic=False, labels=None)
    parts, _ = small_run()
    choice = PARTS | dict(others)
    config = {group: shipped(group)[name] | changes.get(group, {}) for group, name in choice.items()}
    components = state.build_components(config, choice)
    loop = replace(parts.loop, batch_size=12)
    return state.assemble(components, loop, parts.device, Data(space, split, None, split), choice)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_is_that_of_dense_rows(steps, monkeypatch):
    def trained():
        parts, now = run(chains={"steps": steps}, optimizer={"lr": 0.1})
        said = [train_step(parts, now).numbers() for _ in range(5)]
        return {name: p.detach().clone() for name, p in now.model.named_parameters()}, said

    taken = []
    monkeypatch.setattr(Split, "sparse", lambda split, index: taken.append(index) or split.stored.sparse(index))
    weights, said = trained()
    assert len(taken) == 5
    monkeypatch.setattr(ReplicatedSoftmax, "takes_sparse", False)
    weights_due, said_due = trained()
    assert len(taken) == 5
    torch.testing.assert_close(weights, weights_due, rtol=1e-4, atol=1e-5)
    assert said == [pytest.approx(due, rel=1e-4) for due in said_due]


@pytest.mark.parametrize("others", [{"chains": "persistent"}, {"sampler": "metropolis"}])
def test_parts_that_need_dense_rows_get_them(others, monkeypatch):
    monkeypatch.setattr(Split, "sparse", lambda split, index: pytest.fail("sparse rows"))
    parts, now = run(others)
    assert train_step(parts, now).step == 1
