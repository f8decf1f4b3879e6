#!/usr/bin/env bash
# The perplexity that scikit-learn's LDA gives for held-out documents depends on how many times they are given.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.7.0 numpy==2.2.6 scipy==1.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import ast
import pathlib
import random
import sys
import sysconfig

import numpy as np
import scipy.sparse
import sklearn
from sklearn.decomposition import LatentDirichletAllocation
from sklearn.feature_extraction.text import CountVectorizer

docstrings = []  # of Python's own standard library
for path in sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
    try:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    except (SyntaxError, UnicodeDecodeError):
        continue
    found = (ast.get_docstring(node) for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    docstrings += [text for text in found if text and len(text.split()) >= 20]
random.Random(0).shuffle(docstrings)
counts = CountVectorizer(max_features=1000, stop_words="english", token_pattern=r"[a-z]{3,}").fit_transform(docstrings)
counts = counts[np.asarray(counts.sum(1)).ravel() >= 10]
train, test = counts[: int(0.8 * counts.shape[0])], counts[int(0.8 * counts.shape[0]) :]

frequency = np.asarray(train.sum(0)).ravel() + 1.0
unigram = np.exp(-(test @ np.log(frequency / frequency.sum())).sum() / test.sum())
model = LatentDirichletAllocation(10, random_state=0).fit(train)
once, often = (model.perplexity(scipy.sparse.vstack([test] * times).tocsr()) for times in (1, 100))
print(f"scikit-learn {sklearn.__version__}, {train.shape[0]} documents to fit and {test.shape[0]} held out, 10 topics")
print("expected: the perplexity of documents, exp(-log p per word), is the same when each is given 100 times")
print(f"seen: {once:.0f} once, {often:.0f} a hundred times; the unigram model has {unigram:.0f}")
sys.exit(not (once > 1.5 * often and once > unigram > often))
PYTHON
