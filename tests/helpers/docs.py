"""The commands of README and docs/, and what makes each small enough to be run by a test."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ebm_cli.dataset.binary_tabular import VARIABLES
from helpers.peers import parameters

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_CELL = re.compile(r"`(ebm (?:train|sample|evaluate|score|transform) [^`]*=[^`]*)`")

AT_MOST = {
    "steps": 4, "mixing.steps": 8, "batch_size": 10, "layer_steps": 2, "held_out": 30, "train": 100, "rows": 20,
    "chains": 4, "temperatures": 5, "training_temperatures": 5, "rungs": 3, "warmup": 2, "count": 4, "bootstrap": 100,
    "raise_points": 2, "raise_chains": 2, "reference_steps": 5, "points": 20, "discrepancy": 10, "final_steps": 2,
    "lda_topics": 0, "lda_iterations": 2, "particles": 4, "documents": 3, "proposals": 2, "side": 20,
    "valid": 30, "reference_chains": 20, "size": 40, "hidden": 16, "width": 4, "widths": 8, "layers": 8, "frames": 4,
    "mixing_time.chains": 400, "max_steps": 3, "thetas": 4, "rounds": 10,
    "most_temperatures": 20, "gradient_bias.chains": 20, "pairs": 20, "trajectories": 2, "draws": 20,
}  # fmt: skip
"""Keys that say how much work a run is, wherever they lie or in one part, and what is enough for a test."""

QUICK = ("tracker=none", "eval_every=0", "device=cpu", "device.compile=never", "device.threads=1")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every fenced block of a page."""
    return BLOCK.findall(PAGES[page].read_text())


def commands(page: str) -> list[list[str]]:
    """The words after `ebm` of every command in a block without a language, or in a cell of a table of commands."""
    text = PAGES[page].read_text()
    lines = [line for language, block in blocks(page) if not language for line in block.splitlines()]
    if page == "numbers":
        lines += _CELL.findall(text)
    typed = (line.removeprefix("./scripts/") for line in lines if line.startswith(("ebm ", "./scripts/ebm ")))
    return [shlex.split(line, comments=True)[1:] for line in typed]


def told_first(page: str) -> list[list[str]]:
    """Its commands, each once, without those that a page before it has and that need no run of the page's own."""
    before = list(PAGES)[: list(PAGES).index(page)]
    known = [words for other in before for words in commands(other) if not any("outputs/" in word for word in words)]
    found = list[list[str]]()
    for words in commands(page):
        if words not in known and words not in found:
            found.append(words)
    return found


def quick(words: list[str]) -> list[str]:
    """A command that tells nobody, on the CPU; of a run that is there it asks little."""
    command, *rest = words
    if command in ("list", "compare", "watch", "report"):
        return words
    if command == "sample" or _takes_up(rest):
        return [command, *(_less(word) for word in _fewer(rest))]
    if command == "tune":
        kept = [word for word in rest if not word.startswith(("eval_every=", "trials="))]
        return [command, *kept, *QUICK, "steps=8", "eval_every=4", "trials=3"]
    if command == "import":
        return [command, *rest, "tracker=none", "device=cpu"]
    if "hydra/launcher=joblib" in rest:  # its processes would compose anew, where nothing is shrunk
        rest = [word for word in rest if "hydra" not in word]
    more = ("eval_every=4",) if "stop=plateau" in rest else ()  # what it looks at
    more = ("eval_every=4", "running.share=1") if "running=log_z" in rest else more  # of so few steps
    return [command, *_fewer(rest), *(QUICK if command == "train" else ("device=cpu",)), *more]


def _fewer(words: list[str]) -> list[str]:
    """Of a multirun jobs of two seeds, or of one where jobs of others are there."""
    seeds = 1 if _takes_up(words) else 2
    many = "-m" in words
    return [",".join(word.split(",")[:seeds]) if many and word.startswith("seed=") else word for word in words]


def shrunk(monkeypatch: pytest.MonkeyPatch, most: Mapping[str, int] = AT_MOST) -> None:
    """Whatever is composed for a new run or a measurement does little work."""
    compose = ConfigLoaderImpl.load_configuration

    def load_configuration(
        loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *how: Any, **named: Any
    ) -> DictConfig:
        config = compose(loader, config_name, overrides, *how, **named)
        if config_name != "sample" and not _takes_up(overrides):
            values = OmegaConf.to_container(config, resolve=False)
            assert isinstance(values, dict)
            for key, less in _smaller({str(name): value for name, value in values.items() if name != "hydra"}, most):
                OmegaConf.update(config, key, less)
        return config

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load_configuration)


def _takes_up(words: list[str]) -> bool:
    return any(word.startswith("resume=outputs") for word in words)


def _less(word: str) -> str:
    """steps=40000 of a resumed run, n=100 of samples, trials=80 of a search."""
    key, _, value = word.partition("=")
    most = {"steps": 10, "n": 4, "length": 5, "trials": 4}.get(key)
    return word if most is None or value == "auto" or int(value) <= most else f"{key}={most}"


def _smaller(
    values: Mapping[str, Any], most: Mapping[str, int], path: str = ""
) -> Iterator[tuple[str, int | list[int]]]:
    for key, value in values.items():
        here = f"{path}{key}"
        bound = most.get(".".join(here.split(".")[-2:]), most.get(key))
        if isinstance(value, Mapping):
            yield from _smaller(value, most, f"{here}.")
        elif bound is not None and isinstance(value, list):
            yield here, [min(each, bound) for each in value]
        elif bound is not None and isinstance(value, int) and not isinstance(value, bool) and value > bound:
            yield here, bound


