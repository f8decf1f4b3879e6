"""A small text, and the dataset of it."""

import itertools

from helpers.components import component

SENTENCES = [f"The {a} sees the {b}. The {b} runs!" for a, b in itertools.permutations(["cat", "dog", "cow", "ox"], 2)]


def text_file(tmp_path, *paragraphs):
    path = tmp_path / "some.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


def text(path, **changes):
    """A dataset of a small text."""
    return component("dataset", "text", path=str(path), context=2, min_count=1, **changes)
