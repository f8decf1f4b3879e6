"""`ebm compare`: columns, groups, digits, honesty and formats, on runs written by hand."""

import csv
import io
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.cli import assert_refused, ebm
from helpers.runs import EXACT, evaluated, exact, written

from ebm_cli import registry
from ebm_cli.comparison import digits, shown
from ebm_cli.comparison.declared import declared
from ebm_cli.comparison.making import Asked, compared
from ebm_cli.comparison.shown import show
from ebm_cli.record import runs
from ebm_cli.terminal import plain_console


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(*words: str, width: int = 120, whole: bool = False, **asked) -> str:
    found = io.StringIO()
    console = plain_console(file=found, width=width, color_system=None)
    show(compared(runs.named(words), Asked(**asked)), console, whole=whole)
    return found.getvalue()


def lines_of(*words: str) -> list[dict]:
    answer = ebm("compare format=csv", *words)
    assert answer.code == 0, answer.err
    return list(csv.DictReader(io.StringIO(answer.out)))


def ais(path, low, high, **more):
    """With a bracket, and an error of log Z of 0.1 nats."""
    half = 0.1 * 1.959963984540054
    found = {
        "ais/log_likelihood": high, "raise/log_likelihood": low, "ais/gap": high - low, "ais/weight_ess": 50.0,
        "ais/log_z": 3.0, "ais/log_z_low": 3.0 - half, "ais/log_z_high": 3.0 + half,
    }  # fmt: skip
    spread = np.array([-0.3, 0.1, 0.3, -0.1])
    return written(path, more.pop("config", None), found, log_p={"ais/log_likelihood": high + spread}, **more)


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


# Honesty


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
    ("facts", "shown"),
    [
        ({"status": "running"}, "died at step 7"),
        ({"status": "failed", "error": "loss is not finite"}, "failed at step 7: loss is not finite"),
        ({"status": "stopped", "step": 8}, "stopped at step 8"),
    ],
)
def test_a_run_that_is_not_done_shows_its_status_and_last_step(facts, shown):
    exact(Path("a"), [-1.0])
    written(Path("b"), {"steps": 99}, facts=facts)
    Path("b/metrics.jsonl").write_text('{"step": 3, "loss": 1}\n{"step": 7, "loss": 1}\n')
    assert shown in " ".join(table("a", "b", width=160).split())
    assert [row["status"] for row in lines_of("a", "b")] == ["done", shown]


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


# Forms


EVIL = "<script>alert(1)</script>|a,b&c_d#e%f$[red]\\x\x1b[31m\"'"


@pytest.fixture
def evil():
    """A run whose name and note hold what every form has a meaning for."""
    exact(Path("a"), [-1.0, -2.0], {"note": "plain"})
    exact(Path("b", EVIL.replace("/", ":")), [-1.5, -2.5], {"note": EVIL})
    return ["a", "b"]


def test_the_table_shows_names_as_they_are(evil):
    shown = table(*evil, width=300)
    assert "\x1b" not in shown
    assert EVIL.replace("\x1b", "\\x1b")[:24] in shown


def test_csv_and_json_hold_names_as_they_are(evil):
    assert [row["note"] for row in lines_of(*evil)] == ["plain", EVIL]
    found = json.loads(ebm("compare format=json", *evil).out)
    assert [row["settings"]["note"] for row in found["rows"]] == ["plain", EVIL]
    assert found["rows"][1]["metrics"][EXACT] == {"value": -2.0, "error": None, "n": 1}
    assert found["rows"][1]["above"]["verdict"] == "worse"
    assert found["above"] == "a"
    assert found["rows"][0]["runs"][0]["status"] == "done"


def test_markdown_is_a_table_in_which_nothing_is_markup(evil):
    lines = ebm("compare format=md", *evil).out.splitlines()
    body = [line for line in lines if line.startswith("|")]
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in body}) == 1
    assert len(body) == 4
    assert not re.search(r"<|(?<!\\)[`_#\[]", "".join(lines))


def test_markdown_and_latex_have_what_is_compared_first_or_what_was_asked_for():
    written(Path("a"), {}, {EXACT: -1.0, "chains/r_hat": 1.0, "chains/jump_distance": 2.0})
    for form in ("md", "latex"):
        usual = ebm(f"compare a format={form}").out.replace("\\", "").split("more: ")[0]
        assert "chains/r_hat" in usual
        assert "jump_distance" not in usual
        assert "jump_distance" in ebm(f"compare a format={form} metrics=[chains]").out.replace("\\", "")