def write_data(root: Path) -> None:
    """A data folder with a few rows of everything that the commands of the docs read from one."""
    random = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        _write_idx(root / name / "raw", random)
    (root / "binary_tabular").mkdir()
    for table, width in VARIABLES.items():
        rows = {split: random.integers(0, 2, (60, width), dtype=np.uint8) for split in ("train", "val", "test")}
        np.savez(root / "binary_tabular" / f"{table}.npz", **rows)
    (root / "protein").mkdir()
    near = np.abs(np.subtract.outer(np.arange(53), np.arange(53))) < 8
    msa = random.integers(0, 21, (80, 53), dtype=np.uint8)
    np.savez(root / "protein" / "kunitz.npz", msa=msa, contacts=near, alphabet="-ACDEFGHIKLMNPQRSTVWY")
    (root / "text").mkdir()
    np.savez(root / "text" / "20newsgroups_2000.npz", **_counts(random))


def _write_idx(folder: Path, random: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for stem, rows in (("train", 10_100), ("t10k", 40)):
        few = random.integers(0, 256, (40, 28, 28), dtype=np.uint8)  # over and over
        arrays = {"images-idx3": np.resize(few, (rows, 28, 28)), "labels-idx1": np.arange(rows) % 10}
        for kind, array in arrays.items():
            head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / f"{stem}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())


def _counts(random: np.random.Generator, words: int = 60) -> dict[str, Any]:
    """Documents of 5 to 15 words of a vocabulary, as the parts of sparse matrices."""
    found: dict[str, Any] = {"vocab": np.array([f"word{i}" for i in range(words)])}
    for split, rows in (("train", 80), ("test", 20)):
        sizes = random.integers(5, 16, rows)
        picks = [np.sort(random.choice(words, size, replace=False)) for size in sizes]
        found |= {
            f"{split}_data": np.ones(sizes.sum(), np.int64),
            f"{split}_indices": np.concatenate(picks),
            f"{split}_indptr": np.concatenate([[0], sizes.cumsum()]),
            f"{split}_shape": np.array([rows, words]),
            f"{split}_label": np.arange(rows) % 4,
        }
    return found


def write_files(folder: Path) -> None:
    """What the commands call BITS.npz, FAMILY.fasta, PICTURES and so on."""
    random = np.random.default_rng(1)
    np.savez(folder / "FILE.npz", train=random.gamma(2.0, 1.0, (60, 4)))
    np.savez(folder / "BITS.npz", train=random.integers(0, 2, (60, 16), dtype=np.uint8))
    np.savez(folder / "OTHER.npz", train=random.integers(0, 2, (60, 8, 8), dtype=np.uint8))
    lines = (",".join(f"{value:g}" for value in row) for row in random.integers(0, 17, (20, 64)) / 16)
    (folder / "ROWS.csv").write_text("\n".join(lines) + "\n")
    grey, gaps = random.random((3, 64)).round(1), random.random((3, 64)) < 0.2
    holes = (
        ",".join("" if gap else f"{x:g}" for x, gap in zip(*row, strict=True)) for row in zip(grey, gaps, strict=True)
    )
    (folder / "GAPS.csv").write_text("\n".join(holes) + "\n")
    people = [[f"{random.normal():.2f}", "abc"[i % 3], ("yes", "no")[i % 2]] for i in range(60)]
    for name, every in (("TABLE.csv", 7), ("WHOLE.csv", 100)):
        gaps = [i % 3 if every < 9 and i % every == 0 else -1 for i in range(60)]
        cells = [["" if j == gap else v for j, v in enumerate(row)] for row, gap in zip(people, gaps, strict=True)]
        (folder / name).write_text("\n".join(",".join(row) for row in [["x", "kind", "is"], *cells]) + "\n")
    letters = np.array(list("-ACDEFGHIKLMNPQRSTVWY"))
    rows = ("".join(letters[random.integers(0, 21, 12)]) for _ in range(40))
    wild = "-ACDEFGHIKLM"
    lines = [f">{i}\n{row}\n" for i, row in enumerate(rows)]
    (folder / "FAMILY.fasta").write_text("".join([f">NAME\n{wild}\n", *lines]))
    touching = np.abs(np.subtract.outer(np.arange(12), np.arange(12))) == 6
    np.savez(folder / "CONTACTS.npz", contacts=touching)
    (folder / "MUTANTS.csv").write_text("mutant,DMS_score\nA2G,0.1\nC3-:D4A,-1.5\nE5W,\nM12L,0.4\n")
    _write_peers(folder, random)
    (folder / "PICTURES").mkdir()
    (folder / "FOLDER").mkdir()
    words = ["server", "socket", *(f"word{a}{b}" for a in "abcdef" for b in "abcdef")]
    for i in range(20):
        pixels = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "PICTURES" / f"{i}.png")
        (folder / "FOLDER" / f"{i}.txt").write_text(" ".join(random.choice(words, 10, replace=False)))
    (folder / "TEXT").write_text("\n".join(f"the server answers client {i % 7} on line {i % 5}" for i in range(200)))


def _write_peers(folder: Path, random: np.random.Generator) -> None:
    """Models that other packages could have trained, on the rows of BITS.npz and FAMILY.fasta."""
    with h5py.File(folder / "RBM.h5", "w") as file:
        file["model_type"] = "BBRBM"
        shapes = {"weight_matrix": (16, 3), "vbias": (16,), "hbias": (3,)}
        for name, shape in shapes.items():
            file[f"update_1/params/{name}"] = random.normal(size=shape).astype(np.float32)
    J, h = np.zeros((12, 21, 12, 21), np.float32), random.normal(size=(12, 21)).astype(np.float32)
    parameters(folder / "params.dat", J, h, "-ACDEFGHIKLMNPQRSTVWY")
