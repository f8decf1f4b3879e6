"""Word counts of documents: texts, tables and files of counts as they are read, and what is said of bad ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts
from helpers.components import component, real_data
from helpers.statistics import assert_close
from scipy.io import mmwrite
from scipy.sparse import csr_matrix

from ebm_cli.dataset import stdlib_docs
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.errors import UserError
from ebm_cli.space import Counts

TEXTS = {
    "one.txt": "Apple apple Banana.",
    "two.txt": "banana the cherry",
    "deep/three.txt": "cherry apple; don't fig-apple",
    "four.TXT": "APPLE'S cherry, l'orange 4 x",
    "five.txt": "fig banana apple",
    ".hidden.txt": "hidden",
    "notes.md": "no document",
}


def folder(path, texts=TEXTS, encoding="utf-8"):
    """A folder of these files below `path`."""
    root = path / "texts"
    for name, text in texts.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return root


def bag(path, **changes):
    """The dataset of documents at a path, with every word of theirs."""
    every = {"min_documents": 1, "max_documents": 1.0}
    return component("dataset", "bag_of_words", path=None if path is None else str(path), **every | changes)


def documents(raw):
    """Each document as a dictionary of its words, and its label, over all splits."""
    found = []
    for part in (raw.train, raw.valid, raw.test):
        labels = [None] * len(part.values) if part.labels is None else part.labels.tolist()
        for row, label in zip(part.values[torch.arange(len(part.values))].tolist(), labels, strict=True):
            found.append(({w: n for w, n in zip(raw.words, row, strict=True) if n}, label))
    return found


def counted(raw):
    """The documents alone, in an order of their own."""
    return sorted((sorted(words.items()) for words, _ in documents(raw)), key=str)


# Texts


def test_a_folder_is_counted_word_by_word(tmp_path):
    """With the vocabulary of the training documents, which these lengths of the splits tell apart."""
    raw = bag(folder(tmp_path), stop_words="none").read()
    assert [len(part.values) for part in (raw.train, raw.valid, raw.test)] == [3, 1, 1]
    by_hand = [
        {"apple": 2, "banana": 1},
        {"banana": 1, "the": 1, "cherry": 1},
        {"cherry": 1, "apple": 2, "don": 1, "fig": 1},
        {"apple": 1, "cherry": 1, "orange": 1},
        {"fig": 1, "banana": 1, "apple": 1},
    ]
    assert counted(raw) == sorted((sorted((w, n) for w, n in d.items() if w in raw.words) for d in by_hand), key=str)
    assert list(raw.words) == sorted(raw.words)
    assert (raw.train.values.of_columns() > 0).all()


def test_stop_words_and_negations_are_left_out(tmp_path):
    words = bag(folder(tmp_path, TEXTS | {f"{i}.txt": TEXTS["deep/three.txt"] for i in range(9)})).read().words
    assert {"cherry", "apple", "fig"} <= set(words) <= {"cherry", "apple", "fig", "banana", "orange"}
    other = {f"{i}.txt": f"The cat{i % 3 * 's'} of Rome" for i in range(9)}
    assert "rome" in bag(folder(tmp_path / "lower", other)).read().words
    kept = bag(folder(tmp_path / "upper", other), lower=False).read().words
    assert "Rome" in kept
    assert not {"The", "the", "of"} & set(kept)


def many(tmp_path):
    """Some documents; word w<n> is in those whose number n divides."""
    letters = "abcdefghij"
    text = {f"{i:02}.txt": " ".join(f"w{letters[n]} " * n for n in range(1, 10) if i % n == 0) for i in range(90)}
    return folder(tmp_path, text)


def test_the_vocabulary_is_chosen_by_the_training_documents(tmp_path):
    """Its words, numbers of documents and order of frequency against loops over what is in the training split."""
    whole = bag(many(tmp_path)).read()
    x = whole.train.values[torch.arange(len(whole.train.values))]
    spread = dict(zip(whole.words, (x > 0).sum(0).tolist(), strict=True))
    total = dict(zip(whole.words, x.sum(0).tolist(), strict=True))
    few, most = sorted(spread.values())[1], sorted(spread.values())[-3]
    expected = {w for w in whole.words if few <= spread[w] <= most}
    assert 3 < len(expected) < len(whole.words) - 2
    most = (most + 0.1) / len(x)
    kept = bag(many(tmp_path), min_documents=few, max_documents=most).read()
    assert set(kept.words) == expected
    best = sorted(expected, key=lambda w: (-total[w], w))[:3]
    assert bag(many(tmp_path), min_documents=few, max_documents=most, vocabulary=3).read().words == tuple(sorted(best))


def test_words_of_held_out_documents_are_not_in_the_vocabulary(tmp_path):
    """Every document has one word of its own, of which only those of training are counted."""
    own = {f"{i:02}.txt": f"all of us {chr(97 + i) * 3}" for i in range(20)}
    raw = bag(folder(tmp_path, own), stop_words="none").read()
    assert [len(part.values) for part in (raw.train, raw.valid, raw.test)] == [16, 2, 2]
    assert len(raw.words) == 3 + 16
    assert (raw.test.values.of_rows() == 3).all()
    again = bag(folder(tmp_path, own), stop_words="none").read()
    assert again.words == raw.words


def test_subfolders_are_labels_where_every_file_is_in_one(tmp_path):
    texts = {f"{kind}/{i}/x.txt": f"{kind} word" for kind in ("sea", "air", "land") for i in range(3)}
    raw = bag(folder(tmp_path, texts)).read()
    assert {(*words, label) for words, label in documents(raw)} <= {
        ("air", "word", 0),
        ("land", "word", 1),
        ("sea", "word", 2),
        ("word", 2),
        ("word", 1),
        ("word", 0),
    }
    assert bag(folder(tmp_path, {"top.txt": "word"})).read().train.labels is None


def test_documents_without_words_are_left_out_and_named(tmp_path):
    texts = {f"{i}.txt": f"good word{i % 2 * 's'} here" for i in range(9)} | {
        "a.txt": "",
        "b.txt": "1 2",
        "c.txt": "of",
    }
    raw = bag(folder(tmp_path, texts)).read()
    (remark,) = raw.remarks
    assert remark == "3 documents of 12 without any word of the vocabulary left out: " + ", ".join(
        sorted(("a.txt", "b.txt", "c.txt"), key=remark.index)
    )
    parts = (raw.train, raw.valid, raw.test)
    assert sum(len(part.values) for part in parts) == 9
    assert all((part.values.of_rows() > 0).all() for part in parts)
    assert not bag(folder(tmp_path / "other", {f"{i}.txt": f"good words {i}" for i in range(5)})).read().remarks


def test_empty_documents_are_not_held_out(tmp_path):
    """Of three with words and nine without, each split has one."""
    texts = {f"{i}.txt": "" for i in range(9)} | {f"{name}.txt": "red green" for name in "abc"}
    raw = bag(folder(tmp_path, texts)).read()
    assert [len(part.values) for part in (raw.train, raw.valid, raw.test)] == [1, 1, 1]
    assert raw.remarks == ("9 documents of 12 without any word of the vocabulary left out: 0.txt, 1.txt, 2.txt, ...",)


def test_an_encoding_is_that_of_every_file(tmp_path):
    texts = {f"{i}.txt": "café noir" for i in range(4)}
    assert bag(folder(tmp_path, texts, "latin-1"), encoding="latin-1").read().words == ("café", "noir")
    marked = {name: b"\xff\xfe" + text.encode("utf-16-le") for name, text in texts.items()}
    assert bag(folder(tmp_path / "marked", marked), encoding="utf-16").read().words == ("café", "noir")


RECORDS = [("red green", "b"), ('green, "blue"\nred', "a"), ("blue red", "b"), ("green blue", "a"), ("red blue", "c")]


def table(path, kind, records=RECORDS):
    """The records as a file: with a column no. before those of the text and the label."""
    file = path / f"table.{kind}"
    if kind == "csv":
        quoted = ['"' + text.replace('"', '""') + '"' for text, _ in records]
        lines = [f"{i},{text},{label}\r\n" for i, (text, (_, label)) in enumerate(zip(quoted, records, strict=True))]
        file.write_bytes(("\ufeffno.,body,kind\r\n" + "".join(lines)).encode())
    else:
        objects = [{"no.": i, "body": text, "kind": label} for i, (text, label) in enumerate(records)]
        file.write_text("\n\n".join(json.dumps(record, ensure_ascii=False) for record in objects))
    return file


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_is_a_document_in_each_record(kind, tmp_path):
    raw = bag(table(tmp_path, kind), column="body", label="kind").read()
    by_hand = [({w: 1 for w in ("blue", "green", "red") if w in text}, "abc".index(label)) for text, label in RECORDS]
    assert sorted(documents(raw), key=str) == sorted(by_hand, key=str)
    assert bag(table(tmp_path, kind), column="body").read().train.labels is None


@pytest.mark.long
def test_long_fields_and_line_separators_are_read(tmp_path):
    """Beyond the limit of the csv module; U+2028 in JSON is no end of a line."""
    long = [("red\u2028green " * 20_000, "a")] * 3
    assert bag(table(tmp_path, "csv", long), column="body").read().train.values.count.tolist() == [20_000] * 2
    assert bag(table(tmp_path, "jsonl", long), column="body").read().train.values.count.tolist() == [20_000] * 2


# Counts

ROWS = np.array([[1, 0, 2], [0, 1, 0], [3, 0, 0], [1, 1, 1], [0, 0, 4]])
LABELS = np.array([3, 1, 3, 0, 2], np.uint8)


def arrays(**splits):
    """What an .npz file of these splits holds."""
    found = {"vocab": np.array(["ab", "cd", "ef"])}
    for name, rows in splits.items():
        m = csr_matrix(rows.astype(np.uint16))
        parts = {"data": m.data, "indices": m.indices.astype(np.uint16), "indptr": m.indptr, "shape": np.array(m.shape)}
        found |= {f"{name}_{part}": array for part, array in parts.items()}
    return found


def npz(path, **changes):
    """A file with train, valid and test, some arrays changed, or left out where they are None."""
    file = path / "counts.npz"
    there = arrays(train=ROWS, valid=ROWS[:2], test=ROWS[2:]) | {"train_label": LABELS} | changes
    np.savez(file, **{key: array for key, array in there.items() if array is not None})
    return file


def test_an_npz_file_is_its_splits(tmp_path):
    data = bag(npz(tmp_path)).load((Counts,))
    assert data.words == ("ab", "cd", "ef")
    assert torch.equal(data.train.all(), torch.from_numpy(ROWS).float())
    assert torch.equal(data.valid.all(), torch.from_numpy(ROWS[:2]).float())
    assert torch.equal(data.test.all(), torch.from_numpy(ROWS[2:]).float())
    assert data.train.labels.tolist() == LABELS.tolist()
    assert data.test.labels is None
    assert data.space == Counts((3,), 3)
    assert not data.remarks


def test_splits_that_are_missing_are_held_out(tmp_path):
    file = tmp_path / "train.npz"
    np.savez(file, **arrays(train=ROWS), train_label=LABELS)
    raw = bag(file, held_out=0.25).read()
    assert [len(part.values) for part in (raw.train, raw.valid, raw.test)] == [3, 1, 1]
    by_hand = [({w: n for w, n in zip(("ab", "cd", "ef"), row, strict=True) if n}, label) for row, label in
               zip(ROWS.tolist(), LABELS.tolist(), strict=True)]  # fmt: skip
    assert sorted(documents(raw), key=str) == sorted(by_hand, key=str)


def test_entries_that_are_there_twice_are_added(tmp_path):
    parts = {"train_data": np.array([200, 100], np.uint8), "train_indices": np.array([1, 1]),
             "train_indptr": np.array([0, 2]), "train_shape": np.array([1, 3]), "train_label": None}  # fmt: skip
    assert bag(npz(tmp_path, **parts)).read().train.values[torch.tensor([0])].tolist() == [[0, 300, 0]]


@pytest.mark.parametrize("named", [True, False])
def test_a_matrix_market_file_with_words_and_without(named, tmp_path):
    mmwrite(tmp_path / "counts.mtx", csr_matrix(ROWS))
    (tmp_path / "words.txt").write_text("ab\ncd \nef\n\n")
    words = {"vocabulary_file": str(tmp_path / "words.txt")} if named else {}
    raw = bag(tmp_path / "counts.mtx", **words).read()
    assert raw.words == (("ab", "cd", "ef") if named else ("1", "2", "3"))
    found = torch.cat([part.values[torch.arange(len(part.values))] for part in (raw.train, raw.valid, raw.test)])
    assert sorted(found.tolist()) == sorted(ROWS.tolist())


def test_counts_without_any_word_are_left_out(tmp_path):
    rows = np.concatenate([ROWS, np.zeros((2, 3), int)])
    raw = bag(npz(tmp_path, **arrays(train=rows), train_label=None)).read()
    assert raw.remarks == ("2 documents of 12 without any word of the vocabulary left out: train row 5, train row 6",)
    assert len(raw.train.values) == 5


BAD_COUNTS = {
    "vocab": (None, "has no key vocab; it has train_data"),
    "train_data": (np.array([1.5, 2, 1, 3, 1, 1, 1, 4]), "train_data has 1 fractional numbers, 1.5 the first"),
    "valid_data": (np.array([1, -2, 1]), "valid_data has 1 negative numbers, -2 the first"),
    "test_data": (np.array([1, np.nan, 1, 1, 4]), "test_data has 1 fractional numbers, nan the first"),
    "train_indices": (np.array([0, 2, 1, 0, 0, 1, 2, 3]), "train_indices go from 0 to 3; the words are 0 to 2"),
    "test_indices": (np.zeros(4, int), "test_data has shape (5,), test_indices (4,) and test_indptr ends at 5"),
    "train_indptr": (np.array([0, 2, 1, 4, 7, 8]), "train_indptr must rise from 0, with 6 entries"),
    "valid_indptr": (np.array([0.0, 2, 3]), "valid_indptr has type float64 and shape (3,); it must be integers"),
    "test_indptr": (None, "has no key test_indptr; it has"),
    "train_shape": (np.array([5]), "train_shape is [5]; it must be [documents, words]"),
    "valid_shape": (np.array([2, 4]), "valid_shape says 4 words, vocab has 3; they must agree"),
    "train_label": (np.arange(4), "train_label has type int64 and shape (4,); it must be integers of shape (5,)"),
    "test_label": (np.array(["a", "b", "c"]), "test_label has type <U1"),
}


@pytest.mark.parametrize("key", BAD_COUNTS)
def test_a_bad_array_is_named(key, tmp_path):
    array, said = BAD_COUNTS[key]
    with pytest.raises(UserError) as error:
        bag(npz(tmp_path, **{key: array})).read()
    assert f"counts.npz: {said}" in str(error.value)


@pytest.mark.parametrize(
    ("vocab", "said"),
    [
        (np.array(["ab", "cd", "ab"]), "words number 1 and 3 are both 'ab'; they must differ"),
        (np.array(["ab", "c\nd", "ef"]), "its word number 2 is 'c\\nd'; it must be a word"),
        (np.array([1, 2, 3]), "vocab has type int64 and shape (3,); it must be strings"),
        (np.array(["ab", object(), "cd"], object), "cannot read vocab"),
    ],
)
def test_a_bad_vocabulary_is_named(vocab, said, tmp_path):
    with pytest.raises(UserError) as error:
        bag(npz(tmp_path, vocab=vocab)).read()
    assert said in str(error.value)


# Bad input

ENOUGH = {f"{i}.txt": "good words" for i in range(4)}
BAD_FOLDERS = {
    "nothing there": ({}, {}, "there is no such file or folder; give a folder of .txt files"),
    "no .txt": ({"a.md": "words"}, {}, "the folder has no .txt file; one file is one document"),
    "too few": (
        {"a.txt": "good words", "b.txt": "good words"},
        {},
        "too few documents with words (2); training, valid",
    ),
    "latin-1": (ENOUGH | {"x.txt": b"good caf\xe9"}, {}, "dataset.encoding = utf-8: "),
    "which file": (ENOUGH | {"x.txt": b"good caf\xe9"}, {}, "x.txt is in another one (see byte 8); convert"),
    "no such encoding": (ENOUGH, {"encoding": "utf8000"}, "dataset.encoding = utf8000: no such encoding; use utf-8"),
    "no text encoding": (ENOUGH, {"encoding": "hex"}, "dataset.encoding = hex: no such encoding"),
    "no word": ({f"{i}.txt": "1 2 x" for i in range(4)}, {}, "its 4 documents hold no word (two letters at least)"),
    "stop words": ({f"{i}.txt": "of the" for i in range(4)}, {}, "dataset.stop_words = english: dataset.path = "),
    "one word": ({f"{i}.txt": "word" for i in range(4)}, {}, "the 2 training documents hold one word only, 'word'"),
    "too rare": (
        ENOUGH,
        {"min_documents": 9},
        "dataset.min_documents = 9: leave no word",
    ),
    "too wide": (
        ENOUGH,
        {"max_documents": 0.5},
        "dataset.max_documents = 0.5: leave no word of the 2 in the 2 training documents of dataset.path",
    ),
    "label": (ENOUGH, {"label": "kind"}, "dataset.label = kind: is for .csv and .jsonl files alone; leave it out"),
    "vocabulary": (ENOUGH, {"vocabulary_file": "x"}, "dataset.vocabulary_file = x: is for .mtx files alone; leave it"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_one_sentence(case, tmp_path):
    texts, changes, said = BAD_FOLDERS[case]
    with pytest.raises(UserError) as error:
        bag(folder(tmp_path, texts), **changes).read()
    assert said in str(error.value)


BAD_FILES = {
    "t.csv": [
        (b"", "the file is empty; its first line must name the columns"),
        (b"text;label\na;b\n", "t.csv has the columns (between commas) text;label; name one of them"),
        (b"body,text\na,b,c\n", "the record that ends in line 2 has 3 fields, the first line 2; put texts with commas"),
        (b'body\n"a\n', "is no CSV (unexpected end of data); mend it"),
        (b"body\nred green\n\n", "too few documents with words (1)"),
        (b"body\n", "too few documents with words (0)"),
    ],
    "t.jsonl": [
        (b'{"body": "a"}\n{"body"', "line 2 is no JSON (Expecting ':' delimiter"),
        (b'["a"]', 'line 1 is no JSON object; write {"body": ...}'),
        (b'\n{"t\\u0007": "a"}', "t.jsonl has in line 2 the keys 't\\x07'; name one of them"),
        (b'{"body": ["a"]}', 'body of line 1 is ["a"]; it must be a string'),
        (b"[" * 100_000, "line 1 is no JSON (maximum recursion depth exceeded"),
    ],
    "t.mtx": [
        (b"words\n", "no matrix market file of documents and words ("),
        (b"%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 0.5\n", "its matrix has 1 fractional numbers"),
        (b"%%MatrixMarket matrix coordinate integer general\n2 2 1\n1 1 -3\n", "its matrix has 1 negative numbers"),
        (b"%%MatrixMarket matrix coordinate integer general\n2 2 1\n3 1 1\n", "no matrix market file of documents"),
        (b"%%MatrixMarket matrix coordinate complex general\n2 2 1\n1 1 3 1\n", "has type complex128; it must be"),
    ],
    "t.txt": [(b"words", "of an unknown kind; give a folder of .txt files, or a .csv")],
    "t.npz": [(b"words", "not an .npz file: it is text")],
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), [(name, i) for name, cases in BAD_FILES.items() for i in range(len(cases))])
def test_a_bad_file_is_one_sentence(name, case, tmp_path):
    content, said = BAD_FILES[name][case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        bag(tmp_path / name, column="body").read()
    assert said in str(error.value)


def test_a_bad_label_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a", "kind": null}')
    with pytest.raises(UserError, match=r"kind of line 1 is null; it must be a string or integer"):
        bag(tmp_path / "t.jsonl", label="kind").read()
    with pytest.raises(UserError, match=r"dataset.label = sort: .* has in line 1 the keys text, kind; name one"):
        bag(tmp_path / "t.jsonl", label="sort").read()


def test_a_vocabulary_of_another_size_is_named(tmp_path):
    mmwrite(tmp_path / "counts.mtx", csr_matrix(ROWS))
    (tmp_path / "words.txt").write_text("ab\ncd\n")
    with pytest.raises(UserError, match=r"has 2 words, the matrix 3 columns and 5 rows; a column is a word"):
        bag(tmp_path / "counts.mtx", vocabulary_file=str(tmp_path / "words.txt")).read()


def test_documents_are_named_once(tmp_path, monkeypatch):
    monkeypatch.delenv("EBM_DATA", raising=False)
    for changes in ({"path": None}, {"path": tmp_path, "corpus": "nips"}):
        with pytest.raises(UserError, match=r"name your documents by dataset.path .* or those of the data folder by"):
            bag(**changes).read()
    with pytest.raises(UserError, match=r"lacks nips.npz; put it there, or set dataset.root"):
        bag(None, corpus="nips", root=str(tmp_path)).read()
    (tmp_path / "text").mkdir()
    npz(tmp_path / "text")
    with pytest.raises(UserError, match=r"dataset.corpus = nips: .*text has counts; name one of these"):
        bag(None, corpus="nips", root=str(tmp_path)).read()
    assert bag(None, corpus="counts", root=str(tmp_path)).read().words == ("ab", "cd", "ef")


# The library's own


def test_the_library_is_a_document_for_each_module(monkeypatch):
    texts = [(f"m{i}", f"red green {'blue' * (i % 2)} of the") for i in range(20)] + [("empty", "of")]
    monkeypatch.setattr(stdlib_docs, "documents", lambda: texts)
    data = component("dataset", "stdlib_docs", max_documents=1.0).load((Counts,))
    assert data.words == ("blue", "green", "red")
    assert len(data.train) + len(data.valid) + len(data.test) == 20
    assert data.remarks == ("1 document of 21 without any word of the vocabulary left out: empty",)


# From the command line


@pytest.mark.long
def test_a_run_says_what_was_left_out_and_bad_input_leaves_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path, {f"{i}.txt": f"red green{i % 2 * ' blue'}" for i in range(9)} | {"none.txt": ""})
    line = (
        "train model=replicated_softmax model.hidden=2 objective=cd dataset=bag_of_words dataset.path=texts steps=2 "
        "dataset.max_documents=1 batch_size=3 tracker=none evaluation=[] checkpoint.monitor=null device=cpu "
    )
    answer = ebm(line + "hydra.run.dir=run")
    assert answer.code == 0, answer.err
    said = "1 document of 10 without any word of the vocabulary left out: none.txt"
    assert answer.err.count(said) == 1
    assert facts(Path("run"), "summary.json")["status"] == "done"
    assert_refused(ebm(line + "hydra.run.dir=bad dataset.path=nowhere"), "nowhere: there is no such file or folder")
    assert not os.path.exists("bad")


@pytest.mark.data
def test_the_corpus_of_newsgroups_is_the_one_that_is_described():
    """Its unigram perplexity, as the data folder's notes give it: the mean over documents of nats a word."""
    root = real_data("text/20newsgroups_2000.npz")
    raw = component("dataset", "bag_of_words", corpus="20newsgroups_2000", root=root).read()
    assert [len(part.values) for part in (raw.train, raw.valid, raw.test)] == [10182, 1131, 7526]
    assert not raw.remarks
    assert raw.train.labels.max() == 19
    count = (raw.train.values.of_columns() + raw.valid.values.of_columns()).double()
    assert count.sum() == 1037187
    log_p = ((count + 1) / (count.sum() + len(count))).log()
    assert isinstance(raw.test.values, SparseRows)
    x = raw.test.values[torch.arange(7526)].double()
    assert_close((-(x @ log_p) / x.sum(1)).mean().exp(), torch.tensor(1156.5).double(), rtol=1e-4)
