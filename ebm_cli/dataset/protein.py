"""Multiple sequence alignments of a protein family: letters of one length, weighted against repetition."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset import kinds
from ebm_cli.dataset.alignment import GAPS, Aligned, file_alphabet, read_fasta
from ebm_cli.dataset.base import Arrays, Binarize, Raw, Truth, Values
from ebm_cli.dataset.files import data_root, missing, read_npz
from ebm_cli.dataset.held_out import FileSplit, hold_out
from ebm_cli.errors import UserError
from ebm_cli.registry import Files, register

_ROWS_AT_ONCE = 1024
_FEWEST = 3  # one for each split


@register("dataset", "protein")
class Protein(Aligned):
    """Aligned sequences as sites of one of the letters of `alphabet`, from a FASTA file or an .npz file.

    FASTA: records of one length. npz: key msa (n, length) of integers, places in the alphabet; if it has them, keys
    contacts (length, length), which `contacts` names for other files, and alphabet, which must be `alphabet`. Without a
    path: Kunitz domains (PF00014), in <root>/protein/kunitz.npz. Sequences that repeat are read once. Of FASTA files:
    letters that are not in the alphabet are read as `unknown`, or refused if that is null; lower-case letters and full
    stops, the insert columns of a2m and a3m files, are refused or left out (`inserts` drop). Shares of the rows are
    held out for testing and for validation.

    In training a sequence has the weight 1 / (number of training sequences, itself included, that agree with it in at
    least the share `reweight` of the sites) (Morcos et al. 2011, supp. eq. 1-2); null: equal weights. adabmDCA 1.0.0
    counts those above the share: 0.80001 does so here.
    """

    root: str | None
    path: str | None
    contacts: Annotated[str, Files()] | None
    reweight: Annotated[float, Field(gt=0, le=1)] | None
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    binarize: Binarize
    values: ClassVar[Values | None] = "categorical"

    @override
    def read(self) -> Raw:
        """The file's sequences. Raises UserError naming the first thing wrong with file, sequence or letter."""
        if len(set(self.alphabet)) < len(self.alphabet):
            raise UserError(f"dataset.alphabet = {self.alphabet}: a letter is there twice; leave it out once")
        file, said = self._file()
        rows, contacts, remarks = self._of_file(file, said)
        if self.contacts is not None:
            contacts = self._contacts(Path(self.contacts).expanduser(), f"dataset.contacts = {self.contacts}")
        if contacts is not None and contacts.shape != (rows.shape[1],) * 2:
            raise UserError(f"{said}: sequences have {rows.shape[1]} sites, contacts {contacts.shape}")
        distinct = np.unique(rows, axis=0)
        if len(distinct) < _FEWEST:
            raise UserError(f"{said}: too few distinct sequences ({len(distinct)}); the splits need {_FEWEST} at least")
        if len(distinct) < len(rows):
            remarks += (f"{len(rows) - len(distinct)} of {len(rows)} sequences repeat others and are read once",)
        train, test = hold_out(FileSplit("msa", distinct, None), "test", self.held_out, said)
        train, valid = hold_out(train, "valid", self.held_out, said)
        weights = None if self.reweight is None else sequence_weights(train.values, self.reweight)
        truth = Truth(contacts=None if contacts is None else torch.from_numpy(contacts))
        arrays = Arrays(train.values, None, weights), Arrays(valid.values), Arrays(test.values)
        remarks += _of_gaps(distinct, self.alphabet)
        return Raw("categorical", *arrays, truth, len(self.alphabet), letters=self.alphabet, remarks=remarks)

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
        rows, remarks = self.numbers(read_fasta(file, said), said)
        return rows, None, remarks

    def _of_npz(self, file: Path, said: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        found = read_npz(file, ("msa", "contacts", "alphabet"), said)
        if "msa" not in found:
            raise UserError(f"{said}: has no key msa; store the sequences under it as integers (n, length)")
        if "alphabet" in found and file_alphabet(found["alphabet"], said) != self.alphabet:
            own = file_alphabet(found["alphabet"], said)
            raise UserError(f"dataset.alphabet = {self.alphabet}: {said} says {own}; set dataset.alphabet={own}")
        msa = found["msa"]
        if msa.dtype.kind not in "iu" or msa.ndim != 2 or msa.size == 0:
            raise UserError(f"{said}: msa has type {msa.dtype} and shape {msa.shape}; it must be integers (n, length)")
        low, high, letters = int(msa.min()), int(msa.max()), len(self.alphabet)
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
    gaps = [alphabet.index(sign) for sign in GAPS if sign in alphabet]
    empty = int(np.isin(rows, gaps).all(0).sum())
    return (f"{empty} of {rows.shape[1]} sites are gaps in all sequences; take them out",) if empty else ()


def _square(contacts: NDArray[Any], said: str) -> NDArray[np.bool_]:
    if contacts.ndim != 2 or not np.array_equal(contacts, contacts.T):
        raise UserError(f"{said}: contacts has shape {contacts.shape}; it must be a symmetric matrix (length, length)")
    if not ((contacts == 0) | (contacts == 1)).all() or not contacts.any():
        raise UserError(
            f"{said}: contacts has values from {contacts.min():g} to {contacts.max():g}; it must hold 1 for pairs that "
            "touch and 0 for others (of distances, take those below 8 angstrom)"
        )
    return contacts.astype(np.bool_)


def sequence_weights(rows: NDArray[np.uint8], identity: float) -> NDArray[np.float64]:
    """1 / (number of rows, itself included, that agree with it in at least `identity` of the sites), (n,)."""
    numbers = torch.from_numpy(rows).long()
    one_hot = F.one_hot(numbers, int(numbers.max()) + 1).flatten(1).float()
    least = identity * rows.shape[1] - 1e-6  # sums of ones are exact, the product need not be
    counts = [(part @ one_hot.T >= least).sum(1) for part in one_hot.split(_ROWS_AT_ONCE)]
    weights: NDArray[np.float64] = (1 / torch.cat(counts).double()).numpy()
    return weights
