"""What `ebm sample` does with words: documents of a length that contain some of them, and samples written as text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ebm_cli.errors import UserError, nearest
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.replicated_softmax import GivenWords, ReplicatedSoftmax
from ebm_cli.record.run import VOCABULARY, Run
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.block_gibbs import BlockGibbs
from ebm_cli.sampler.length_exchange import LengthExchange
from ebm_cli.space import Categorical, Counts, Space, Words

_LIKELY = 10
"""Words that are named in each line."""


def check_keys(length: int | None, given: Sequence[str], start: str, model: EnergyModel) -> None:
    """Raise UserError for `length` or `given` where they say nothing."""
    wanted = {"length": length, "given": f"[{','.join(given)}]" if given else None}
    for key, value in wanted.items():
        if value is not None and not isinstance(model, ReplicatedSoftmax):
            raise UserError(f"{key} = {value}: is for models of documents, this one is of {model.space.name} data")
        if value is not None and start == "chains":
            raise UserError(f"{key} = {value}: the run's own chains have words of their own; use start=noise")
    if length is not None and length <= len(given):
        raise UserError(f"length = {length}: the {len(given)} given words leave none to draw; make it longer")


def vocabulary(run: Run, space: Space) -> tuple[str, ...]:
    """The words that the run recorded. Raises UserError if they are not there, or not those of the space."""
    words, due = run.words(), space.values if isinstance(space, Words | Categorical) else space.sites
    file = run.path / VOCABULARY
    if words is None:
        raise UserError(
            f"{file} is missing or no list of words; ebm train resume={run.path} writes it where it is missing"
        )
    if len(words) != due:
        raise UserError(f"{file} has {len(words)} words, the model {due}; it was edited")
    return words


def counts(given: Sequence[str], words: Sequence[str], model: ReplicatedSoftmax) -> Tensor:
    """Of the given words, (K,). Raises UserError with words spelled like one that the vocabulary lacks."""
    number = {word: i for i, word in enumerate(words)}
    for word in given:
        if word not in number:
            close = nearest(word, list(words)) or "; name words that it has"
            raise UserError(f"given = [{','.join(given)}]: the vocabulary of the run lacks {word!r}{close}")
    index = torch.tensor([number[word] for word in given], dtype=torch.long)
    return torch.bincount(index, minlength=model.space.sites).to(model.W)


def moving(sampler: Sampler[Any, Any]) -> Sampler[Any, Any]:
    """The run's sampler without exchanges between lengths: all samples have the same."""
    return BlockGibbs(backwards=False) if isinstance(sampler, LengthExchange) else sampler


def conditional(model: ReplicatedSoftmax, given: Tensor, length: int | None) -> GivenWords:
    """The other words of documents of `length` words with the given counts (K,).

    None: as many as the median of the training documents, or one more than are given.
    """
    there = int(given.sum())
    return GivenWords(model, given, max(length or model.space.length, there + 1) - there)


def next_words(model: ReplicatedSoftmax, given: Tensor, words: Sequence[str]) -> list[str]:
    """Two lines on the word that comes next in a document of the given counts g (K,), both exact.

    The words with the highest p(w | g), and those with the highest p(w | g) / p(w), p(w) being that of the only word of
    a document, other than those given: given words raise the probability of what goes with them, but hardly above that
    of frequent words.
    """
    with torch.no_grad():
        log_p, alone = model.log_next_word(torch.stack([given, torch.zeros_like(given)]))
    lines = []
    raised = torch.where(given > 0, 0, (log_p - alone).exp())
    for said, value, unit in (("next word", log_p.exp(), ""), ("raised most", raised, "x")):
        best = [i for i in value.topk(min(_LIKELY, len(words))).indices.tolist() if value[i] > 0]
        lines.append(f"{said}: " + ", ".join(f"{words[i]} {value[i]:.3g}{unit}" for i in best))
    return lines


def lines(space: Space, x: Tensor, words: Sequence[str], given: Tensor | None = None) -> list[str]:
    """Each row of x (n, *shape) as text: of words themselves, of counts `word:count`.

    The words of which some are `given` (K,) come first, then the others, the more frequent before the less.
    """
    if isinstance(space, Counts):
        first = torch.zeros_like(x[0]) if given is None else (given > 0).to(x)
        return [_counts(row, row + first * (1 + x.max()), words) for row in x]
    return [" ".join(words[int(i)] for i in row) for row in x]


def _counts(row: Tensor, rank: Tensor, words: Sequence[str]) -> str:
    order = rank.argsort(descending=True, stable=True)
    return " ".join(f"{words[i]}:{int(row[i])}" for i in order.tolist() if row[i] > 0)
