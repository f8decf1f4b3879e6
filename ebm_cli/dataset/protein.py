"""Multiple sequence alignments of a protein family: letters of one length, weighted against repetition."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset import kinds, sequences
from ebm_cli.dataset.alignment import GAPS, Aligned, distinct_rows, file_alphabet
from ebm_cli.dataset.base import Arrays, Binarize, Raw, Truth, Values
from ebm_cli.dataset.files import data_root, missing, read_npz
from ebm_cli.dataset.held_out import FileSplit, hold_out
from ebm_cli.errors import UserError
from ebm_cli.registry import Files, Later, register

_ROWS_AT_ONCE = 1024
_FEWEST = 3  # one for each split


@register("dataset", "protein")
class Protein(Aligned):
    """Aligned sequences as sites of one of the letters of `alphabet`: protein, rna, dna, or letters in their order.

    From a FASTA, a2m, a3m or Stockholm file, packed by gzip or not, or an .npz file. npz: key msa (n, length) of
    integers, places in the alphabet; if it has them, keys contacts (length, length), which `contacts` names for other
    files, and alphabet, which must be `alphabet`. Of Stockholm files the columns that a line `#=GC RF` marks, where
    there is one. Without a path: Kunitz domains (PF00014), in <root>/protein/kunitz.npz. Sequences with a greater share
    of gaps than `max_gaps` are left out. Sequences that repeat are read once, or weigh as many as they are
    (`duplicates` weigh). Shares of the rows are held out for testing and for validation.

    In training a sequence has the weight 1 / (number of training sequences, itself included, that agree with it in at
    least the share `reweight` of the sites) (Morcos et al. 2011, supp. eq. 1-2); null: equal weights. adabmDCA 1.0.0
    counts those above the share: 0.80001 does so here.
    """

    root: str | None
    path: str | None
    contacts: Annotated[str, Files()] | None
    reweight: Annotated[float, Field(gt=0, le=1)] | None
    duplicates: Annotated[Literal["once", "weigh"], Later("once")]
    max_gaps: Annotated[float | None, Field(ge=0, lt=1), Later()]
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    binarize: Binarize
    values: ClassVar[Values | None] = "categorical"

    @override
    def read(self) -> Raw:
        """The file's sequences. Raises UserError naming the first thing wrong with file, sequence or letter."""
        if len(set(self.letters)) < len(self.letters):
            raise UserError(f"dataset.alphabet = {self.alphabet}: a letter is there twice; leave it out once")
        file, said = self._file()
        rows, contacts, remarks = self._of_file(file, said)
        if self.contacts is not None:
            contacts = self._contacts(Path(self.contacts).expanduser(), f"dataset.contacts = {self.contacts}")
        if contacts is not None and contacts.shape != (rows.shape[1],) * 2:
            raise UserError(f"{said}: sequences have {rows.shape[1]} sites, contacts {contacts.shape}")
        rows, of_gaps = self._without_gaps(rows, said)
        distinct, count = distinct_rows(rows)
        if len(distinct) < _FEWEST:
            raise UserError(f"{said}: too few distinct sequences ({len(distinct)}); the splits need {_FEWEST} at least")
        copies = None
        if len(distinct) < len(rows):
            copies = count.astype(np.float64) if self.duplicates == "weigh" else None
            how = "read once" if copies is None else "weighed as one"
            remarks += (f"{len(rows) - len(distinct)} of {len(rows)} sequences repeat others and are {how}",)
        train, test = hold_out(FileSplit("msa", distinct, None, copies), "test", self.held_out, said)
        train, valid = hold_out(train, "valid", self.held_out, said)
        weights = train.weights
        if self.reweight is not None:
            weights = sequence_weights(train.values, self.reweight, train.weights)
        truth = Truth(contacts=None if contacts is None else torch.from_numpy(contacts))
        arrays = Arrays(train.values, None, weights), Arrays(valid.values), Arrays(test.values)
        remarks += of_gaps + _of_gaps(distinct, self.letters)
        return Raw("categorical", *arrays, truth, len(self.letters), letters=self.letters, remarks=remarks)

    def _without_gaps(self, rows: NDArray[np.uint8], said: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """The rows of no greater share of gaps than `max_gaps`, and a remark on the others."""
        if self.max_gaps is None:
            return rows, ()
        kept = rows[_is_gap(rows, self.letters).mean(1) <= self.max_gaps]
        if not len(kept):
            raise UserError(f"dataset.max_gaps = {self.max_gaps:g}: each sequence of {said} has more; raise it")
        gone = len(rows) - len(kept)
        more = f"{gone} of {len(rows)} sequences have more than {self.max_gaps:.0%} gaps and are left out"
        return kept, (f"dataset.max_gaps = {self.max_gaps:g}: {more}",) if gone else ()

    def _file(self) -> tuple[Path, str]:
        if self.path is not None:
            return Path(self.path).expanduser(), f"dataset.path = {self.path}"
        file = data_root(self.root) / "protein" / "kunitz.npz"
        if not file.is_file():
            raise UserError(f"{missing(file.parent, file.name)}, or name your own alignment by dataset.path=FILE")
        return file, str(file)

    def _of_file(self, file: Path, said: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None, tuple[str, ...]]:
        """Rows with repetition, contacts where the file has them, and remarks."""
        if file.suffix == ".npz" or (kinds.found(file) or ("",))[0] == "npz":
            return (*self._of_npz(file, said), ())
        rows, remarks = self.numbers(sequences.read(file, said), said)
        return rows, None, remarks

    def _of_npz(self, file: Path, said: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        found = read_npz(file, ("msa", "contacts", "alphabet"), said)
        if "msa" not in found:
            raise UserError(f"{said}: has no key msa; store the sequences under it as integers (n, length)")
        if "alphabet" in found and file_alphabet(found["alphabet"], said) != self.letters:
            own = file_alphabet(found["alphabet"], said)
            raise UserError(f"dataset.alphabet = {self.alphabet}: {said} says {own}; set dataset.alphabet={own}")
        msa = found["msa"]
        if msa.dtype.kind not in "iu" or msa.ndim != 2 or msa.size == 0:
            raise UserError(f"{said}: msa has type {msa.dtype} and shape {msa.shape}; it must be integers (n, length)")
        low, high, letters = int(msa.min()), int(msa.max()), len(self.letters)
        if low < 0 or high >= letters:
            worst = low if low < 0 else high
            raise UserError(f"{said}: msa holds {worst}, dataset.alphabet has letters 0 to {letters - 1}; give it all")
        contacts = found.get("contacts")
        return msa.astype(np.uint8), None if contacts is None else _square(contacts, said)

    def _contacts(self, file: Path, said: str) -> NDArray[np.bool_]:
        found = read_npz(file, ("contacts",), said)
        if "contacts" not in found:
            raise UserError(f"{said}: has no key contacts; store the contact map under it, (length, length)")
        return _square(found["contacts"], said)


def _of_gaps(rows: NDArray[np.uint8], alphabet: str) -> tuple[str, ...]:
    """A remark on sites that are gaps in every sequence."""
    empty = int(_is_gap(rows, alphabet).all(0).sum())
    return (f"{empty} of {rows.shape[1]} sites are gaps in all sequences; take them out",) if empty else ()


def _is_gap(rows: NDArray[np.uint8], alphabet: str) -> NDArray[np.bool_]:
    return np.isin(rows, [alphabet.index(sign) for sign in GAPS if sign in alphabet])


def _square(contacts: NDArray[Any], said: str) -> NDArray[np.bool_]:
    if contacts.ndim != 2 or not np.array_equal(contacts, contacts.T):
        raise UserError(f"{said}: contacts has shape {contacts.shape}; it must be a symmetric matrix (length, length)")
    if not ((contacts == 0) | (contacts == 1)).all() or not contacts.any():
        raise UserError(
            f"{said}: contacts has values from {contacts.min():g} to {contacts.max():g}; it must hold 1 for pairs that "
            "touch and 0 for others (of distances, take those below 8 angstrom)"
        )
    return contacts.astype(np.bool_)


def sequence_weights(
    rows: NDArray[np.uint8], identity: float, copies: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """1 / (number of rows, itself included, that agree with it in at least `identity` of the sites), (n,).

    Of rows that are there `copies` (n,) times each: copies / (sum of those of the rows that agree), the sum of what
    each copy would have.
    """
    numbers = torch.from_numpy(rows).long()
    one_hot = F.one_hot(numbers, int(numbers.max()) + 1).flatten(1).float()
    least = identity * rows.shape[1] - 1e-6  # sums of ones are exact, the product need not be
    own = torch.ones(len(rows), dtype=torch.float64) if copies is None else torch.from_numpy(copies)
    counts = [(part @ one_hot.T >= least).double() @ own for part in one_hot.split(_ROWS_AT_ONCE)]
    weights: NDArray[np.float64] = (own / torch.cat(counts)).numpy()
    return weights
