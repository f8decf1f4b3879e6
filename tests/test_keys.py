"""Every key of every data set: it changes the data that a model gets, or is known to have no effect on them."""

import functools
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.cli import assert_refused, ebm
from helpers.components import component
from PIL import Image

from ebm_cli import registry
from ebm_cli.dataset import ising_samples
from ebm_cli.dataset.reads import observed
from ebm_cli.errors import UserError
from ebm_cli.space import Binary, Box, Categorical, Counts, Mixed, Real, Spin, Words

GREY = {"binarize": ["threshold", "stochastic"], "box": ["symmetric"], "dequantise": [True, False], "noise": [0.1]}
TEXTS = {
    "lower": [False], "stop_words": ["none"], "min_documents": [25], "max_documents": [0.4], "vocabulary": [5],
    "held_out": [0.3], "binarize": ["none"],
}  # fmt: skip
OF_BAG = TEXTS | {"encoding": ["latin-1"], "column": ["other"], "label": ["kind"], "vocabulary_file": ["words.txt"]}
DRAWN = {"train": [7], "held_out": [5], "seed": [4], "binarize": ["none"]}
WORDS = ["alpha", "beta", "Gamma", "delta", "naïve", "zeta", "the", "of", "eta", "theta", "iota", "kappa"]
EACH = ((Binary,), (Spin,), (Real,), (Box,), (Categorical,))


def _random(*shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(5)).random(shape)


def _documents() -> list[str]:
    return [" ".join(np.array(WORDS)[(row * len(WORDS)).astype(int)]) for row in _random(40, 9)]


def _table(folder: Path) -> Path:
    lines = [
        json.dumps({"text": text, "other": text[::-1], "kind": i % 3}, ensure_ascii=False)
        for i, text in enumerate(_documents())
    ]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "texts.jsonl"


def _texts(folder: Path) -> Path:
    (folder / "texts").mkdir()
    for i, text in enumerate(_documents()):
        (folder / "texts" / f"{i:02d}.txt").write_text(text, encoding="utf-8")
    return folder / "texts"


def _counts(folder: Path, whole: bool) -> Path:
    from scipy.sparse import csr_matrix

    arrays = {"vocab": np.array(WORDS)}
    for name in ("train", "valid", "test") if whole else ("train",):
        matrix = csr_matrix((_random(30, len(WORDS)) * 3).astype(int))
        parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "shape": matrix.shape}
        arrays |= {f"{name}_{part}": np.array(value) for part, value in parts.items()}
    np.savez(folder / "counts.npz", **arrays)
    return folder / "counts.npz"


def _matrix(folder: Path) -> Path:
    from scipy.io import mmwrite
    from scipy.sparse import csr_matrix

    mmwrite(folder / "counts.mtx", csr_matrix((_random(30, len(WORDS)) * 3).astype(int)))
    (folder / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder / "counts.mtx"


def _arrays(folder: Path, rows: np.ndarray, whole: bool = False) -> Path:
    others = {"valid": rows[:9], "test": rows[9:20]} if whole else {}
    np.savez(folder / "own.npz", train=rows, other=rows[::2], **others)
    return folder / "own.npz"


def _pictures(folder: Path, splits: tuple[str, ...] = ("",)) -> Path:
    for split in splits:
        (folder / "pictures" / split).mkdir(parents=True)
        for i, pixels in enumerate(_random(12, 9, 9, 3)):
            Image.fromarray((pixels * 255).astype(np.uint8)).save(folder / "pictures" / split / f"{i}.png")
    return folder / "pictures"


def _fasta(folder: Path, letters: str) -> Path:
    rows = [[letters[int(u * len(letters))] for u in row] for row in _random(30, 12)]
    (folder / "family.fasta").write_text("".join(f">{i}\n{''.join(row)}\n" for i, row in enumerate(rows)))
    return folder / "family.fasta"


def _family(folder: Path) -> Path:
    np.savez(folder / "family.npz", msa=(_random(30, 12) * 5).astype(int))
    return folder / "family.npz"


def _columns(folder: Path, gaps: bool) -> Path:
    rows = [["" if gaps and u < 0.1 else int(3 * u), f"{v:.3f}"] for u, v in _random(60, 2)]
    (folder / "table.csv").write_text("\n".join(["a,b", *(f"{a},{b}" for a, b in rows)]))
    return folder / "table.csv"


def _idx(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, rows in (("train", 30), ("t10k", 9)):
        images = (_random(rows, 3, 3) * 255).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(rows, dtype=np.uint8))):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (raw / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))


