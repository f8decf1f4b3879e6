"""`ebm compare`: which runs, keys, groups, digits and figures, on runs written by hand."""

import json
import math
import os
from pathlib import Path

import pytest
from helpers.cli import assert_refused, ebm
from helpers.runs import EXACT, ais, evaluated, exact, lines_of, table, written

from ebm_cli.comparison import digits
from ebm_cli.comparison.making import compared
from ebm_cli.record import runs


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def heads_of(shown: str) -> set[str]:
    """Words of the two lines above the rows."""
    return set(" ".join(shown.splitlines()[1:3]).split())


# Which keys


def test_only_keys_that_differ_are_columns_under_their_shortest_name():
    of = {"model": {"name": "rbm", "hidden": 8}, "optimizer": {"name": "sgd", "lr": 0.1}, "chains": {"steps": 1}}
    exact(Path("a"), [-1.0, -2.0], of)
    exact(Path("b"), [-1.5, -2.0], of | {"optimizer": {"name": "sgd", "lr": 0.2}, "chains": {"steps": 2}})
    heads = heads_of(table("a", "b"))
    assert {"lr", "chains.steps"} <= heads  # steps alone is another key
    assert not {"hidden", "model", "optimizer", "seed"} & heads


def test_what_changes_no_figure_makes_no_other_row():
    of = {"device": {"name": "device", "precision": "fp32"}, "tracker": {"name": "none"}, "log_every": 1}
    exact(Path("a"), [-1.0], of)
    of = {"device": {"name": "device", "precision": "bf16"}, "tracker": {"name": "csv"}, "log_every": 2, "seed": 1}
    exact(Path("b"), [-1.5], of)
    assert [row["n"] for row in lines_of("a", "b")] == ["2"]


def test_a_key_of_the_device_counts_where_it_was_typed():
    for name in ("fp32", "bf16"):
        device = {"device": {"name": "device", "precision": name, "threads": 1}}
        exact(Path(name), [-1.0], device, facts={"overrides": [f"device.precision={name}"]})
    assert [row["device.precision"] for row in lines_of("fp32", "bf16")] == ["fp32", "bf16"]


def test_keys_of_another_part_are_left_out_and_what_it_brings_is_said():
    typed = {"overrides": ["model=rbm"]}
    exact(Path("a"), [-1.0], {"model": {"name": "rbm", "hidden": 8}, "sampler": {"name": "block_gibbs"}}, facts=typed)
    exact(Path("b"), [-1.5], {"model": {"name": "ising", "coupling": 1}, "sampler": {"name": "gibbs"}}, facts=typed)
    shown = table("a", "b")
    assert "model" in heads_of(shown)
    assert not {"hidden", "coupling", "sampler"} & heads_of(shown)
    assert "differing along with these: sampler" in shown
    assert lines_of("a", "b")[1]["sampler"] == "gibbs"


# Groups and digits


def test_a_row_for_each_value_of_the_keys_asked_for():
    for number, (hidden, lr) in enumerate([(4, 0.1), (4, 0.2), (8, 0.1)]):
        exact(Path(str(number)), [-float(number)], {"model": {"hidden": hidden}, "optimizer": {"lr": lr}})
    found = lines_of("0", "1", "2", "by=[hidden]")
    assert [(row["model.hidden"], row["n"]) for row in found] == [("4", "2"), ("8", "1")]
    assert float(found[0][EXACT]) == -0.5
    assert float(found[0][f"{EXACT}_error"]) == pytest.approx(0.5)
    assert found[1][f"{EXACT}_error"] == ""  # no ± of one
    assert "optimizer.lr" not in found[0]  # which varies within the first row
    assert len(lines_of("0", "1", "2", "by=run")) == 3


def test_two_runs_of_one_seed_are_said():
    exact(Path("a"), [-1.0])
    exact(Path("b"), [-1.0])
    assert "a, b: two runs have the same seed" in table("a", "b")


def test_jobs_that_have_not_begun_have_no_seed_in_common():
    exact(Path("a"), [-1.0])
    exact(Path("b"), [-1.0], {"seed": 1})
    sheet = compared([Path("a"), Path("b"), Path("new"), Path("newer")])
    assert not [note for note in sheet.notes if "seed" in note]


