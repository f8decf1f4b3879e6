"""Damage to any file of a run, by chance or on purpose: a sentence, or the same numbers; never a traceback.

The number of damages by chance is EBM_DAMAGES (30 unless set).
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers.cli import ebm, forge, last_step, outcome, trained

from ebm_cli.record import checkpoint

COMMANDS = (
    "train resume=run steps=14",
    "sample run=run n=2 steps=1 out=drawn",
    "evaluate run=run evaluation=[pseudo_likelihood] out=judged",
)
CHANCES, QUICK = int(os.environ.get("EBM_DAMAGES", "30")), 4


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run of two checkpoints, and what the commands make of it."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained("save_every=6 optimizer=adam")
        shutil.copytree("run", "whole")
        found = []
        for command in COMMANDS:
            shutil.rmtree("run")
            shutil.copytree("whole", "run")
            found.append(fruit(command)[1])
        return folder / "whole", found


@pytest.fixture
def run(good, tmp_path, monkeypatch):
    """A copy of it in the current directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good[0], "run")
    return Path("run")


def fruit(command: str):
    """The answer to a command, and every number it made."""
    answer = ebm(command)
    if answer.code:
        return answer, None
    if command.startswith("train"):
        return answer, outcome(Path("run"))
    if command.startswith("sample"):
        return answer, np.load("drawn/samples.npz")["samples"].tolist()
    found = json.loads(Path("judged/results.json").read_text())
    return answer, {name: value for name, value in found.items() if name != "seconds"}


SAID = re.compile(r"not valid|not as this run wrote|is kept in|no checkpoint was written yet|metadata")


def check(number: int, good) -> None:
    """One of the commands says what is wrong, or finds the numbers that it finds in an undamaged run."""
    command = COMMANDS[number % len(COMMANDS)]
    answer, found = fruit(command)
    assert "Traceback" not in answer.err
    assert answer.code in (0, 2), answer.err
    assert answer.code == 2 or SAID.search(answer.err) or found == good[1][number % len(COMMANDS)], (
        command,
        answer.err,
    )


def damage(run: Path, generator: np.random.Generator) -> str:
    """One file or folder changed by chance."""
    paths = sorted(path for path in run.rglob("*") if path.is_file() and path.suffix not in (".png", ".log"))
    path, other = (paths[i] for i in generator.choice(len(paths), 2, replace=False))
    data, how = bytearray(path.read_bytes()), generator.choice(["flip", "cut", "swap", "delete", "empty", "folder"])
    if how == "flip" and data:
        for place in generator.integers(len(data), size=generator.integers(1, 4)):
            data[place] ^= 1 << generator.integers(8)
        path.write_bytes(data)
    elif how in ("cut", "empty"):
        path.write_bytes(data[: generator.integers(len(data) + 1) if how == "cut" else 0])
    elif how == "swap":
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
    return f"{how} {path.relative_to(run)}"


@pytest.mark.parametrize(
    "number", [pytest.param(i, marks=[] if i < QUICK else pytest.mark.long) for i in range(CHANCES)]
)
def test_damage_by_chance(number, run, good):
    damage(run, np.random.default_rng(number))
    check(number, good)


def tensors(run: Path, name: str, value: float) -> None:
    """A number in a tensor of the last checkpoint, under a manifest that agrees."""
    folder = last_step(run)
    found = safetensors.numpy.load((folder / checkpoint.TENSORS).read_bytes())
    found[name] = found[name].copy()
    found[name].flat[0] = value
    forge(folder, tensors=safetensors.numpy.save(found))


def numbers(run: Path, text: str, by: str) -> None:
    """A piece of state.json replaced, under a manifest that agrees."""
    folder = last_step(run)
    before = (folder / checkpoint.NUMBERS).read_text()
    after = re.sub(text, by, before, count=1)
    assert after != before
    forge(folder, numbers=after.encode())


NAMES = ("model.W", "model.c", "model.visible_offset", "chains", "optimizer.first_moment.W")
VALUES, STEPS = ("NaN", "Infinity", "1e999", "true", '"1"'), ("-1", "99", "1.0", "true", "null")
FORGED = {
    **{f"{name} {value}": (tensors, name, value) for name in NAMES for value in (np.nan, np.inf, -np.inf)},
    "chain beyond the space": (tensors, "chains", 0.5),
    "negative age": (tensors, "ages", -1),
    "negative square": (tensors, "optimizer.second_moment.b", -1.0),
    **{f"metrics_bytes {by}": (numbers, r'"metrics_bytes": \d+', f'"metrics_bytes": {by}')
       for by in ("7", "-1", "1e3", "true", "NaN", "1" * 5000)},
    **{f"best value {by}": (numbers, '"best": null', f'"best": {{"step": 6, "value": {by}}}') for by in VALUES},
    **{f"best step {by}": (numbers, '"best": null', f'"best": {{"step": {by}, "value": 1.0}}') for by in STEPS},
    "another space": (numbers, '"name": "binary"', '"name": "spin"'),
    "another shape": (numbers, r'"shape": \[\s*8,\s*8\s*\]', '"shape": [4, 16]'),
    "a name twice": (numbers, '"format": 1', '"format": 1, "format": 1'),
    "deep": (numbers, '"format": 1', '"format": 1, "x": ' + "[" * 5000 + "]" * 5000),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if i % 8 == 0 else pytest.mark.long) for i, n in enumerate(FORGED)]
)
def test_damage_on_purpose(name, run):
    act, *how = FORGED[name]
    act(run, *how)
    answer = ebm(COMMANDS[0])
    assert "Traceback" not in answer.err
    assert answer.code == 2 or "not valid, so an older checkpoint is used" in answer.err, answer.err