def _root(folder: Path, file: str, rows: np.ndarray) -> None:
    (folder / file).parent.mkdir(parents=True)
    label = np.arange(len(rows))
    splits = ("train", "val", "test")
    np.savez(folder / file, **dict.fromkeys(splits, rows), **{f"{split}_label": label for split in splits})


LEVELS = (_random(60, 5) * 256).astype(np.uint8)
BITS = (_random(60, 5) < 0.5).astype(np.uint8)
SIDES = (_random(9, 28, 28) * 256).astype(np.uint8)
NPZ = GREY | {"array": ["other"], "held_out": [0.3], "categories": [300, 256], "standardise": [True]}
PROTEIN = {"alphabet": ["-ACDEFGHIKLMNPQRSTVWYX"], "unknown": ["A"], "inserts": ["refuse", "drop"],
           "ambiguous": ["drop"], "duplicates": ["weigh"], "max_gaps": [0.2], "reweight": [0.3],
           "held_out": [0.3], "binarize": ["none"]}  # fmt: skip
FOLDER = GREY | {"size": [5], "broken": ["skip"], "colour": [False], "held_out": [0.3]}

OF_TABLE = {
    "columns": [{"a": "numeric"}],
    "label": ["a"],
    "sweeps": [3],
    "held_out": [0.3],
    "binarize": ["none"],
}