def test_latex_is_a_tabular_in_which_nothing_is_a_command(evil):
    text = ebm("compare format=latex", *evil).out
    inner = text.split(r"\hline")
    rows = [line for part in inner[1:3] for line in part.splitlines() if line]
    assert len({len(re.split(r"(?<!\\)&", line)) for line in rows}) == 1
    assert all(line.endswith(r" \\") for line in rows)
    plain = re.sub(r"\\(text\w+|sqrt|pm|begin|end|hline)|\\[&%$#_{}]|\\\\", "", text)
    assert not re.search(r"[\\%#_~^<>|\x1b]", plain)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_the_ending_of_a_file_says_the_form_and_nothing_is_overwritten():
    exact(Path("a"), [-1.0])
    assert ebm("compare a out=made/t.csv").code == 0
    assert Path("made/t.csv").read_text() == ebm("compare a format=csv").out
    before = Path("made/t.csv").read_bytes()
    assert_refused(ebm("compare a out=made/t.csv"), "is there already")
    assert Path("made/t.csv").read_bytes() == before


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width):
    many = {f"samples/figure_{i}": float(i) for i in range(30)}
    for name in ("a", "b"):
        written(Path(name), {"note": name, "other": name * 3}, {EXACT: -1.0, "chains/r_hat": 1.0, **many})
    shown = table("a", "b", width=width).splitlines()
    assert max(map(len, shown)) <= width
    assert "more: metrics=[" in " ".join(shown)
    whole = table("a", "b", width=width, metrics=("samples",), whole=True)
    assert all(f"figure_{i}" in whole for i in range(30))


def test_every_figure_is_in_csv():
    written(Path("a"), {}, {f"samples/figure_{i}": float(i) for i in range(50)})
    assert sum(name.startswith("samples/") for name in lines_of("a")[0]) == 50


def test_what_evaluations_declare_is_read_from_their_source():
    registry.load_components()
    for name, evaluation in registry.components("evaluation").items():
        assert declared(name).standing == evaluation.standing, name
        assert declared(name).compared == tuple(metric for _, metric in evaluation.compared), name
    assert declared("nobody's").compared == ()


def test_the_jobs_of_a_multirun_and_their_means():
    found = io.StringIO()
    console = plain_console(file=found, width=120, color_system=None)
    paths = [exact(Path("sweep", str(seed)), [-1.0, -seed], {"seed": seed}) for seed in range(3)]
    shown.show_jobs(paths, "multirun sweep", console)
    text = found.getvalue()
    assert re.search(r"^multirun sweep *$", text, re.MULTILINE)
    assert re.search(r"^multirun sweep, means over seeds *$", text, re.MULTILINE)
    assert [line.split()[0] for line in text.splitlines() if re.match(r"\d ", line)] == ["0", "1", "2"]
    shown.show_jobs([], "nothing", console)
    assert found.getvalue() == text


def test_neither_torch_nor_hydra_is_imported():
    import subprocess
    import sys

    exact(Path("a"), [-1.0])
    exact(Path("b"), [-2.0], {"note": 1})
    code = (
        "import sys; from ebm_cli.cli.main import dispatch; dispatch(['compare', 'a', 'b']); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "hydra", "omegaconf", "pydantic", "wandb", "scipy", "PIL"} & set(
        done.stdout.split("\n")[-2].split()
    )


def test_two_hundred_runs_are_read_from_their_small_files_alone(monkeypatch):
    """No file is larger than what a run writes of itself in short: neither weights nor metrics are opened."""
    read = []
    original = runs.files.read

    def noted(root, name, **more):
        read.append(name)
        return original(root, name, **more)

    monkeypatch.setattr(runs.files, "read", noted)
    for number in range(200):
        exact(Path("many", str(number)), [-1.0, -number], {"seed": number % 5, "steps": number // 5})
        Path("many", str(number), "metrics.jsonl").write_text("{}\n")
    assert len(lines_of("many")) == 40
    each = {"config.yaml", "metadata.json", "summary.json", "rows.npz"}
    assert set(read) == each | {"sweep.json"}
    assert all(read.count(name) == 200 for name in each)
