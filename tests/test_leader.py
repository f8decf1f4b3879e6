"""The best of many runs: by what it is called so, and where none is."""

import io
from pathlib import Path

import pytest
from helpers.pages import Parsed
from helpers.runs import EXACT, evaluated, written

from ebm_cli.comparison import shown
from ebm_cli.page.made import page
from ebm_cli.terminal import plain_console

MONITOR = "ais/valid/log_likelihood"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def job(name: str, test: float, valid: float | None = None, monitor: str | None = MONITOR, **more) -> Path:
    metrics = {EXACT: test} | ({} if valid is None else {f"best/{monitor}": valid, "best/step": 10})
    config = {"checkpoint": {"monitor": monitor}, "optimizer": {"lr": float(len(name))}}
    return written(Path("sweep", name), config, metrics, **more)


def said(*paths: Path) -> list[str]:
    """The lines on the best run below the table, which are on the page too."""
    found = io.StringIO()
    shown.show_jobs(paths, "multirun sweep", plain_console(file=found, width=300, color_system=None))
    lines = [line.strip() for line in found.getvalue().splitlines() if "best run" in line]
    assert [text for text in [Parsed(page(paths, "sweep")).text] if all(line in text for line in lines)]
    assert lines or "best run" not in Parsed(page(paths, "sweep")).text
    return lines


def test_the_best_is_that_of_the_validation_split():
    paths = [job("0", -20.0, -19.0), job("1", -18.0, -19.5), job("2", -21.0, -18.25)]
    assert said(*paths) == [f"best run: 2 ({MONITOR} = -18.25), best of 3 by the validation split"]


def test_by_the_test_split_it_is_optimistic():
    [line] = said(job("0", -20.0, monitor=None), job("1", -18.0, monitor=None))
    assert line.startswith("best run: 1 (log-likelihood = -18), best of 2 by the test split: optimistic; choose on")
    assert f"checkpoint.monitor={MONITOR}" in line


def test_where_runs_monitor_different_figures_the_test_split_counts():
    [line] = said(job("0", -20.0, -3.0), job("1", -18.0, -5.0, monitor="exact/valid/log_likelihood"))
    assert "best run: 1 " in line
    assert "optimistic" in line


def test_only_runs_that_are_done_count():
    pruned = job("1", -18.0, -17.0, facts={"status": "pruned"})
    assert said(job("0", -20.0, -19.0), pruned) == []
    assert "run: 0 " in said(job("0", -20.0, -19.0), pruned, job("2", -20.0, -20.0))[0]
    stopped = job("3", -18.0, monitor=None, facts={"status": "stopped"})
    evaluated(stopped, "2026", {EXACT: -18.0})
    assert "run: 4 " in said(stopped, job("4", -20.0, monitor=None), job("5", -21.0, monitor=None))[0]


def test_figures_of_other_rows_are_not_ranked():
    assert said(job("0", -20.0, -19.0), job("1", -18.0, -17.0, judged={"fingerprint": "other", "data": "e"})) == []


def test_one_run_is_not_the_best_of_any():
    assert said(job("0", -20.0, -19.0)) == []


def test_a_bound_is_not_ranked_with_likelihoods():
    bound = written(Path("sweep/1"), {"optimizer": {"lr": 2.0}}, {"dbn_bound/log_likelihood": -18.0})
    assert said(written(Path("sweep/0"), {"optimizer": {"lr": 1.0}}, {EXACT: -19.0}), bound) == []
