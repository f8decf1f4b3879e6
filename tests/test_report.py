"""`report.html`: whole in itself, inert whatever the run holds, and it says what the run found."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.cli import assert_refused, ebm
from helpers.pages import Parsed
from helpers.runs import EXACT, evaluated, written

from ebm_cli.commands import pages
from ebm_cli.evaluation.chains import drawn
from ebm_cli.page import catalogue, curves, findings, log
from ebm_cli.page.chart import Chart, Line, thinned
from ebm_cli.page.made import page
from ebm_cli.record.run import png

HOSTILE = "<script>alert(1)</script>"
STAMP = "2026-01-01 00:00:00,000"
BEGUN = (("INFO", "rbm with 10 parameters, CPU"), ("INFO", "digits"), ("INFO", "run directory outputs/RUN"))
HEALTHY = {
    EXACT: -19.38,
    "exact/log_likelihood": -19.38,
    "chains/r_hat": 1.004,
    "chains/autocorrelation_time": 12.0,
    "best/step": 400,
    "last/step": 400,
    "best/exact/valid/log_likelihood": -19.2,
    "last/exact/valid/log_likelihood": -19.2,
}
RISING = [-30.0, -25.0, -21.0, -19.6, -19.5, -19.4, -19.35, -19.3]


def run(path: Path, metrics=None, said=(), facts=None, curve=(), config=None) -> Path:
    """A run that is over, with what it logged."""
    written(path, config, HEALTHY if metrics is None else metrics, facts=facts)
    lines = [{"step": 10 * i, "exact/valid/log_likelihood": y, "energy_gap": -1 + 0.1 * i} for i, y in enumerate(curve)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    spoken = [*BEGUN, *said, ("INFO", "run directory outputs/RUN")]
    (path / "train.log").write_text("".join(f"{STAMP} {level} {text}\n" for level, text in spoken))
    return path


GOOD = (("INFO", "verdict: better than independent units by 5.80 ± 0.20 nats a row (exact log-likelihood)"),)


def answered(path: Path) -> dict[str, str]:
    """The state of every answer, by the first words of its question."""
    from ebm_cli.page import one

    return {answer.question: answer.state for answer in one.seen("x", one_facts(path)).answers}


def one_facts(path: Path):
    from ebm_cli.comparison import facts

    return facts.read(path)


def test_a_healthy_run_is_said_to_be_healthy(tmp_path):
    found = answered(run(tmp_path / "run", said=GOOD, curve=RISING))
    assert set(found.values()) == {"good"}
    assert "This run looks healthy." in Parsed(page([tmp_path / "run"], "run")).text


NOT_FINITE = "step 3: the gradient of W is not finite (loss 1e22); nothing of it was saved. Take a lower optimizer.lr"
APART = (
    "chains: chains from data and from noise disagree (R-hat 4.29, should be near 1): they do not mix in 2000 "
    "steps; try another sampler"
)
FELL = (
    "ais/valid/log_likelihood fell from -20.01 at step 1500, the best, to -27.72 at step 6000, the last, 7.71 ± 0.16 "
    "less, while on as many training rows it rose from -15.26 to -7.04: the model overfits; the best is judged here"
)
WIDE = {"ais/log_likelihood": -80.0, "raise/log_likelihood": -95.0, "ais/gap": 15.0, "ais/weight_ess": 50.0}
ILL = {
    "diverged": (
        {"metrics": {}, "facts": {"status": "failed", "error": NOT_FINITE}, "said": (("ERROR", NOT_FINITE),)},
        "It diverged", "a lower rate, or a bound on the gradient",
    ),
    "apart": ({"said": (*GOOD, ("WARNING", APART))}, "Its chains do not mix", "A longer look, or another sampler"),
    "overfit": ({"said": (*GOOD, ("WARNING", FELL))}, "It overfits", "Fewer steps, or look at the best one"),
    "wide": ({"metrics": WIDE, "said": GOOD}, "only within a wide bracket: [-95.00, -80.00]", "Anneal more slowly"),
    "still rising": ({"said": GOOD, "curve": [-30.0, -28, -26, -24, -22, -20, -18]}, "getting better", "Train on"),
    "worse": (
        {"said": (("WARNING", "worse than independent units, by 0.50 nats a row (exact log-likelihood)"),)},
        "It is worse than independent units", "A lower rate and more steps of the chains",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ILL)
def test_what_is_wrong_and_what_to_do_stand_at_the_top(name, tmp_path):
    about, wrong, advice = ILL[name]
    text = Parsed(page([run(tmp_path / "run", **about)], "run")).text.lower()
    top = text[: text.index("in plain words")]
    assert wrong.lower() in top
    assert advice.lower() in text[text.index("what to do next") :][:600]
    assert "looks healthy" not in text


def test_a_sentence_leads_to_its_entry_of_the_catalogue(tmp_path):
    found = Parsed(page([run(tmp_path / "run", said=(("WARNING", APART),))], "run"))
    inner = [address for address in found.addresses if address.startswith("#failure-")]
    ids = [attrs["id"] for _, attrs in found.tags if attrs.get("id", "").startswith("failure-")]
    assert inner
    assert {address[1:] for address in inner} == set(ids)
    assert "Chains do not mix in the time that they were given" in found.text


def test_the_catalogue_of_the_page_is_that_of_the_manual():
    manual = (Path(__file__).parents[1] / "docs" / "numbers.md").read_text()
    own = catalogue.CATALOGUE.read_text()
    assert own.startswith("## A catalogue of failures")
    assert manual.endswith(own), "copy the last section of docs/numbers.md to ebm_cli/page/assets/catalogue.md"
    assert len(catalogue.entries()) > 30


def test_only_what_was_said_since_the_run_was_taken_up_counts(tmp_path):
    path = run(tmp_path / "run", said=(("WARNING", APART),))
    again = "".join(f"{STAMP} {level} {text}\n" for level, text in (*BEGUN, *GOOD))
    (path / "train.log").write_text((path / "train.log").read_text() + again)
    assert [line.text for line in log.newest(path)] == [text for _, text in (*BEGUN, *GOOD)]


def test_the_page_asks_for_nothing_and_is_whole(tmp_path):
    found = Parsed(page([run(tmp_path / "run", said=GOOD, curve=RISING)], "run"))
    assert not found.wrong
    assert all(re.match(r"#|data:image/png;base64,", address) for address in found.addresses)
    policy = next(attrs["content"] for _, attrs in found.tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_the_scripts_are_those_that_the_policy_lets_run(tmp_path):
    import base64
    import hashlib

    text = page([run(tmp_path / "run")], "run")
    found = Parsed(text)
    running = [script for script in found.scripts if not script.startswith("[")]
    sums = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in running]
    assert len(sums) == 2
    assert all(f"'sha256-{each}'" in text for each in sums)


def test_figures_are_those_of_the_summary(tmp_path):
    path = run(tmp_path / "run", {**HEALTHY, "exact/log_z": 60.704709391})
    rows = re.findall(r'<th>(.*?)</th><td class="number">(.*?)</td>', page([path], "run"))
    summary = json.loads((path / "summary.json").read_text())
    known = {name: value for name, value in summary.items() if "/" in name}
    shown = {name: float(value) for name, value in rows}
    assert {name: shown[name] for name in known} == pytest.approx(known, rel=1e-5)


def hostile(path: Path) -> Path:
    """Every text that a run may have is a script."""
    facts = {
        "status": "failed", "error": f"not finite ({HOSTILE})", "overrides": [f"dataset.path={HOSTILE}"],
        "device": HOSTILE, "versions": {HOSTILE: HOSTILE},
    }  # fmt: skip
    run(path, {}, (("WARNING", HOSTILE), ("INFO", f"verdict: {HOSTILE}")), facts, config={"dataset": {"path": HOSTILE}})
    lines = [
        {"step": i, f"{HOSTILE}/valid/log_likelihood": -i, "</script><img src=x onerror=alert(1)>": i} for i in range(9)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "summary.json").write_text(json.dumps({"status": "done", f"{HOSTILE}/x": 1.0, "best/step": 1}))
    return path


@pytest.mark.parametrize("count", [1, 2])
def test_whatever_a_run_holds_is_text(count, tmp_path):
    paths = [hostile(tmp_path / f"{i}" / "<script>alert(1)<" / "script>") for i in range(count)]
    found = Parsed(page(paths, HOSTILE))
    assert not found.wrong
    assert len(found.scripts) == 3
    assert not [script for script in found.scripts if "alert(1)</" in script or "<img" in script]
    assert not [attrs for _, attrs in found.tags if any(name.startswith("on") for name in attrs)]
    assert [tag for tag, _ in found.tags].count("img") == 0
    assert HOSTILE in found.text


def test_files_of_a_run_that_are_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(f'{STAMP} WARNING secret words\n{{"step": 1, "secret": 1}}\n')
    path = run(tmp_path / "run")
    (path / "samples").mkdir()
    for name in ("samples/samples.png", "metrics.jsonl", "train.log"):
        (path / name).unlink(missing_ok=True)
        os.symlink(secret, path / name)
    assert "secret" not in page([path], "run").replace(str(secret), "")


def test_pictures_are_in_the_page_and_those_without_room_are_named(tmp_path):
    path = run(tmp_path / "run")
    (path / "samples").mkdir()
    (path / "samples" / "samples.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), np.uint8)
    (path / "samples" / "neighbours.png").write_bytes(png(noise))
    (path / "samples" / "zero.png").write_bytes(b"GIF89a  " + png(np.zeros((8, 8, 3), np.uint8))[8:])
    text = page([path], "run")
    assert text.count("data:image/png;base64,") == 1
    assert "samples/neighbours.png" in text
    assert "left out, for the page would grow too large" in text
    assert "is no picture that can be shown" in text


@pytest.mark.long
def test_ten_runs_stay_below_three_megabytes(tmp_path):
    noise = np.random.default_rng(0)
    paths = []
    for number in range(10):
        path = run(tmp_path / str(number), said=GOOD, config={"seed": number})
        (path / "samples").mkdir()
        for name in range(8):
            picture = noise.integers(0, 255, (100, 100 + number, 3), np.uint8)
            (path / "samples" / f"{name}.png").write_bytes(png(picture))
        paths.append(path)
        names = [f"figure_{i}/valid/log_likelihood" for i in range(12)]
        lines = [{"step": i, **dict(zip(names, noise.normal(size=12), strict=True))} for i in range(1000)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert 1_000_000 < len(page(paths, "ten").encode()) < 3_000_000


def test_a_multirun_shows_all_jobs_with_their_states(tmp_path):
    for number, rate in enumerate((0.1, 0.2, 0.3)):
        metrics = {EXACT: -20.0 + number}
        run(tmp_path / str(number), metrics, GOOD, config={"optimizer": {"lr": rate}})
    failed = {"status": "failed", "error": "the disk is full"}
    run(tmp_path / "3", {}, facts=failed, config={"optimizer": {"lr": 9.0}})
    jobs = [{"number": i, "directory": str(i), "overrides": [], "differs": {}} for i in range(5)]
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "arguments": [], "common": {}, "jobs": jobs}))
    (tmp_path / "0" / "report.html").write_text("")
    pages.write_multirun(tmp_path)
    text = (tmp_path / "report.html").read_text()
    found = Parsed(text)
    assert not found.wrong
    assert "4 (not begun)" in found.text
    assert "the disk is full" in found.text
    assert "0/report.html" in found.addresses
    charts = {chart["title"]: chart for chart in json.loads(found.scripts[0])}
    against = charts["log-likelihood against lr"]
    assert against["ticks"] == ["0.1", "0.2", "0.3"]
    assert against["data"][1] == [-20.0, -19.0, -18.0]
    assert len(charts["all keys at once"]["series"]) == 4


def test_runs_at_one_value_of_a_key_are_all_drawn(tmp_path):
    paths = []
    for number, rate in enumerate((0.1, 0.1, 0.2)):
        config = {"optimizer": {"lr": rate}, "seed": number}
        paths.append(run(tmp_path / str(number), {EXACT: -20.0 + number}, GOOD, config=config))
    charts = {chart["title"]: chart for chart in json.loads(Parsed(page(paths, "three")).scripts[0])}
    drawn_there = {y for line in charts["log-likelihood against lr"]["data"][1:] for y in line} - {None}
    assert drawn_there == {-20.0, -19.0, -18.0}


def test_later_evaluations_count(tmp_path):
    path = run(tmp_path / "run", {name: value for name, value in HEALTHY.items() if "chains" not in name}, GOOD)
    assert answered(path)["Do the chains mix?"] == "unknown"
    evaluated(path, "2025-12-31", {"mixing_time/steps": 46.0})
    assert "after 46 steps they forgot where they were" in Parsed(page([path], "run")).text
    evaluated(path, "2026-01-01", {"chains/r_hat": 1.7})
    assert answered(path)["Do the chains mix?"] == "bad"


FEW = "ais: only 3.5 of 200 chains carry the estimate, its interval is too narrow"
OLD = {
    "ais/log_likelihood": -50.0, "raise/log_likelihood": -52.1, "ais/gap": 2.1, "ais/weight_ess": 3.5,
    "ais/above_independent": 4.0, "chains/r_hat": 4.29,
}  # fmt: skip
NEW = {
    "ais/log_likelihood": -51.0, "raise/log_likelihood": -51.02, "ais/gap": 0.02, "ais/weight_ess": 150.0,
    "ais/above_independent": 3.0,
}  # fmt: skip
SPOKEN = (
    ("INFO", "verdict: better than independent units by 4.00 nats a row (log-likelihood by AIS)"),
    ("WARNING", FEW), ("WARNING", "evaluation ais failed: too hot"), ("WARNING", APART),
)  # fmt: skip


def test_an_evaluation_done_again_speaks_in_place_of_the_former_one(tmp_path):
    path = run(tmp_path / "run", OLD, SPOKEN)
    assert "3.5 of 200" in Parsed(page([path], "run")).text
    evaluated(path, "2026-01-01", {**NEW, "warnings": {"ais": []}})
    text = Parsed(page([path], "run")).text
    assert not [word for word in ("3.5 of 200", "too hot", "temperatures=20000 ", "4.00 nats") if word in text]
    assert "Better than independent units by 3.00 nats a row" in text
    assert "R-hat 4.29" in text, "chains were not looked at again"
    evaluated(path, "2026-01-02", {"chains/r_hat": 1.009, "warnings": {"chains": ["a new doubt about chains"]}})
    text = Parsed(page([path], "run")).text
    assert "4.29" not in text
    assert "chains: a new doubt about chains" in text
    evaluated(path, "2026-01-03", {"chains/r_hat": 1.009, "chains/autocorrelation_time": 3.0})
    assert "Its chains mix: R-hat is 1.009" in Parsed(page([path], "run")).text


@pytest.mark.parametrize("results", [{"step": 9, "chains/r_hat": 1.0}, {"chains/valid/r_hat": 1.0}])
def test_what_is_of_another_step_or_split_leaves_the_warnings(results, tmp_path):
    path = run(tmp_path / "run", OLD, SPOKEN)
    evaluated(path, "2026-01-01", {**results, "warnings": {"chains": []}})
    assert "they do not mix in 2000 steps" in Parsed(page([path], "run")).text


@pytest.mark.long
def test_an_evaluation_writes_down_what_it_warned_of(tmp_path, monkeypatch):
    from ebm_cli.evaluation.base import Result
    from ebm_cli.evaluation.exact import Exact

    few = ("steps=2", "batch_size=10", "tracker=none", "device=cpu", "evaluation=[exact]", "model.hidden=2")
    assert ebm("train", *few, f"hydra.run.dir={tmp_path}/run").code == 0
    monkeypatch.setattr(Exact, "evaluate", lambda *_: Result({}, warnings=("a doubt",)))
    assert ebm("evaluate", f"run={tmp_path}/run", "evaluation=[exact]").code == 0
    (file,) = tmp_path.glob("run/evaluations/*/results.json")
    assert json.loads(file.read_text())["warnings"] == {"exact": ["a doubt"]}


@pytest.mark.parametrize("gap", [-0.9, 0.02, 0.9, 1.1])
def test_a_bracket_is_good_only_where_its_ends_are_in_order_and_near(gap, tmp_path):
    metrics = {"ais/log_likelihood": -50.0, "raise/log_likelihood": -50.0 - gap, "ais/gap": gap, "ais/weight_ess": 90.0}
    found = answered(run(tmp_path / "run", metrics))
    expected = {-0.9: "unsure", 0.02: "good", 0.9: "good", 1.1: "bad"}[gap]
    assert found["Is the likelihood known, and between which bounds?"] == expected


def test_no_peak_is_lost_where_points_are_left_out():
    y = [0.0] * 10_000
    y[1234], y[7777] = 5.0, -5.0
    x, kept = thinned(list(range(10_000)), y)
    assert len(x) < 400
    assert (kept[x.index(1234)], kept[x.index(7777)]) == (5.0, -5.0)
    assert (x[0], x[-1]) == (0, 9_999)


def test_lines_of_different_steps_share_an_axis():
    found = Chart("t", [Line("a", [0, 10], [1.0, 2.0]), Line("b", [5, 10], [3.0, float("nan")])]).data()
    assert found["data"] == [[0.0, 5.0, 10.0], [1.0, None, 2.0], [None, 3.0, None]]


def test_figures_on_training_and_validation_rows_are_on_one_picture():
    series = {f"exact/{split}/log_likelihood": curves.Series([0, 1], [1.0, 2.0]) for split in ("train", "valid")}
    (found,) = curves.charts({"run": series}, "")
    assert [line.label for line in found.lines] == ["train", "valid"]


def test_a_running_mean_is_of_the_last_values():
    values = [float(v) for v in np.random.default_rng(1).normal(size=50)]
    assert curves._means(values, 7)[3:40:9] == pytest.approx(
        [np.mean(values[max(0, i - 6) : i + 1]) for i in range(3, 40, 9)]
    )


def test_the_autocorrelation_of_chains_is_that_of_their_law():
    """Of x' = a x + noise it is a^k; where chains stay around two places it does not fall to 0."""
    rng, a = np.random.default_rng(0), 0.8
    energy = np.zeros((64, 4000))
    for i in range(1, energy.shape[1]):
        energy[:, i] = a * energy[:, i - 1] + rng.normal(size=64)
    found = json.loads(drawn(energy[None, :, 100:])["chains.json"])
    assert found["autocorrelation"][:8] == pytest.approx([a**k for k in range(8)], abs=0.02)
    energy[::2] += 10.0
    apart = json.loads(drawn(energy[None, :, 100:])["chains.json"])["autocorrelation"]
    assert apart[200] == pytest.approx(25 / (25 + 1 / (1 - a**2)), abs=0.05)


