"""The shipped components by name, small spaces, and what all tests share."""

import copy
import os
import re
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from ebm_cli import registry
from ebm_cli.space import Binary, Box, Categorical, Counts, Mixed, Real, Space, Spin, Words

registry.load_components()

ROOT = Path(__file__).parents[2]
FALSE_ALARM = 1e-6  # of one statistical test; there are some hundred, and their keys are fixed
SIGMAS = 5  # |z| of a normal statistic is beyond this with probability 6e-7
SMALL_SPACES: dict[type[Space], Space] = {
    Binary: Binary((2, 2)),
    Spin: Spin((2, 2)),
    Categorical: Categorical((1, 3, 3)),
    Real: Real((1, 2)),
    Box: Box((4, 4), -8.0, 8.0),  # so wide that proposals of the shipped step sizes seldom leave it
    Mixed: Mixed((4,), (2, 0, 3, 0)),
    Words: Words((3,), 7),
    Counts: Counts((5,), 6),
}
SMALL = {
    "hidden": 3,
    "dim": 2,
    "min_spread": 0.4,
    "width": 2,
    "widths": [4],
    "blocks": 1,
    "start": 0.3,
    "stay": 0.7,
    "noise": 3.0,
    "process": {"name": "vp", "levels": 4, "beta_min": 0.1, "beta_max": 20.0, "time_min": 0.3},
    "network": {"name": "mlp", "widths": [4], "input_scale": 1.0, "spread": None},
    "waves": 1,
    "filters": 2,
    "filter_size": 3,
}  # what makes a shipped model small enough to enumerate and its rarest states not too rare, where it has such a key
INTERPOLATED = {"${batch_size}": 6, "${eval_every}": 5}


def shipped(group: str) -> dict[str, dict]:
    """Every configuration of conf/GROUP by file name, without what it says to Hydra."""
    return copy.deepcopy(_read(group))


@lru_cache  # parsing them once more for each of thousands of tests would take longer than the tests
def _read(group: str) -> dict[str, dict]:
    found = {}
    for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        for folder, inner, choice in _nested(values.pop("defaults", [])):
            own = yaml.safe_load((path.parent.parent / folder / f"{choice}.yaml").read_text())
            values[inner] = own | (values.get(inner) or {})
        found[path.stem] = {key: INTERPOLATED.get(v, v) if isinstance(v, str) else v for key, v in values.items()}
    return found


def _nested(defaults: list) -> list[tuple[str, str, str]]:
    """Keys that hold a choice themselves, as `- /sampler@kernel: block_gibbs` says: of which group, and which."""
    pairs = [pair for entry in defaults if isinstance(entry, dict) for pair in entry.items()]
    return [
        (*str(key)[1:].split("@"), choice) for key, choice in pairs if choice and re.fullmatch(r"/\w+@\w+", str(key))
    ]


def component(group: str, choice: str, **changes):
    """The component of a shipped file, some keys changed."""
    return registry.build(group, shipped(group)[choice] | changes)


def real_data(file: str) -> str:
    """The folder with the real data; skips the test where `file` is not in it."""
    root = Path(os.environ.get("EBM_DATA") or ROOT.parent / "shared" / "data")
    if not (root / file).exists():
        pytest.skip(f"no {file} in {root}: set EBM_DATA to the data folder")
    return str(root)
