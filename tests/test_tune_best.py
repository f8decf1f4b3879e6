"""What `ebm tune` says of the best trial: of how many it is the best, by what, and what mattered."""

import json
from pathlib import Path

import pytest
from helpers.cli import facts
from helpers.pages import Parsed
from helpers.runs import written
from test_tune import METRIC, again, stubbed, trials, tuned

from ebm_cli.commands import pages, tune
from ebm_cli.record.run import Run


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(monkeypatch):
    return stubbed(monkeypatch)


@pytest.mark.quick("trials=9*")
@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param("trials=9 pruner=none", None, marks=pytest.mark.long),
        ("trials=7 pruner=none", "not known yet: it takes 8 trials that are done, 7 are"),
        ("trials=9 pruner=none metric=x/y", "not known: all that are done are worth the same"),
        pytest.param("trials=8 metric=[seconds,steps]", "not known of several metrics", marks=pytest.mark.long),
    ],
)
def test_why_it_is_not_known_what_mattered(trained, monkeypatch, line, why):
    monkeypatch.setattr(tune, "check_metric", lambda config, search: [])
    answer = tuned(line)
    assert ("what mattered: " in answer.out) == (why is not None)
    assert why is None or f"what mattered: {why}\n" in answer.out
    assert [text for text in facts(Path("search"), "summary.json")["said"] if text.startswith("what mattered")]


@pytest.mark.long
def test_a_run_that_was_proposed_twice_is_one_that_is_done(trained):
    answer = tuned("trials=9 pruner=none", space="'model.hidden=choice(4,8,12)' 'optimizer.lr=choice(0.1,0.01,0.001)'")
    assert Path("search/study.journal").read_text().count('"job"') > 9
    assert "what mattered among the 9 that are done: " in answer.out


def test_of_one_key_it_is_plain_what_mattered(trained):
    assert "what mattered" not in tuned("trials=3", space="'model.hidden=choice(4,8,12)'").out


@pytest.mark.long
def test_the_best_by_the_test_split_is_said_to_be_optimistic(trained, monkeypatch):
    monkeypatch.setattr(tune, "check_metric", lambda config, search: [])
    assert "x/y = 0.5 (max), best of 3 by the test split: optimistic\n" in tuned("metric=x/y trials=3").out


def test_the_page_of_a_search_names_its_best_trial(tmp_path):
    """By what was searched for, whatever its runs monitored."""
    for number in range(3):
        config = {"checkpoint": {"monitor": "ais/valid/log_likelihood"}, "optimizer": {"lr": 0.1 + number}}
        written(Path("search", str(number)), config, {"best/ais/valid/log_likelihood": -20.0 + number})
    said = ["best trial 0: seconds = 3 (min), best of 3", "what mattered: <b>nothing</b>"]
    Path("search/summary.json").write_text(json.dumps({"said": said}))
    pages.write_multirun(Path("search"))
    assert "best run: 2 " in Parsed(Path("search/report.html").read_text()).text
    Path("search/tune.json").write_text("{}")
    for other, there in ((said, True), ("best", False), ([1], False)):
        Path("search/summary.json").write_text(json.dumps({"said": other}))
        pages.write_multirun(Path("search"))
        text = Parsed(Path("search/report.html").read_text()).text
        assert all((line in text) == there for line in said)
        assert ("best run: 2 " in text) != there


def trained_on(number: int, value: float, **facts) -> Path:
    """What `ebm train resume=search/NUMBER steps=16` leaves."""
    home = Run(Path("search", str(number)))
    home.append_metrics(16, {METRIC: value})
    changes = [{"step": 8, "overrides": ["steps=16", "tracker=csv"], "before": {}}]
    home.update_metadata(changes=changes, **{"status": "done", "error": None} | facts)
    home.write_json("summary.json", {"status": "done", "steps": 16, "seconds": 9.0})
    return home.path


@pytest.mark.long
@pytest.mark.quick("pruned-median")
@pytest.mark.parametrize(("before", "pruner"), [("done", "none"), ("pruned", "median"), ("failed", "none")])
def test_a_trial_that_was_trained_on_is_worth_what_its_own_files_say(trained, before, pruner):
    trained.fails = {2}
    tuned(f"trials=14 startup=6 pruner={pruner}")
    was = facts(Path("search"), "summary.json")["best"][0]
    other = next(n for n, (_, status, _) in enumerate(trials()) if status == before and n != was["trial"])
    trained_on(other, -0.001)
    answer = again()
    assert answer.code == 0
    assert trials()[other][1:] == ("done", [-0.001])
    assert f"best trial {other}: {METRIC} = -0.001 (max), best of " in answer.out
    words = answer.out.partition("train it again with: ebm ")[2].splitlines()[0]
    assert "steps=16" in words
    assert "steps=8" not in words
    assert "tracker=none" in words
    assert trials()[was["trial"]][2] == list(was["metrics"].values())
    more = again("trials=15")
    assert f"best so far: trial {other}, -0.001" in more.out


@pytest.mark.long
def test_the_best_that_got_worse_while_it_was_trained_on_is_no_longer_the_best(trained):
    tuned("trials=6 pruner=none")
    best = facts(Path("search"), "summary.json")["best"][0]["trial"]
    trained_on(best, -100.0)
    again()
    assert trials()[best][2] == [-100.0]
    assert facts(Path("search"), "summary.json")["best"][0]["trial"] != best


@pytest.mark.long
def test_of_a_trial_that_is_trained_on_and_not_done_the_value_is_said_to_be_of_an_earlier_step(trained):
    tuned("trials=6 pruner=none")
    before = trials()[1]
    trained_on(1, -0.001, status="stopped")
    answer = again()
    assert trials()[1][1:] == ("stopped", before[2])
    assert "the value is of an earlier step" in " ".join(answer.out.split())
    assert "best trial 1:" not in answer.out