# What is read: (data set, other keys of it that the case sets, values to try by key, spaces that models take).
# A case that needs files makes them, and gives the value of `path`, or of `root` where it gives none.
CASES = {
    "digits": ("digits", None, GREY | {"valid": [0]}, EACH[2:4]),
    "bars_and_stripes": ("bars_and_stripes", None, {"side": [3], "binarize": ["none", "threshold"]}, EACH[:3]),
    "points_2d": ("points_2d", None, DRAWN | {"kind": ["rings"]}, EACH[2:3]),
    "points_gray": ("points_gray", None, DRAWN | {"kind": ["moons"], "bits": [8]}, EACH[:1]),
    "gaussians": (
        "gaussians", None,
        DRAWN | {"dims": [1, 3], "modes": [2], "reach": [1.0], "std": [0.1], "weights": [[1.0, 2.0]]}, EACH[2:3],
    ),
    "markov_chains": (
        "markov_chains", None, DRAWN | {"length": [5], "chains": [2], "start": [0.5], "stay": [0.5]}, EACH[:1]
    ),
    "ising_samples": ("ising_samples", None, DRAWN | {"side": [5], "sigma": [0.2], "bias": [0.1]}, EACH[:2]),
    "array of bits": ("array", lambda f: _arrays(f, BITS), NPZ, EACH),
    "array of spins": ("array", lambda f: _arrays(f, 2.0 * BITS - 1), NPZ, EACH),
    "array of levels": ("array", lambda f: _arrays(f, LEVELS), NPZ, EACH),
    "array of levels in splits": ("array", lambda f: _arrays(f, LEVELS, whole=True), NPZ, EACH),
    "array of shares": ("array", lambda f: _arrays(f, _random(60, 5)), NPZ, EACH),
    "array of numbers": ("array", lambda f: _arrays(f, _random(60, 5) * 9 - 4), NPZ, EACH),
    "pictures": ("image_folder", _pictures, FOLDER, EACH),
    "pictures in splits": ("image_folder", lambda f: _pictures(f, ("train", "valid", "test")), FOLDER, EACH[2:4]),
    "mnist": ("mnist", _idx, GREY | {"valid": [3]}, EACH),
    "omniglot": ("omniglot", lambda f: _root(f, "binary_images/omniglot28.npz", SIDES), GREY, EACH),
    "binarized_mnist": (
        "binarized_mnist", lambda f: _root(f, "binary_images/binarized_mnist.npz", SIDES // 128),
        {"binarize": ["threshold"]}, EACH[:2],
    ),
    "binary_tabular": (
        "binary_tabular", lambda f: _root(f, "binary_tabular/nltcs.npz", (_random(9, 16) < 0.5).astype(np.uint8)),
        {"binarize": ["threshold"]}, EACH[:2],
    ),
    "alignment": ("protein", lambda f: _fasta(f, "-ACDE"), PROTEIN, EACH[4:]),
    "alignment with unknown letters": ("protein", lambda f: _fasta(f, "-ACDEX"), PROTEIN, EACH[4:]),
    "alignment with inserts": ("protein", lambda f: _fasta(f, "-ACDEa."), PROTEIN, EACH[4:]),
    "numbered alignment": ("protein", _family, PROTEIN, EACH[4:]),
    "table of texts": ("bag_of_words", _table, OF_BAG, ((Counts,),)),
    "folder of texts": ("bag_of_words", _texts, OF_BAG, ((Counts,),)),
    "counts": ("bag_of_words", lambda f: _counts(f, whole=False), OF_BAG, ((Counts,),)),
    "counts in splits": ("bag_of_words", lambda f: _counts(f, whole=True), OF_BAG, ((Counts,),)),
    "matrix of counts": ("bag_of_words", _matrix, OF_BAG, ((Counts,),)),
    "table": ("table", lambda f: _columns(f, gaps=False), OF_TABLE, ((Mixed,),)),
    "table with gaps": ("table", lambda f: _columns(f, gaps=True), OF_TABLE | {"missing": ["draw"]}, ((Mixed,),)),
    "text": (
        "text", lambda f: f / "texts.jsonl" if _table(f) else None,
        {"context": [2], "vocabulary": [5], "min_count": [90], "held_out": [0.3], "binarize": ["none"]}, ((Words,),),
    ),
    "text windows": (
        "text_windows", lambda f: f / "texts.jsonl" if _table(f) else None,
        {"unit": ["characters"], "length": [2], "vocabulary": [5], "min_count": [90], "held_out": [0.3],
         "binarize": ["none"]}, ((Categorical,),),
    ),
}  # fmt: skip
NAMES = {"root", "path", "corpus", "contacts"}  # of the data themselves, or beside them
SMALL = {
    "points_2d": {"train": 20, "held_out": 9}, "points_gray": {"train": 20, "held_out": 9},
    "markov_chains": {"train": 20, "held_out": 9, "length": 9, "chains": 3},
    "ising_samples": {"train": 20, "held_out": 9, "side": 3}, "mnist": {"valid": 9},
    "bag_of_words": {"min_documents": 1, "max_documents": 0.9}, "text": {"min_count": 1},
    "text_windows": {"min_count": 1, "length": 3}, "image_folder": {"size": 4},
}  # fmt: skip


def made(case: str, folder: Path) -> dict:
    """Keys with which the data set of a case finds its files."""
    name, files, _, _ = CASES[case]
    path = files(folder) if files else None
    names = set(vars(component("dataset", name)))
    found = {"path": None if path is None else str(path)} if "path" in names and files else {}
    return SMALL.get(name, {}) | found | ({"root": str(folder)} if "root" in names else {})


def summary(data):
    """All that decides what a model gets."""
    splits = [
        None if s is None else (s.scale, s.stochastic, s.levels, s.noise, s.sweeps)
        for s in (data.train, data.valid, data.test)
    ]
    return data.fingerprint, data.space, data.letters, splits


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_: tmp_path / "cache")
    monkeypatch.setattr("ebm_cli.dataset.ising_samples.draw", functools.partial(ising_samples.draw, sweeps=2))
    monkeypatch.chdir(tmp_path)


