"""The page on extending: its four parts and its recipe, as printed, are written down, used as plugins, and linted."""

import re
import subprocess
import sys

import pytest
import torch
from helpers.docs import PAGES, ROOT, commands, quick, shrunk
from helpers.models import target
from helpers.statistics import assert_distributed, mixture

from ebm_cli import registry, rng
from ebm_cli.cli.main import dispatch
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run

_FILE = re.compile(r"^`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", re.DOTALL | re.MULTILINE)
FILES = dict(_FILE.findall(PAGES["extending"].read_text()))


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A working directory with the files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_the_page_has_the_files_of_four_parts_and_a_recipe():
    assert len(FILES) == 9
    assert {name.removesuffix(".py") for name in FILES if name.endswith(".py")} == {
        "barker", "quartic", "moments", "ring",
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("words", commands("extending"), ids=lambda words: " ".join(words))
def test_a_command_of_the_page_runs(words, plugins, capfd, monkeypatch):
    shrunk(monkeypatch)
    assert dispatch(quick(words)) == 0
    out = capfd.readouterr().out
    assert "evaluation=[moments]" not in words or re.search(r"moments \(test\) +means off by \d", out)


@pytest.mark.parametrize("part", ["sampler barker", "model quartic", "evaluation moments", "dataset ring"])
def test_a_part_of_the_page_is_listed_with_its_keys(part, plugins, capsys):
    assert dispatch(["list", *part.split()]) == 0
    group, name = part.split()
    notes = re.findall(r"^\w+: .*?# (.*)$", FILES[f"conf/{group}/{name}.yaml"], re.MULTILINE)
    assert notes
    out = " ".join(capsys.readouterr().out.split())
    assert all(note in out for note in notes)


def test_the_barker_sampler_of_the_page_leaves_a_model_invariant(plugins):
    registry.load_plugins(["barker"])
    sampler = registry.build("sampler", {"name": "barker", "step_size": 0.8})
    model, key, draws = target("gaussian_rbm-real"), stream(3, "barker"), 20_000
    weight, mean, std = mixture(model)
    which = rng.categorical(weight.log().expand(draws, -1), key.fold("which"))
    x = mean[which] + std * rng.normal((draws, mean.shape[1]), key.fold("x"), dtype=torch.float64)
    ends, info = run(sampler, model, x.reshape(draws, *model.space.shape), 3, key.fold("steps"))
    assert 0.2 < info["acceptance"].mean() < 0.95
    assert_distributed(model, ends)


def test_the_files_of_the_page_are_linted(plugins):
    names = [name for name in FILES if name.endswith(".py")]
    inside = ["--config", ROOT / "pyproject.toml", "--config", "lint.isort.known-first-party = ['ebm_cli']"]
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, *inside, *names]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.long
def test_the_files_of_the_page_are_typed(plugins):
    """From the root, where mypy may know the package already."""
    names = [plugins / name for name in FILES if name.endswith(".py")]
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml"]
    made = subprocess.run([*command, *names], capture_output=True, text=True, check=False, cwd=ROOT)
    wrong = [line for line in made.stdout.splitlines() if ": error:" in line]
    assert made.returncode in (0, 1), made.stdout + made.stderr
    # The package marks what overrides a method; a user need not.
    assert not [line for line in wrong if not line.endswith("[explicit-override]")], made.stdout
