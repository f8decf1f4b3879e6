"""`ebm compare`: what is not said of runs, since it is not known; on runs written by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import EXACT, ais, evaluated, exact, lines_of, table, written


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("judged", "why"),
    [
        ({"data": "e", "fingerprint": "g"}, "data with fingerprint e (others d)"),
        ({"split": "valid"}, "split valid (others test)"),
        ({"binarised": "stochastic", "fingerprint": "g"}, "binarised stochastic (others threshold)"),
        ({"levels": 17, "fingerprint": "g"}, "grey levels spread 17 (others 0)"),
        ({"noise": 0.1, "fingerprint": "g"}, "noise added 0.1 (others 0)"),
        ({"space": "4 real", "fingerprint": "g"}, "space 4 real (others 2x2 binary)"),
        ({"fingerprint": "g"}, "draws of the same rows with fingerprint g (others f)"),
        ({"data": "e"}, "trained on other rows, though judged by the same"),
    ],
)
def test_what_keeps_runs_from_being_compared_is_marked_and_said(judged, why):
    """At the number, and in one line below the table."""
    exact(Path("a"), [-1.0, -2.0])
    exact(Path("b"), [-1.5, -2.0], {"steps": 11})
    exact(Path("c"), [-3.5, -2.0], {"steps": 12}, judged=judged)
    shown = table("a", "b", "c").splitlines()
    assert [line for line in shown if line.startswith("*1")] == [f"*1 not comparable with the others: {why}"]
    assert [line.split()[0] for line in shown[2:6] if " *1" in line] == ["c"]
    verdict = lines_of("a", "b", "c")[2]["verdict"]
    assert (verdict == "not comparable") == ("fingerprint" in judged)  # the same rows can be subtracted


def test_log_likelihoods_by_several_evaluations_are_marked_in_their_common_column():
    """Each evaluation has one run alone, but all stand in one column."""
    exact(Path("a"), [-1.0, -2.0])
    ais(Path("b"), -10.0, -9.0, config={"steps": 11}, judged={"space": "4x4 binary", "fingerprint": "g"})
    name = "perplexity/log_likelihood_per_word"
    found = {"perplexity/model": math.e, "perplexity/upper_bound": math.e}
    written(Path("c"), {"steps": 12}, found, log_p={name: [-1.0]})
    shown = table("a", "b", "c")
    assert "*1 not comparable with the others: space 4x4 binary (others 2x2 binary)\n" in shown
    assert "*2 not comparable with the others: in nats a word (others nats a row)\n" in shown
    marks = [line.split()[0] for line in shown.splitlines()[3:6] if "*" in line]
    assert marks == ["b", "c"]


def test_marks_of_columns_that_are_not_shown_are_not_explained():
    written(Path("a"), {}, {"baseline/independent": -1.0, "chains/r_hat": 1.0})
    written(Path("b"), {"steps": 11}, {"baseline/independent": -2.0, "chains/r_hat": 1.1}, judged={"split": "valid"})
    assert "*1 not" in table("a", "b")
    assert "*1" not in table("a", "b", metrics=("chains",), whole=True)


def test_better_is_said_only_where_brackets_do_not_meet():
    ais(Path("a"), -10.0, -9.0)
    ais(Path("b"), -8.9, -8.0, config={"steps": 11})
    ais(Path("c"), -9.5, -8.5, config={"steps": 12})
    a, b, c = lines_of("a", "b", "c")
    assert (b["verdict"], c["verdict"]) == ("better", "undecided")
    assert (float(a["log_likelihood_low"]), float(a["log_likelihood_high"])) == (-10.0, -9.0)
    assert "[-10.0" in table("a", "b", "c")
    assert "undecided: their brackets meet" in table("a", "b", "c")


def test_brackets_apart_by_the_noise_of_raise_decide_nothing():
    for name, low, high in (("a", -10.0, -9.0), ("b", -8.9, -8.0)):
        ais(Path(name), low, high, config={"note": name})
        summary = json.loads(Path(name, "summary.json").read_text()) | {"ais/gap_standard_error": 0.06}
        Path(name, "summary.json").write_text(json.dumps(summary))
    assert lines_of("a", "b")[1]["verdict"] == "undecided"
    assert "their brackets are apart by less than two errors of RAISE" in table("a", "b")


def test_that_another_seed_may_differ_is_said_of_one_run_alone():
    for number, seed in enumerate((0, 1, 0, 1)):
        exact(Path(str(number)), [-1.0, -number], {"seed": seed, "steps": 9 + number // 2})
    said = "not what another seed would give"
    assert said in table("0", "2")
    assert said not in table("0", "1", "2", "3")


def test_the_error_of_a_paired_difference_holds_those_of_both_log_z():
    """d is the same in every row, so that nothing but log Z is uncertain: 0.1 nats in each run."""
    ais(Path("a"), -10.0, -9.0)
    ais(Path("b"), -8.9, -8.0, config={"steps": 11})
    found = lines_of("a", "b")[1]
    assert float(found["difference"]) == pytest.approx(1.0)
    assert float(found["difference_error"]) == pytest.approx(math.sqrt(0.1**2 + 0.1**2))


def test_within_two_errors_nothing_is_decided():
    exact(Path("a"), [-1.0, -2.0, -3.0, -4.0])
    exact(Path("b"), [-1.3, -1.9, -3.0, -3.6], {"steps": 11})
    found = lines_of("a", "b")[1]
    d = np.array([-0.3, 0.1, 0.0, 0.4])
    assert float(found["difference"]) == pytest.approx(d.mean())
    assert float(found["difference_error"]) == pytest.approx(d.std(ddof=1) / 2)
    assert found["verdict"] == "undecided"
    assert "undecided: within two errors" in table("a", "b")


@pytest.mark.long
def test_rows_are_paired_by_their_index():
    name = "words/log_likelihood"
    for run, which, values in (("a", [3, 1, 0], [-3.0, -1.0, -9.0]), ("b", [1, 2, 3], [-1.5, -9.0, -3.1])):
        index = {name: np.array(which)}
        written(Path(run), {"note": run}, {name: float(np.mean(values))}, log_p={name: values}, index=index)
    found = lines_of("a", "b")[1]
    assert float(found["difference"]) == pytest.approx(np.mean([-0.1, -0.5]))
    assert "paired over 2 held-out rows" in table("a", "b")


def test_rows_that_are_not_those_of_the_figure_are_not_used():
    exact(Path("a"), [-1.0, -2.0])
    written(Path("b"), {"steps": 11}, {EXACT: -1.4, "exact/standard_error": 0.3}, log_p={EXACT: [-7.0, -8.0]})
    summary = json.loads(Path("a/summary.json").read_text()) | {"exact/standard_error": 0.4}
    Path("a/summary.json").write_text(json.dumps(summary))
    found = lines_of("a", "b")[1]
    assert float(found["difference"]) == pytest.approx(0.1)
    assert float(found["difference_error"]) == pytest.approx(0.5)  # as if no row were common
    assert "from the means alone, unpaired" in table("a", "b")


def test_rows_that_are_there_twice_are_not_used():
    exact(Path("a"), [-1.0, -2.0])
    exact(Path("b"), [-1.5, -2.0], {"steps": 11}, index={EXACT: np.array([1, 1])})
    assert "paired" not in table("a", "b").replace("unpaired", "")


def test_an_estimate_that_cannot_be_relied_on_decides_nothing():
    ais(Path("a"), -10.0, -9.0)
    ais(Path("b"), -2.9, -2.0, config={"steps": 11})
    summary = json.loads(Path("b/summary.json").read_text()) | {"ais/weight_ess": 1.2}
    Path("b/summary.json").write_text(json.dumps(summary))
    assert lines_of("a", "b")[1]["verdict"] == "undecided"
    assert "not to be relied on: the estimate by evaluation=ais rests on one chain" in table("a", "b")


def test_the_first_of_many_by_a_test_figure_is_called_optimistic():
    for number in range(3):
        valid = {"best/ais/valid/log_likelihood": -float(number)}
        written(Path(str(number)), {"steps": number}, {EXACT: -number / 2, **valid})
    said = "best of 3 by the test split: optimistic; choose on valid (sort=-best/ais/valid/log_likelihood)"
    assert said in table("0", "1", "2", sort=f"-{EXACT}")
    assert "optimistic" not in table("0", "1", "2", sort="-best/ais/valid/log_likelihood")
    assert "optimistic" not in table("0", "1", "2", sort="steps")
    assert "optimistic" not in table("0", sort=f"-{EXACT}")
    evaluated(Path("0"), "t", {"exact/valid/log_likelihood": -1.0, "split": "valid"})
    assert said in table("0", "1", "2", sort=f"-{EXACT}")  # which the others have not
    for number in (1, 2):
        evaluated(Path(str(number)), "t", {"exact/valid/log_likelihood": -1.0, "split": "valid"})
    assert f"(sort=-{EXACT.replace('/', '/valid/')})" in table("0", "1", "2", sort=f"-{EXACT}")


def test_rows_are_sorted_and_those_without_the_figure_come_last():
    for name, value in (("a", -2.0), ("b", None), ("c", -1.0)):
        written(Path(name), {"note": name}, {} if value is None else {EXACT: value})
    order = [row["run"] for row in lines_of("a", "b", "c", f"sort=-{EXACT}")]
    assert order == ["c", "a", "b"]
    assert [row["run"] for row in lines_of("a", "b", "c", f"sort={EXACT}")] == ["a", "c", "b"]
    assert [row["run"] for row in lines_of("a", "b", "c", "sort=-note")] == ["c", "b", "a"]
