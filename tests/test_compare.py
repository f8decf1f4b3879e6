"""`ebm compare` on runs that were trained: what it says of them is so."""

import csv
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import ebm, facts

from ebm_cli.commands.trained import Wanted, open_trained
from ebm_cli.log_z import enumeration

SMALL = ("batch_size=10", "tracker=none", "device=cpu", "checkpoint.monitor=null")
FEW = (
    "evaluation.ais.chains=10", "evaluation.ais.temperatures=10", "evaluation.ais.raise_points=7",
    "evaluation.ais.bootstrap=100",
)  # fmt: skip
CPU = {
    "name": "device", "kind": "cpu", "threads": 1, "precision": "fp32", "compile": "never", "deterministic": True,
    "ranks": 1, "memory": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Two settings, two seeds each, with exact log-likelihoods; beside them one binarised anew each time."""
    path = tmp_path_factory.mktemp("compare")
    line = "train -m model.hidden=3,8 seed=1,2 evaluation=[exact] optimizer.lr=0.5 steps=40"
    answer = ebm(line, *SMALL, f"hydra.sweep.dir={path}/sweep")
    assert answer.code == 0, answer.err
    line = "train model.hidden=8 dataset.binarize=stochastic evaluation=[exact,ais] steps=12"
    answer = ebm(line, *SMALL, *FEW, f"hydra.run.dir={path}/stochastic")
    assert answer.code == 0, answer.err
    return path


def rows_of(line: str, *words) -> list[dict]:
    answer = ebm(f"compare {line} format=csv", *map(str, words))
    assert answer.code == 0, answer.err
    return list(csv.DictReader(io.StringIO(answer.out)))


def log_p(run: Path) -> np.ndarray:
    """Of the test rows, from the weights alone."""
    trained = open_trained(Wanted(run, "last", CPU, []), with_data=True)
    model, x = trained.state.averaged_model().double(), trained.parts.data.test.all().double()
    with torch.no_grad():
        return (-model.energy(x) - enumeration.log_z(model)).numpy()


@pytest.mark.long
def test_groups_over_seeds_have_mean_and_standard_error(sweep):
    """By hand of two seeds: (a + b) / 2 ± |a - b| / 2."""
    found = rows_of("", sweep / "sweep")
    values = [facts(sweep / "sweep" / str(i), "summary.json")["exact/log_likelihood"] for i in range(4)]
    assert [row["model.hidden"] for row in found] == ["3", "8"]
    assert [row["n"] for row in found] == ["2", "2"]
    for row, (a, b) in zip(found, (values[:2], values[2:]), strict=True):
        assert float(row["exact/log_likelihood"]) == pytest.approx((a + b) / 2)
        assert float(row["exact/log_likelihood_error"]) == pytest.approx(abs(a - b) / 2)


def test_the_paired_difference_is_that_of_energies_and_exact_log_z(sweep):
    runs = [sweep / "sweep" / name for name in ("0", "2")]
    d = log_p(runs[1]) - log_p(runs[0])
    first, second = rows_of("", *runs)
    assert first["difference"] == ""
    assert float(second["difference"]) == pytest.approx(d.mean(), abs=1e-9)
    assert float(second["difference_error"]) == pytest.approx(d.std(ddof=1) / math.sqrt(len(d)), abs=1e-9)
    assert second["difference_to"] == "0"
    decided = abs(d.mean()) > 2 * d.std(ddof=1) / math.sqrt(len(d))
    assert second["verdict"] == (("better" if d.mean() > 0 else "worse") if decided else "undecided")


def test_the_difference_of_groups_has_the_error_over_seeds_too(sweep):
    """d of each row is that of the means over seeds; beside var(d) / N stands sd^2 / n of each side."""
    of = [log_p(sweep / "sweep" / str(i)) for i in range(4)]
    d = (of[2] + of[3]) / 2 - (of[0] + of[1]) / 2
    over_seeds = sum(np.var([of[i].mean(), of[i + 1].mean()], ddof=1) / 2 for i in (0, 2))
    second = rows_of("", sweep / "sweep")[1]
    assert float(second["difference"]) == pytest.approx(d.mean(), abs=1e-9)
    assert float(second["difference_error"]) == pytest.approx(math.sqrt(d.var(ddof=1) / len(d) + over_seeds), abs=1e-9)


def test_another_binarisation_is_marked_and_not_subtracted(sweep):
    words = [sweep / "sweep", sweep / "stochastic"]
    *usual, other = rows_of("", *words)
    assert "binarised stochastic (others threshold)" in other["not_comparable"]
    assert [row["not_comparable"] for row in usual] == ["", ""]
    assert other["verdict"] == "not comparable"
    shown = ebm("compare", *map(str, words)).out
    marked = [line for line in shown.splitlines() if "*1" in line]
    assert len(marked) == 2  # the row and the sentence
    assert "stochastic" in marked[0]


def test_a_run_of_which_the_data_were_not_noted_is_told_by_its_configuration(sweep, tmp_path):
    """As older versions left it: the fingerprint is in the checkpoint, the binarisation in the configuration."""
    copies = [Path(shutil.copytree(path, tmp_path / path.name)) for path in (sweep / "sweep/2", sweep / "stochastic")]
    for copy in copies:
        summary = facts(copy, "summary.json")
        del summary["rows"]
        (copy / "summary.json").write_text(json.dumps(summary))
        (copy / "rows.npz").unlink()
    alike, other = rows_of("by=run", *copies, sweep / "sweep/3")[:2]
    assert alike["not_comparable"] == ""
    assert "binarised stochastic (others auto)" in other["not_comparable"]


def test_a_bracket_is_shown_beside_the_exact_value(sweep):
    summary = facts(sweep / "stochastic", "summary.json")
    (row,) = rows_of("", sweep / "stochastic")
    assert float(row["log_likelihood_low"]) == float(row["log_likelihood_high"]) == summary["exact/log_likelihood"]
    assert {"ais/log_likelihood", "raise/log_likelihood"} <= set(row)


def test_one_run_alone_and_the_same_run_twice(sweep):
    run = str(sweep / "sweep/0")
    assert ebm(f"compare {run}").out == ebm(f"compare {run} {run}/ {run}/../0").out
    assert "±" not in ebm(f"compare {run}").out.splitlines()[2]


def test_words_may_be_runs_sweeps_and_patterns(sweep):
    def names(*words):
        return [row["run"] for row in rows_of("by=run", *words)]

    assert names(sweep / "sweep") == ["0", "1", "2", "3"]
    assert names(sweep / "sweep/[13]") == ["1", "3"]
    assert names(sweep) == ["stochastic", "0", "1", "2", "3"]
    assert names(sweep / "sweep/2", sweep / "sweep") == ["2", "0", "1", "3"]