@pytest.mark.quick(
    "counts*",
    "ising_samples",
    "table*",
    "matrix*",
    "alignment*",
    "numbered*",
    "digits",
    "binar*",
    "text",
    "points_2d",
    "bars*",
    "markov*",
    "folder*",
    "array of bits",
)
@pytest.mark.parametrize("case", CASES)
def test_a_key_changes_the_data_or_is_known_to_be_idle(case, tmp_path):
    """Never both, never neither; a value that is refused is neither."""
    name, _, tried, accepted = CASES[case]
    settings = made(case, tmp_path)
    for spaces in accepted:
        plain = loaded(name, settings, spaces)
        if plain is None:  # inserts or unknown letters: refused as it is
            plain = loaded(name, settings | {"inserts": "drop", "unknown": "-"}, spaces)
            settings |= {"inserts": "drop", "unknown": "-"}
        for key, values in tried.items():
            others = [loaded(name, settings | {key: value}, spaces) for value in values]
            changes = [other is None or summary(other) != summary(plain) for other in others]
            idle = [other is not None and key in other.idle for other in others]
            assert any(changes) != all(idle), (spaces, key)
            assert not any(change and nothing for change, nothing in zip(changes, idle, strict=True)), (spaces, key)


def loaded(name, settings, spaces):
    """The data, or None where they are refused."""
    try:
        return component("dataset", name, **settings).load(spaces)
    except UserError:
        return None


def test_every_key_of_every_data_set_is_tried():
    """But of those whose files are large or public."""
    tried: dict[str, set] = {}
    for name, _, keys, _ in CASES.values():
        tried[name] = tried.get(name, set()) | set(keys)
    for name, keys in tried.items():
        left = set(vars(component("dataset", name))) - keys - NAMES - {"table"}
        assert not left, (name, left)
    assert set(registry.components("dataset")) - set(tried) == {
        "caltech101", "cifar10", "emnist", "fashion_mnist", "kmnist", "stdlib_docs"
    }  # fmt: skip


# The command line


@pytest.mark.quick("++dataset*", "dataset.*")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "dataset.box=symmetric",
            "dataset.box = symmetric: has no effect on dataset=digits as model=rbm takes it, 8x8 bin",
        ),
        ("dataset.dequantise=true", "dataset.dequantise = true: has no effect"),
        ("++dataset.noise=0.1", "dataset.noise = 0.1: has no effect"),
        ("dataset=bars_and_stripes dataset.binarize=threshold", "dataset.binarize = threshold: has no effect"),
        ("model=flow dataset.box=symmetric", "dataset.box = symmetric: has no effect on dataset=digits as model=flow"),
    ],
)
def test_a_key_without_effect_that_was_typed_is_refused(line, expected):
    assert_refused(
        ebm(f"train {line} steps=0 evaluation=[] tracker=none hydra.run.dir=run"), expected, "; leave it out"
    )
    assert not Path("run").exists()


@pytest.mark.long
def test_defaults_without_effect_are_not_worth_a_word():
    assert "no effect" not in ebm("train steps=0 evaluation=[] tracker=none hydra.run.dir=run").err


@pytest.mark.long
def test_a_key_of_an_experiment_without_effect_is_said():
    Path("mine").mkdir()
    Path("mine/experiment").mkdir()
    Path("mine/experiment/own.yaml").write_text("# @package _global_\ndataset:\n  noise: 0.1\n")
    line = "steps=0 evaluation=[] tracker=none hydra.run.dir=run"
    answer = ebm(f"train --config-dir mine experiment=own {line}")
    assert answer.code == 0, answer.err
    assert "dataset.noise = 0.1: has no effect on dataset=digits as model=rbm takes it" in answer.err
    again = ebm(f"train experiment=own --config-dir mine {line} resume=auto")
    assert again.code == 0, again.err


def test_keys_that_are_read_when_a_data_set_is_made_are_not_judged():
    class Own:
        def __post_init__(self):
            """Whatever it reads."""

    found, unread = observed(Own())
    assert isinstance(found, Own)
    assert unread == set()
