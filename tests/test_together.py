"""Evaluations that fail or find no number: what the others found is kept, and every file is JSON for every reader."""

import json
import math
from pathlib import Path

import pytest
from helpers.cli import ebm, train, trained

from ebm_cli.errors import RunError
from ebm_cli.evaluation.base import Result
from ebm_cli.evaluation.pseudo_likelihood import PseudoLikelihood
from ebm_cli.evaluation.samples import Samples
from ebm_cli.record.plain_json import dumps, finite

BOTH = "evaluation=[pseudo_likelihood,samples]"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_was_found_before_a_stop_is_kept(monkeypatch):
    """Of the evaluation that is stopped nothing is; where none was done, there is no folder either."""

    def stopped(self, subject):
        raise KeyboardInterrupt

    run = trained()
    monkeypatch.setattr(Samples, "evaluate", stopped)
    assert ebm("evaluate run=run device=cpu evaluation=[samples,pseudo_likelihood]").code == 130
    assert not (run / "evaluations").exists()
    answer = ebm("evaluate run=run device=cpu", BOTH)
    assert answer.code == 130
    (folder,) = (run / "evaluations").iterdir()
    assert f"stopped; what pseudo_likelihood found is kept in {folder}" in answer.out + answer.err
    assert strict(folder / "results.json")["warnings"] == {"pseudo_likelihood": []}
    assert "pseudo_likelihood/log_pseudo_likelihood" in strict(folder / "results.json")


@pytest.mark.long
def test_an_evaluation_says_before_it_begins_what_it_costs():
    trained()
    keys = ("evaluation.entropy.chains=4", "evaluation.entropy.steps=2", "evaluation.entropy.thetas=3")
    answer = ebm(
        "evaluate run=run device=cpu evaluation=[entropy,pseudo_likelihood]", "evaluation.entropy.warmup=5", *keys
    )
    assert answer.code == 0, answer.err
    assert "evaluating: entropy, 22 transitions of 2 chains\n" in answer.err
    assert "evaluating: pseudo_likelihood\n" in answer.err


def strict(path):
    """What the file holds, if it is JSON: no NaN, no Infinity."""

    def refuse(name):
        raise ValueError(name)

    return (
        [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
        if (path.suffix == ".jsonl")
        else json.loads(path.read_text(), parse_constant=refuse)
    )


def failing(error):
    def evaluate(self, subject):
        raise error

    return evaluate


def test_what_is_not_finite_is_null():
    found = {"a": [1.5, math.nan, (2, -math.inf)], "b": {"c": math.inf, "d": True}, "e": "NaN"}
    assert json.loads(dumps(found)) == {"a": [1.5, None, [2, None]], "b": {"c": None, "d": True}, "e": "NaN"}
    assert finite({"a": 1.0, "b": math.nan, "c": -math.inf, "d": None}) == {"a": 1.0}


@pytest.mark.long
@pytest.mark.quick("error1*")
@pytest.mark.parametrize(
    ("error", "said"),
    [(RunError("no way"), "no way"), (ValueError("bad sum"), "ValueError: bad sum"), (KeyError("x"), "KeyError: 'x'")],
)
def test_an_evaluation_that_fails_loses_none_of_the_others(error, said, monkeypatch):
    trained(BOTH)
    monkeypatch.setattr(PseudoLikelihood, "evaluate", failing(error))
    answer = train(BOTH + " eval_every=0", "failed")
    assert answer.code == 1
    assert f"evaluation pseudo_likelihood failed: {said}" in answer.err
    assert "Traceback" not in answer.err
    run = Path("failed")
    summary = strict(run / "summary.json")
    assert summary["failed"] == {"pseudo_likelihood": said}
    assert summary["status"] == "failed"
    assert summary["samples/distinct"] > 0
    assert strict(run / "metadata.json")["error"].startswith(f"evaluation pseudo_likelihood failed: {said}")
    trace = run / "samples" / "pseudo_likelihood-error.txt"
    assert trace.exists() == (not isinstance(error, RunError))
    answer = ebm("evaluate run=run", BOTH)
    assert answer.code == 1
    assert f"evaluation pseudo_likelihood failed: {said}" in answer.err
    (file,) = run.parent.glob("run/evaluations/*/results.json")
    results = strict(file)
    assert results["failed"] == {"pseudo_likelihood": said}
    assert results["samples/distinct"] > 0
    assert "samples/distinct" in answer.out


def test_all_that_an_evaluation_has_to_say_is_said(monkeypatch):
    found = Result({}, warnings=("the first doubt", "the second doubt"), said=("the first word", "the second word"))
    monkeypatch.setattr(Samples, "evaluate", lambda self, subject: found)
    for answer in (train(), ebm("evaluate run=run evaluation=[samples]")):
        assert answer.code == 0
        assert [line for line in answer.err.splitlines() if "first" in line or "second" in line] == [
            "the first word", "the second word",
            "samples: the first doubt", "samples: the second doubt",
        ]  # fmt: skip


def test_an_evaluation_that_fails_while_training_is_said_once(monkeypatch):
    monkeypatch.setattr(PseudoLikelihood, "evaluate", failing(ValueError("bad sum")))
    answer = train("evaluation=[pseudo_likelihood,samples] eval_every=3")
    assert answer.err.count("step 3: evaluation pseudo_likelihood failed: ValueError: bad sum") == 1
    assert "step 6: evaluation" not in answer.err
    assert len(strict(Path("run/metrics.jsonl"))) == 12


@pytest.mark.long
def test_numbers_that_are_not_finite_are_null_with_a_sentence(monkeypatch):
    found = {"pseudo_likelihood/log_pseudo_likelihood": math.nan, "pseudo_likelihood/rows": 3.0}
    monkeypatch.setattr(PseudoLikelihood, "evaluate", lambda self, subject: Result(found))
    monkeypatch.setattr(Samples, "evaluate", lambda self, subject: Result({"samples/distinct": -math.inf}))
    answer = train(BOTH + " eval_every=4 tracker=csv")
    assert answer.code == 0
    assert "pseudo_likelihood/log_pseudo_likelihood: not finite" in answer.err
    assert "samples/distinct: not finite" in answer.err
    assert "step 4: pseudo_likelihood/valid/log_pseudo_likelihood: not finite" in answer.err
    run = Path("run")
    assert strict(run / "summary.json") | {"samples/distinct": None, "pseudo_likelihood/rows": 3.0} == strict(
        run / "summary.json"
    )
    lines = [line for line in strict(run / "metrics.jsonl") if "pseudo_likelihood/valid/rows" in line]
    assert [line["pseudo_likelihood/valid/log_pseudo_likelihood"] for line in lines] == [None] * 3
    assert "nan" not in (run / "metrics.csv").read_text()
    assert strict(run / "checkpoints" / "step-00000012" / "state.json")["best"] is None
