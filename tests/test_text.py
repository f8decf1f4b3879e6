"""Texts: words and sentences, windows, the vocabulary, and bad files."""

import sysconfig

import numpy as np
import pytest
import torch
from helpers.components import component
from helpers.statistics import assert_close
from helpers.text import SENTENCES, text, text_file

from ebm_cli.dataset import docstrings
from ebm_cli.dataset.text import START, UNKNOWN, tokens, windows
from ebm_cli.errors import UserError
from ebm_cli.space import Words


def test_sentences_end_and_words_are_letters():
    assert tokens("It's 3.5 m; isn't_it?  Yes\n\nΝαί. ") == (
        ["it's", "m", "isn't", "it", START, "yes", START, "ναί", START]
    )
    assert tokens("... 12 -- _!") == []


def test_windows_are_words_and_those_before_them():
    number = {START: 0, UNKNOWN: 1, "a": 2, "b": 3}
    found = windows([["a", "x", "b"], ["b", START]], number, 2)
    assert found.tolist() == [[0, 0, 2], [0, 2, 1], [2, 1, 3], [0, 0, 3], [0, 3, 0]]
    assert found.dtype == np.int32


def test_a_text_is_read_whole(tmp_path):
    """Every document is in one split; put back together they are the text."""
    data = text(text_file(tmp_path, *SENTENCES)).load((Words,))
    assert data.words[:3] == (START, UNKNOWN, "the")
    assert data.space == Words((3,), len(data.words))
    splits = [data.train, data.valid, data.test]
    assert [len(split) for split in splits] == [100, 10, 10]  # of 12 documents one each is held out
    x = torch.cat([split.all() for split in splits])
    assert data.space.contains(x)
    said = " ".join(data.words[int(i)] for i in x[:, -1])
    ours = sorted(part.strip() for part in said.split(START) if part.strip())
    assert ours == sorted(part.strip(" ") for s in SENTENCES for part in s.lower().replace("!", ".").split(".") if part)
    count = np.bincount(data.train.all()[:, -1].long(), minlength=len(data.words))
    assert_close(data.train.mean(), torch.from_numpy(count / 100).float())
    assert_close(data.smoothed_mean(), torch.from_numpy((count + 1) / (100 + len(data.words))).float())


def test_the_vocabulary_is_that_of_frequent_words_in_training(tmp_path):
    path = text_file(tmp_path, *SENTENCES)
    whole, short = text(path).read(), text(path, vocabulary=4).read()
    assert short.words == whole.words[:4]
    assert (short.train.values == 1).sum() == (whole.train.values >= 4).sum()
    often = component("dataset", "text", path=str(path), context=2, min_count=15).read().words
    counts = dict(zip(whole.words, np.bincount(whole.train.values[:, -1]).tolist(), strict=True))
    assert often == (START, UNKNOWN, *(word for word in whole.words[2:] if counts[word] >= 15))
    assert 2 < len(often) < len(whole.words)


def test_other_words_are_other_data(tmp_path):
    first = text(text_file(tmp_path, *SENTENCES)).load((Words,))
    other = text(text_file(tmp_path, *(s.replace("cow", "cew") for s in SENTENCES))).load((Words,))
    assert torch.equal(first.train.stored, other.train.stored)
    assert first.fingerprint != other.fingerprint


BAD_TEXTS = {
    b"one two\n": "too few paragraphs or lines with words (1); give it 3 at least",
    b"\n\n12 13\n\n": "too few paragraphs or lines with words (0)",
    b"same\n" * 9: "the training documents hold one word only, 'same'; give more text",
    b"some words\n" * 2 + b"caf\xe9\n": "not UTF-8 (invalid continuation byte at byte 25); convert it to UTF-8",
    b"a b\nc d\ne f\n": "dataset.min_count = 3: no word is so frequent in",
}


@pytest.mark.parametrize("content", BAD_TEXTS, ids=range(len(BAD_TEXTS)))
def test_a_bad_text_is_one_sentence(content, tmp_path):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UserError) as error:
        component("dataset", "text", path=str(tmp_path / "bad.txt")).read()
    assert BAD_TEXTS[content] in str(error.value)


def test_a_text_that_is_not_there():
    with pytest.raises(UserError, match=r"dataset.path = nowhere.txt: cannot be read \(No such file"):
        component("dataset", "text", path="nowhere.txt").read()


def test_docstrings_are_read_and_nothing_is_run(tmp_path, monkeypatch):
    library = {
        "b.py": '"""Module b."""\nraise SystemExit\n\ndef f():\n    """Does f."""\n\nclass C:\n    def g(self):\n'
        '        """Does g."""\n    """no docstring"""\n\nasync def h():\n    """Does h."""\n',
        "a/__init__.py": "'''Package a.'''\n",
        "a/inner.py": "x = 1\n",
        "test/b.py": '"""A test."""\n',
        "site-packages/c.py": '"""Installed."""\n',
        "broken.py": '"""Is broken."""\ndef\n',
        "latin.py": "# -*- coding: latin-1 -*-\n'''Caf\xe9.'''\n",
    }
    for name, content in library.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="latin-1")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "stdlib" else None)
    assert docstrings.documents() == [
        ("a", "Package a."),
        ("b", "Module b.\n\nDoes f.\n\nDoes g.\n\nDoes h."),
        ("latin", "Café."),
    ]
