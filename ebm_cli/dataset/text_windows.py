"""Windows of running text: so many words or characters in a row, each a site of K values."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset import own_rows, text
from ebm_cli.dataset.base import Arrays, Binarize, Dataset, Raw, Values
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.dataset.text import START, UNKNOWN
from ebm_cli.errors import UserError
from ebm_cli.registry import register

GAP = "?"
_NAMED = 5  # words in a sentence


@register("dataset", "text_windows")
class TextWindows(Dataset):
    """Every `length` words, or characters, in a row of a text file; without a path the standard library's docstrings.

    Words, sentences, documents and the vocabulary are as in `dataset=text`; characters are in lower case, with one
    blank in place of each run of white space, and their vocabulary has no <s>. For training there is a window at each
    word of a document that has enough after it; held-out documents are cut into windows that do not overlap.
    """

    path: str | None
    unit: Literal["words", "characters"]
    length: Annotated[int, Field(ge=2)]
    vocabulary: Annotated[int, Field(ge=3, le=2**24)]
    min_count: Annotated[int, Field(ge=1)]
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    binarize: Binarize
    values: ClassVar[Values | None] = "categorical"

    @property
    @override
    def out_of_vocabulary(self) -> int:
        return int(self.unit == "words")

    @override
    def read(self) -> Raw:
        """Rows of numbers in the vocabulary. Raises UserError if the file cannot be read or holds too little."""
        said, texts = text.documents_of(self.path)
        found = [units for units in map(self._units, texts) if len(units) >= self.length]
        parts = text.parted(found, self.held_out, f"{said}, of documents of {self.length} {self.unit} at least")
        special = (START, UNKNOWN) if self.unit == "words" else (UNKNOWN,)
        often = text.frequent(itertools.chain(*parts[0]), self.vocabulary - len(special), self.min_count, said)
        vocabulary = (*special, *often)
        number = {unit: i for i, unit in enumerate(vocabulary)}
        strides = (1, self.length, self.length)
        train, valid, test = (
            Arrays(_windows(part, number, self.length, stride)) for part, stride in zip(parts, strides, strict=True)
        )
        return Raw("categorical", train, valid, test, categories=len(vocabulary), words=vocabulary)

    @override
    def own_rows(self, path: Path, said: str, array: str | None) -> OwnRows:
        """Lines of a .txt file, a window each, a question mark for what is missing; else numbers of words."""
        if array is not None or path.suffix.lower() != ".txt":
            return own_rows.read(path, said, array)
        number = {unit: i for i, unit in enumerate(self.read().words)}
        lines = [(i, line) for i, line in enumerate(text.lines_of(path, said), 1) if line.strip()]
        found = [self._window(line, f"{said}, line {i}") for i, line in lines]
        unknown = number[UNKNOWN]
        values = np.array([[-1 if unit == GAP else number.get(unit, unknown) for unit in units] for units in found])
        strange = dict.fromkeys(unit for units in found for unit in units if unit != GAP and unit not in number)
        remarks = (self._read_as_unknown([*strange], said),) if strange else ()
        places = tuple(f"line {i}" for i, _ in lines)
        return OwnRows(np.where(values < 0, 0, values), values < 0, places=places, remarks=remarks)

    def _read_as_unknown(self, units: list[str], said: str) -> str:
        more = f" and {len(units) - _NAMED} more" if len(units) > _NAMED else ""
        named = ", ".join(units[:_NAMED]) + more
        return f"{said}: {self.unit} that the run's vocabulary lacks are read as {UNKNOWN}: {named}"

    def _window(self, line: str, said: str) -> list[str]:
        """Its words. Raises UserError for windows of another length."""
        units = line.lower().split() if self.unit == "words" else line.lower()
        if len(units) != self.length:
            raise UserError(
                f"{said}: has {len(units)} {self.unit}, the windows of the run {self.length}; write that many, {GAP} "
                "for each that is to be drawn"
            )
        return [*units]

    def _units(self, document: str) -> list[str]:
        return text.tokens(document) if self.unit == "words" else [*" ".join(document.lower().split())]


def _windows(documents: Iterable[Sequence[str]], number: dict[str, int], length: int, stride: int) -> NDArray[np.int32]:
    """Those of each document, (windows, length) numbers."""
    unknown = number[UNKNOWN]
    every = (np.array([number.get(unit, unknown) for unit in units], np.int32) for units in documents)
    return np.concatenate([np.lib.stride_tricks.sliding_window_view(row, length)[::stride] for row in every])