def test_chains_that_are_nowhere_or_never_move_are_not_drawn():
    assert drawn(np.ones((2, 4, 10))) == {}
    assert drawn(np.full((1, 4, 10), np.inf)) == {}


def test_a_run_writes_its_page(tmp_path):
    few = ("steps=30", "batch_size=10", "tracker=none", "device=cpu", "evaluation=[exact]", "model.hidden=2")
    ended = ebm("train", *few, f"hydra.run.dir={tmp_path}/run")
    assert ended.code == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert not Parsed(text).wrong
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert f"{summary['exact/log_likelihood']:.6g}" in text
    assert "filters of all hidden units" in text


@pytest.mark.long
def test_a_page_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ZeroDivisionError("no picture")

    monkeypatch.setattr("ebm_cli.page.made.page", broken)
    few = ("steps=2", "batch_size=10", "tracker=none", "device=cpu", "evaluation=[exact]", "model.hidden=2")
    assert ebm("train", *few, f"hydra.run.dir={tmp_path}/run").code == 0
    said = (tmp_path / "run" / "train.log").read_text()
    assert "WARNING report.html was not written: ZeroDivisionError: no picture" in said


def test_the_command_writes_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = (run(tmp_path / name, said=GOOD, config={"seed": i}) for i, name in enumerate(("one", "two")))
    assert ebm("report", str(one)).code == 0
    assert (one / "report.html").exists()
    assert ebm("report", str(one)).code == 0, "its own page may be replaced"
    assert ebm("report", str(one), str(two), "out=both.html").code == 0
    assert "2 runs" in Parsed((tmp_path / "both.html").read_text()).text
    assert_refused(ebm("report", str(one), "out=page.pdf"), "out = page.pdf: a page is written as HTML")