def test_a_mean_says_of_how_many_runs_it_is():
    written(Path("a"), {"seed": 1}, {"chains/r_hat": 1.5, "samples/copies": None})
    written(Path("b"), {"seed": 2}, {"samples/copies": 0.5})
    shown = table("a", "b", metrics=("chains", "samples"), whole=True)
    assert "1.500 (1 of 2)" in shown
    assert "not finite" in shown


@pytest.mark.parametrize(
    ("values", "errors", "places"),
    [
        ([-21.123456], [], 2),  # four digits
        ([-21.1201, -21.1202], [], 5),  # two digits of the spread
        ([-21.1, -22.2], [0.0123], 3),  # two digits of the error
        ([3.0, 5.0], [], 0),
        ([-20.1, -25.3, -31.123, -31.124], [], 3),  # which would look alike
        ([1.0, 1.0 + 1e-13], [], 8),  # nine digits at most
        ([0.00012, 0.00034], [], 7),
        ([math.nan], [], 0),
    ],
)
def test_so_many_digits_that_differences_are_seen(values, errors, places):
    assert digits.decimals(values, errors) == places


def test_numbers_are_never_minus_zero_and_large_ones_have_an_exponent():
    assert digits.number(-0.0001, 2) == "0.00"
    assert digits.number(-1.5e12, 2) == "-1.5e+12"
    assert digits.number(math.inf, 2) == "not finite"


# Where figures are from


def test_the_newest_evaluation_takes_the_place_of_older_figures_as_a_whole():
    """A bracket is of one evaluation: RAISE of an older one is no bound beside a newer AIS."""
    ais(Path("a"), -10.0, -9.0)
    evaluated(Path("a"), "2026-01-01_00-00-01", {"ais/log_likelihood": -9.6, "raise/log_likelihood": -9.8})
    evaluated(Path("a"), "2026-01-01_00-00-02", {"ais/log_likelihood": -9.5})
    (row,) = lines_of("a")
    assert float(row["ais/log_likelihood"]) == -9.5
    assert "raise/log_likelihood" not in row
    assert row["log_likelihood_low"] == ""


def test_an_evaluation_of_another_step_is_not_mixed_in():
    exact(Path("a"), [-1.0])
    evaluated(Path("a"), "t", {EXACT: -7.0, "step": 5})
    assert float(lines_of("a")[0][EXACT]) == -1.0
    assert "a: evaluations/t is of step 5, what is shown of step 10" in table("a")


@pytest.mark.parametrize(
    ("facts", "shown", "why"),
    [
        ({"status": "running"}, "died at step 7", ""),
        ({"status": "failed", "error": "loss is not finite"}, "failed at step 7", ": loss is not finite"),
        ({"status": "stopped", "step": 8}, "stopped at step 8", ""),
        ({"status": "failed", "step": None}, "failed at step 7", ""),
        ({"status": "failed", "step": 8, "error": "step 9: loss nan"}, "failed at step 9", ": step 9: loss nan"),
    ],
)
def test_a_run_that_is_not_done_shows_its_status_and_last_step(facts, shown, why):
    exact(Path("a"), [-1.0])
    written(Path("b"), {"steps": 99}, facts=facts)
    Path("b/metrics.jsonl").write_text('{"step": 3, "loss": 1}\n{"step": 7, "loss": 1}\n')
    [line] = [line for line in table("a", "b", width=160).splitlines() if "at step" in line]
    assert shown in line
    assert ":" not in line
    assert ("b" + why in table("a", "b", width=160).splitlines()) == bool(why)  # below the table
    assert [row["status"] for row in lines_of("a", "b")] == ["done", shown + why]


def test_each_run_that_failed_has_a_reason_of_its_own():
    errors = ["step 2: loss -inf", "step 14: loss nan", "the disk is full", "step 2: loss -inf"]
    for number, error in enumerate(errors):
        written(Path(f"sweep/{number}"), {"model": {"hidden": number}}, facts={"status": "failed", "error": error})
    said = [" ".join(line.split()) for line in table("sweep", width=160).splitlines() if ": " in line]
    assert said == ["0, 3: step 2: loss -inf", "1: step 14: loss nan", "2: the disk is full"]


