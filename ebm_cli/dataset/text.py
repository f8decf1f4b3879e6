"""Running text as words with the words before them."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Arrays, Binarize, Dataset, Raw, Values
from ebm_cli.dataset.docstrings import documents
from ebm_cli.errors import UserError
from ebm_cli.registry import register

START, UNKNOWN = "<s>", "<unk>"
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[.!?](?=\s|$)|\n[^\S\n]*\n")
_FEWEST = 3  # documents, one for each split


@register("dataset", "text")
class Text(Dataset):
    """Every word of a text file with the `context` words before it; without a path the standard library's docstrings.

    A word is a run of letters with apostrophes between them, in lower case. After each sentence, which ends at a full
    stop, an exclamation or question mark before a space, or at an empty line, stands the word <s>; it also fills the
    contexts of a document's first words. Documents are modules of the library, paragraphs of a file, or its lines if
    it has too few of those. The vocabulary, in order of frequency, are <s>, <unk> and the words seen at least
    `min_count` times in the training documents, so many of the most frequent that it has `vocabulary` at most; any
    other word is <unk>. Shares of the documents, the same choice every time, are held out for testing and, of the rest,
    for validation.
    """

    path: str | None
    context: Annotated[int, Field(ge=1)]
    vocabulary: Annotated[int, Field(ge=3, le=2**24)]  # float32 counts no further
    min_count: Annotated[int, Field(ge=1)]
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    binarize: Binarize
    values: ClassVar[Values | None] = "words"

    @property
    @override
    def out_of_vocabulary(self) -> int:
        return 1

    @override
    def read(self) -> Raw:
        """Rows of numbers of words. Raises UserError if the file cannot be read or holds too little."""
        said, texts = documents_of(self.path)
        parts = parted([words for words in map(tokens, texts) if words], self.held_out, said)
        often = frequent(itertools.chain(*parts[0]), self.vocabulary - 2, self.min_count, said)
        vocabulary = (START, UNKNOWN, *often)
        number = {word: i for i, word in enumerate(vocabulary)}
        train, valid, test = (Arrays(windows(part, number, self.context)) for part in parts)
        return Raw("words", train, valid, test, words=vocabulary)


def documents_of(path: str | None) -> tuple[str, list[str]]:
    """How messages call a text, and its documents: paragraphs of a file, or the standard library's docstrings."""
    if path is None:
        return "the standard library's docstrings", [text for _, text in documents()]
    said = f"dataset.path = {path}"
    return said, _paragraphs(Path(path), said)


def frequent(units: Iterable[str], most: int, min_count: int, said: str) -> list[str]:
    """At most so many of the units of a text, <s> aside, that are there `min_count` times, the most frequent first."""
    count = Counter(units)
    del count[START]
    if len(count) == 1:
        raise UserError(f"{said}: the training documents hold one word only, {next(iter(count))!r}; give more text")
    often = sorted((-n, word) for word, n in count.items() if n >= min_count)
    if not often:
        raise UserError(
            f"dataset.min_count = {min_count}: no word is so frequent in {said} (the most frequent is there "
            f"{max(count.values())} times); lower it"
        )
    return [word for _, word in often[:most]]


def tokens(text: str) -> list[str]:
    """Words in lower case, and <s> after each sentence; none of a text without words."""
    found: list[str] = []
    for token in _TOKEN.findall(text.lower()):
        if token[0].isalpha():
            found.append(token)
        elif found and found[-1] != START:
            found.append(START)
    return found if not found or found[-1] == START else [*found, START]


def windows(parts: Sequence[Sequence[str]], number: dict[str, int], context: int) -> NDArray[np.int32]:
    """Each word of each document after the `context` words before it, (words, context + 1) numbers."""
    before, unknown = [number[START]] * context, number[UNKNOWN]
    rows = [
        np.lib.stride_tricks.sliding_window_view(
            np.array([*before, *(number.get(word, unknown) for word in words)], np.int32), context + 1
        )
        for words in parts
    ]
    return np.concatenate(rows)


def parted(found: list[list[str]], share: float, said: str) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """Documents for training, validation and testing, those of each in their order."""
    if len(found) < _FEWEST:
        raise UserError(f"{said}: too few paragraphs or lines with words ({len(found)}); give it {_FEWEST} at least")
    order = rng.permutation(len(found), rng.stream(0, "text")).tolist()
    test = max(1, round(share * len(found)))
    valid = max(1, round(share * (len(found) - test)))
    parts = order[test + valid :], order[test : test + valid], order[:test]
    train, valid_part, test_part = ([found[i] for i in sorted(part)] for part in parts)
    return train, valid_part, test_part


def _paragraphs(file: Path, said: str) -> list[str]:
    """Those of a file, or its lines if these are too few."""
    content = _content(file, said)
    found = re.split(r"\n[^\S\n]*\n", content)
    return found if sum(any(map(str.isalpha, part)) for part in found) >= _FEWEST else content.splitlines()


def lines_of(file: Path, said: str) -> list[str]:
    """Those of a text file. Raises UserError if it cannot be read."""
    return _content(file, said).splitlines()


def _content(file: Path, said: str) -> str:
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{said}: not UTF-8 ({error.reason} at byte {error.start}); convert it to UTF-8") from error
    except OSError as error:
        raise UserError(f"{said}: cannot be read ({error.strerror}); name a text file") from error