@pytest.mark.parametrize("word", ["out=there.html", "out="])
def test_nothing_is_overwritten(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = run(tmp_path / "run")
    (tmp_path / "there.html").write_text("mine")
    (path / "report.html").write_text("mine")
    assert ebm("report", str(path), word).code == 2
    assert ebm("report", str(path)).code == 2
    assert {(tmp_path / "there.html").read_text(), (path / "report.html").read_text()} == {"mine"}


def test_a_credential_that_was_typed_is_not_shown(tmp_path):
    words = ["tracker.api_key=abc123", "notify.url=https://abc123", "steps=5"]
    path = run(tmp_path / "run", facts={"overrides": words}, config={"notify": {"url": "https://abc123"}})
    text = page([path], "run")
    assert "abc123" not in text
    assert "ebm train tracker.api_key=REDACTED notify.url=REDACTED steps=5" in text


def test_every_answer_that_is_not_good_says_what_to_do(tmp_path):
    found = findings.answers(one_facts(run(tmp_path / "run", {})), [], [])
    assert findings.headline(found)[0] == "unknown"
    assert any("evaluation=[chains]" in step for step in findings.steps_to_take(one_facts(tmp_path / "run"), found))


def test_a_pruned_run_tells_of_what_it_measured_and_can_go_on(tmp_path):
    config = {"checkpoint": {"monitor": "exact/valid/log_likelihood"}}
    path = run(tmp_path / "run", {}, facts={"status": "pruned"}, curve=RISING, config=config)
    text = Parsed(page([path], "run")).text
    assert "While training exact/valid/log_likelihood came to -19.30" in text
    assert "exact/valid/log_likelihood was -19.30 at best and -19.30 last" in text
    assert "No figure on validation rows was watched" not in text
    assert f"ebm train resume={path}" in text


def test_a_figure_that_rises_and_then_falls_slowly_has_not_converged(tmp_path):
    falling = [-30.0, -25.0, -20.0, *(-20.0 - 0.2 * i for i in range(1, 9))]
    path = run(tmp_path / "run", said=GOOD, curve=falling)
    assert answered(path)["Has it converged?"] == "unsure"
    assert "was -20 at best and is -21.6, 1.6 less" in Parsed(page([path], "run")).text


def test_how_far_a_figure_moved_says_from_where(tmp_path):
    text = Parsed(page([run(tmp_path / "run", said=GOOD, curve=RISING)], "run")).text
    assert "moved by +0.1 over the last 3 of 8 looks, by +10.7 since the first" in text


def test_a_run_that_diverged_did_so_at_the_step_that_it_names(tmp_path):
    path = run(tmp_path / "run", **ILL["diverged"][0], curve=[-30.0])
    text = Parsed(page([path], "run")).text
    assert "grew without bound, at step 3." in text
    assert "It did not come far enough to say" in text
    assert "looked at too rarely" not in text


def test_an_advised_command_is_that_of_the_run_with_words_replaced(tmp_path):
    words = ["dataset=points_2d", "model=mlp", "optimizer.lr=9", "hydra.run.dir=there", "notify.url=https://abc123"]
    facts = {**ILL["diverged"][0]["facts"], "overrides": words}
    path = run(tmp_path / "run", **{**ILL["diverged"][0], "facts": facts})
    text = Parsed(page([path], "run")).text
    wanted = "ebm train dataset=points_2d model=mlp notify.url=REDACTED optimizer.lr=0.02 optimizer.clip=10"
    assert wanted in text[text.index("What to do next") :]