def test_reasons_of_the_runs_of_a_row_that_differ_in_numbers_are_one():
    for number, error in enumerate(["step 2: loss -inf", "step 14: loss nan", "the disk is full"]):
        written(Path(f"sweep/{number}"), {"seed": number}, facts={"status": "failed", "error": error})
    said = [" ".join(line.split()) for line in table("sweep", width=160).splitlines() if ": " in line]
    assert said == ["0, 1, 2: step 2: loss -inf (numbers of 0)", "0, 1, 2: the disk is full"]


def test_an_evaluation_that_failed_is_said():
    written(Path("a"), {}, {EXACT: -1.0, "failed": {"ais": "out of memory"}})
    assert "a: evaluation ais failed: out of memory" in table("a")


def test_a_run_that_goes_on_is_running():
    from ebm_cli.record.lease import claimed

    written(Path("b"), facts={"status": "running"})
    Path("b/metrics.jsonl").write_text('{"step": 3, "loss": 1}\n')
    with claimed(Path("b"), ""):
        assert "running at step 3" in table("b")


def test_a_job_that_never_became_a_run_shows_what_was_typed():
    exact(Path("sweep/0"), [-1.0], {"model": {"hidden": 4}})
    Path("sweep/1").mkdir()
    facts = {"status": "failed", "error": "model.hidden = 0: must be at least 1", "overrides": ["model.hidden=0"]}
    Path("sweep/1/metadata.json").write_text(json.dumps(facts))
    first, second = lines_of("sweep")
    assert (first["model.hidden"], second["model.hidden"]) == ("4", "0")
    assert "steps" not in first  # what the job shares with the others is not known to differ
    assert second["status"] == "failed: model.hidden = 0: must be at least 1"


# Which runs


def test_jobs_of_a_ledger_may_lie_deeper_and_come_in_its_order():
    for name in ("rbm/10", "rbm/2", "ising/1"):
        exact(Path("sweep", name), [-1.0], {"note": name})
    jobs = [{"number": i, "directory": name} for i, name in enumerate(("rbm/2", "rbm/10", "ising/1", "rbm/11", ".."))]
    Path("sweep/sweep.json").write_text(json.dumps({"format": 1, "arguments": [], "jobs": jobs}))
    assert [str(path) for path in runs.named(["sweep"])] == ["sweep/rbm/2", "sweep/rbm/10", "sweep/ising/1"]
    assert "sweep: 1 jobs have not begun" in ebm("compare sweep").out
    assert "sweep: 1 jobs have not begun" in json.loads(ebm("compare sweep format=json").out)["notes"]


def test_folders_are_in_natural_order_and_links_below_them_are_not_followed():
    for name in ("10", "9", "x/3"):
        exact(Path("runs", name), [-1.0])
    os.symlink("../elsewhere", "runs/link")
    exact(Path("elsewhere"), [-1.0])
    assert [str(path) for path in runs.named(["runs"])] == ["runs/9", "runs/10", "runs/x/3"]
    assert runs.named(["runs/[0-9x]*", "runs/9"]) == runs.named(["runs"])[:2] + runs.named(["runs/x"])


def test_names_with_spaces_and_brackets_are_names():
    exact(Path("my runs/[red]a*"), [-1.0])
    assert [str(path) for path in runs.named(["my runs/[red]a*"])] == ["my runs/[red]a*"]
    assert "[red]a*" in table("my runs/[red]a*")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["name at least one: ebm compare RUN|SWEEP"]),
        ("nothing", ["nothing: no run is there"]),
        ("nothing*", ["nothing*: no run is there"]),
        ("a sort=-exact/log_liklihood", ["sort = exact/log_liklihood: no run has such", "did you mean exact/log_like"]),
        ("a metrics=[exct]", ["metrics = exct: no run has it", "did you mean exact"]),
        ("a by=[hiden]", ["by = hiden: no run has such a key", "did you mean hidden"]),
        ("a format=xml", ["format = xml: must be table, csv, json, md or latex"]),
        ("a sorted=x", ["sorted: is no key of ebm compare", "did you mean sort"]),
        ("a out=a/config.yaml", ["out = a/config.yaml: is there already, and is kept"]),
        ("a --all", ["--all: ebm compare takes no flags"]),
        ("a metrics=[]", ["metrics is empty"]),
    ],
)
def test_bad_words_are_refused_in_one_sentence(line, words):
    exact(Path("a"), [-1.0], {"hidden": 3})
    assert_refused(ebm(f"compare {line}"), *words)
