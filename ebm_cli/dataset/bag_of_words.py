"""Word counts of documents: the user's own texts or counts, or a corpus of the data folder."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset import count_files, texts
from ebm_cli.dataset.base import Raw
from ebm_cli.dataset.counting import SPLITS, CountedTexts, raw, with_held_out
from ebm_cli.dataset.files import data_root, missing
from ebm_cli.errors import UserError
from ebm_cli.registry import Files, register

Name = Annotated[str, Field(min_length=1)]

_KINDS = "a folder of .txt files, or a .csv, .jsonl, .npz or .mtx file"


@register("dataset", "bag_of_words")
class BagOfWords(CountedTexts):
    """How often each word of a vocabulary is in each document.

    `path`, of the user's own, is one of these; `corpus` is the name of a file text/NAME.npz in the data folder.

    Texts, which are counted as `CountedTexts` says, all in one `encoding`: a folder of .txt files, a document each (if
    all are in subfolders, the first subfolder on the way to a file is its label); a .csv file, the first line of which
    names the columns, or a .jsonl file, an object in each line, with the text in `column` and, if you like, labels in
    the column `label`.

    Counts, whose vocabulary stays as it is: an .npz file with the words, vocab, and, for train and, if you like, valid
    and test, a matrix (documents, words) in compressed-sparse-row form, SPLIT_data, SPLIT_indices, SPLIT_indptr and
    SPLIT_shape, and integers SPLIT_label (documents,) if you like; a matrix market file (.mtx) of documents and words
    with, if you like, the words in the lines of `vocabulary_file`. Splits that are missing are held out from train.
    """

    root: str | None
    corpus: Name | None
    path: Name | None
    column: str
    label: str | None
    encoding: str
    vocabulary_file: Annotated[Name, Files()] | None

    @override
    def read(self) -> Raw:
        """The counts. Raises UserError naming the key, the file and the first thing wrong with it."""
        path, said = self._path()
        kind = "folder" if path.is_dir() else path.suffix.lower()
        self._check_keys(kind)
        if kind == "folder" or kind in texts.TABLES or self.vocabulary_file is not None:
            texts.check_encoding(self.encoding)
        if kind == "folder":
            return self.counted(texts.of_folder(path, self.encoding, said), said)
        if kind in texts.TABLES:
            columns = texts.Columns(self.column, self.label)
            return self.counted(texts.of_table(path, columns, self.encoding, said), said)
        if kind == ".npz":
            splits, words = count_files.of_npz(path, said)
        elif kind == ".mtx":
            vocabulary = None if self.vocabulary_file is None else Path(self.vocabulary_file).expanduser()
            encoding = None if vocabulary is None else self.encoding
            counted, words = count_files.of_matrix_market(path, vocabulary, encoding, said)
            splits = {"train": counted}
        else:
            raise UserError(f"{said}: of an unknown kind; give {_KINDS}")
        share = 0.0 if len(splits) == len(SPLITS) else self.held_out
        splits, empty = with_held_out(splits, share, said)
        return raw(splits, words, empty, said)

    def _path(self) -> tuple[Path, str]:
        """Of the documents, which are there, and how messages begin that are about them."""
        if (self.path is None) == (self.corpus is None):
            have = "null, and so is dataset.corpus" if self.path is None else f"{self.path} beside dataset.corpus"
            raise UserError(
                f"dataset.path = {have}: name your documents by dataset.path (give {_KINDS}) or those of the data "
                "folder by dataset.corpus, e.g. 20newsgroups_2000"
            )
        if self.path is not None:
            path, said = Path(self.path).expanduser(), f"dataset.path = {self.path}"
            if not path.exists():
                raise UserError(f"{said}: there is no such file or folder; give {_KINDS}")
            return path, said
        folder, said = data_root(self.root) / "text", f"dataset.corpus = {self.corpus}"
        there = sorted(path.stem for path in folder.glob("*.npz"))
        if self.corpus in there:
            return folder / f"{self.corpus}.npz", said
        if not there:
            raise UserError(missing(folder, f"{self.corpus}.npz"))
        raise UserError(f"{said}: {folder} has {', '.join(there)}; name one of these, or your own by dataset.path")

    def _check_keys(self, kind: str) -> None:
        """Raise UserError for a key that says nothing of documents of this kind."""
        for key, kinds in (("label", texts.TABLES), ("vocabulary_file", (".mtx",))):
            value = getattr(self, key)
            if value is not None and kind not in kinds:
                raise UserError(f"dataset.{key} = {value}: is for {' and '.join(kinds)} files alone; leave it out")
