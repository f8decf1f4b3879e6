"""What a person reads: the progress line, the way on, refusals, tables."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.cli import TINY, assert_refused, ebm, facts, train, trained
from helpers.components import component, shipped
from helpers.data import small_data
from helpers.models import small_model
from helpers.training import auxiliary
from rich.console import Console

from ebm_cli import registry, terminal
from ebm_cli.cli.main import dispatch
from ebm_cli.commands import multi
from ebm_cli.commands.configuration import FREE
from ebm_cli.comparison.facts import Facts
from ebm_cli.errors import UserError, advice
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.classify import calibration
from ebm_cli.page.command import advised
from ebm_cli.record import run
from ebm_cli.rng import stream
from ebm_cli.space import Binary
from ebm_cli.training import loop


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# The progress line


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: now[0])
    return now


def test_the_rate_of_a_resumed_run_counts_its_own_steps(clock):
    display = terminal.StepDisplay(total=2000, first=1000)
    clock[0] += 10
    assert display.rate(1200) == 20


def test_what_the_first_steps_wait_for_is_no_pace(clock, caplog):
    """Compiling takes most of the time until the first report; from then on steps are counted from there."""
    with terminal.logging_to(None), caplog.at_level("INFO"), terminal.StepDisplay(total=1000, first=0) as display:
        terminal.log.addHandler(caplog.handler)
        clock[0] += 50
        display.show(100, {})
        for step in (400, 1000):
            clock[0] += (step - 100) / 50
            display.show(step, {})
    terminal.log.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == [
        "step 100/1000  2.0/s  0:07:30 left", "step 400/1000  50/s  0:00:12 left", "step 1000/1000  38/s",
    ]  # fmt: skip


def test_slow_steps_between_two_reports_are_told(clock, caplog):
    """Ten seconds after the last line, with the numbers of before; the first such line knows no pace yet."""
    with terminal.logging_to(None), caplog.at_level("INFO"), terminal.StepDisplay(total=1000, first=0) as display:
        terminal.log.addHandler(caplog.handler)
        for step in range(1, 9):
            clock[0] += 4
            display.goes_on(step)
        display.show(8, {"loss": 0.5})
        for step in range(9, 12):
            clock[0] += 4
            display.goes_on(step)
    terminal.log.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == [
        "step 3/1000", "step 6/1000  4 s/step  1:06:16 left", "step 8/1000  4 s/step  1:06:08 left  loss 0.5",
        "step 11/1000  4 s/step  1:05:56 left  loss 0.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "said"),
    [(0, ""), (0.004, "250 s/step"), (0.4, "2.5 s/step"), (0.96, "1.04 s/step"), (1, "1.0/s"), (2.34, "2.3/s"),
     (35.4, "35/s"), (1234.5, "1234/s")],
)  # fmt: skip
def test_slow_steps_are_told_by_their_seconds(rate, said):
    assert terminal.pace(rate) == said


def test_the_line_says_what_the_last_validation_found_and_how_long_it_will_take(clock, caplog):
    with terminal.logging_to(None), caplog.at_level("INFO"), terminal.StepDisplay(total=100, first=40) as display:
        terminal.log.addHandler(caplog.handler)
        clock[0] += 40
        display.show(60, {"energy_gap": 0.25, "valid log_likelihood": -20.5})
        clock[0] += 1
        display.show(61, {})  # so soon, nothing is said to a file
        clock[0] += 79
        display.show(100, {})
    terminal.log.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == [
        "step 60/100  2 s/step  0:01:20 left  energy_gap 0.25  valid log_likelihood -20.5",
        "step 100/100  2 s/step",
    ]


def test_a_loop_that_ends_later_says_so():
    shown = list[tuple[int, int]]()
    to = terminal.steps_shown_by(lambda step, total, _: shown.append((step, total)))
    with to, terminal.logging_to(None), terminal.StepDisplay(total=70, first=0) as display:
        display.show(60, {})
        display.ends_at(90)
        display.show(70, {})
        assert display.bar.tasks[0].total == 90
    assert shown == [(60, 70), (70, 90)]


def test_a_loss_that_is_the_energy_gap_is_shown_once():
    both = {"loss": 0.5, "energy_gap": 0.5, "gradient_norm": 2.0, "learning_rate": 0.1}
    assert loop._shown(both) == {"energy_gap": 0.5, "gradient_norm": 2.0}
    assert loop._shown(both | {"loss": 0.6}) == {"loss": 0.6, "energy_gap": 0.5, "gradient_norm": 2.0}
    assert loop._shown({"loss": 0.5}) == {"loss": 0.5}


def test_the_monitored_value_is_the_one_that_is_shown():
    values = {"ais/valid/log_z": 3.0, "ais/valid/log_likelihood": -9.0}
    assert loop.newest(values, "ais/valid/log_likelihood") == {"valid log_likelihood": -9.0}
    assert loop.newest(values, None) == loop.newest(values, "exact/valid/x") == {"valid log_z": 3.0}


def test_a_statistic_is_shown_with_what_it_is_of():
    assert loop.newest({"gap/valid/mean": 0.5}, None) == {"valid gap mean": 0.5}
    names = ("gap/valid/standard_error", "ais/valid/log_z/error", "recover/train/a/b", "energy_gap", "chains/mean")
    shown = ["valid gap standard_error", "valid log_z/error", "train a/b", "energy_gap", "chains/mean"]
    assert [terminal.short(name) for name in names] == shown


def test_the_last_line_of_training_has_the_last_value_of_validation():
    words = [word for word in TINY if not word.startswith("evaluation")]
    answer = ebm("train evaluation=[pseudo_likelihood] hydra.run.dir=run", *words)
    (line,) = (line for line in answer.err.splitlines() if line.startswith("step 12/12 "))
    found = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    (value,) = (each["pseudo_likelihood/valid/log_pseudo_likelihood"] for each in found if len(each) > 1
                and "pseudo_likelihood/valid/log_pseudo_likelihood" in each)  # fmt: skip
    assert f"valid log_pseudo_likelihood {value:.4g}" in line
    assert "energy_gap" in line
    assert " loss " not in line


# Going on


@pytest.mark.long
def test_what_a_resumed_run_may_change_is_what_is_said_to_be_free():
    """Every key that trains is refused, every other one is taken."""
    trained()
    for line in ("optimizer.lr=0.5", "optimizer=adam", "batch_size=5", "seed=3", "model.hidden=9", "sampler=gibbs",
                 "chains.steps=3", "objective=cd", "dataset.valid=0.3", "noise=bernoulli"):  # fmt: skip
        assert_refused(ebm("train resume=run steps=14", line), "a resumed run keeps its own", line.partition("=")[0])
    assert facts(Path("run"))["step"] == 12
    assert set(FREE) & {"model", "dataset", "sampler", "chains", "noise", "objective", "optimizer", "seed"} == set()


def test_a_run_with_plugins_that_was_stopped_says_them_with_the_way_on(tmp_path, monkeypatch):
    (tmp_path / "plugged.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    original = loop.train_step

    def stepping(parts, state, how):
        if state.step == 5:
            signal.raise_signal(signal.SIGTERM)
        return original(parts, state, how)

    monkeypatch.setattr(loop, "train_step", stepping)
    answer = train("plugins=[plugged]")
    assert answer.code == 75
    assert "go on with: ebm train resume=run plugins=[plugged]\n" in answer.err


@pytest.mark.long
def test_another_seed_of_an_evaluation_is_another_draw():
    trained()
    found = []
    for seed in (1, 1, 2):
        out = Path(f"out{len(found)}")
        assert ebm(f"evaluate run=run evaluation=[samples] seed={seed} out={out}").code == 0
        found.append(json.loads((out / "results.json").read_text())["samples/nearest_distance"])
    assert found[0] == found[1] != found[2]


# What is refused, and said of it


@pytest.mark.parametrize("value", ["8", True, 8.5, 8.0])
def test_a_number_is_no_word_no_truth_and_no_fraction(value):
    with pytest.raises(UserError, match=r"model.hidden = .*must be a (valid integer|whole number)"):
        registry.build("model", shipped("model")["rbm"] | {"hidden": value})


@pytest.mark.parametrize(
    "line", ["model.hidden='\"8\"'", "model.hidden=true", "model.hidden=8.5", "steps=true", "steps=8.5"]
)
def test_so_it_is_on_the_command_line(line):
    answer = train(line)
    assert answer.code == 2
    assert "must be a valid integer" in answer.err


@pytest.mark.parametrize(
    ("number", "order"),
    [
        (errno.ENOSPC, "free space"), (errno.EDQUOT, "free space"), (errno.EFBIG, "free space"),
        (errno.EACCES, "get the right to write there"), (errno.EPERM, "get the right to write there"),
        (errno.EROFS, "make the file system writable"), (errno.ENOENT, "put back what was moved or deleted"),
        (errno.EIO, "see what is wrong with the disk"), (errno.ENAMETOOLONG, "take shorter names"),
    ],
)  # fmt: skip
def test_each_way_in_which_a_disk_refuses_has_its_way_out(number, order):
    assert advice(OSError(number, "")) == order


def test_an_operation_that_cannot_be_repeated_is_refused_where_asked():
    before = torch.get_deterministic_debug_mode()
    x, index = torch.zeros(3), torch.tensor([1])
    try:
        component("device", "cpu", deterministic=True).open()
        with pytest.raises(RuntimeError, match="deterministic"):
            x.put_(index, torch.ones(1))
        component("device", "cpu", deterministic=False).open()
        x.put_(index, torch.ones(1))
    finally:
        torch.set_deterministic_debug_mode(before)
    assert x.tolist() == [0, 1, 0]


# Tables and records


def job(name: str, overrides: list[str], **about) -> None:
    Path("sweep", name).mkdir(parents=True)
    Path("sweep", name, "metadata.json").write_text(json.dumps({"status": "done", "overrides": overrides, **about}))
    summary = {"exact/log_likelihood": -1.5 - len(name), "seconds": 2.0}
    Path("sweep", name, "summary.json").write_text(json.dumps(summary))


def shown(monkeypatch, module=multi) -> Console:
    """What a module prints, 160 wide."""
    console = Console(record=True, width=160, markup=False, emoji=False, force_terminal=False, file=io.StringIO())
    monkeypatch.setattr(module, "output", console)
    return console


def test_the_table_of_a_multirun_says_of_each_job_what_is_its_own(monkeypatch):
    job("0", ["steps=12", "model.hidden=4"])
    job("1", ["steps=12", "model.hidden=8"])
    console = shown(monkeypatch)
    assert multi.table(Path("sweep")) == 0
    title, _, heads, *rows = (line.split() for line in console.export_text().strip().splitlines())
    assert title == ["multirun", "sweep"]
    assert heads == ["run", "hidden", "log-likelihood", "above", "0", "log_likelihood"]
    assert [row[:3] for row in rows[:2]] == [["0", "4", "-2.500"], ["1", "8", "-2.500"]]


def test_jobs_of_a_multirun_are_in_their_order(monkeypatch):
    for name in ("10", "9", "2"):
        job(name, [f"seed={name}"])
    console = shown(monkeypatch)
    multi.table(Path("sweep"))
    lines = [line.split() for line in console.export_text().split("means over seeds")[0].splitlines()]
    assert [line[0] for line in lines if line and line[0].isdigit()] == ["2", "9", "10"]


def git(*words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_the_program_says_whether_it_was_changed(tmp_path, monkeypatch):
    """In a source tree of its own, with the file where it lies in this one."""
    inside = Path(run.__file__).relative_to(Path(registry.__file__).parents[1])
    file = tmp_path / inside
    file.parent.mkdir(parents=True)
    file.write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(run, "__file__", str(file))
    assert run._commit.__wrapped__() == git("rev-parse", "HEAD")
    file.write_text("changed\n")
    assert run._commit.__wrapped__() == git("rev-parse", "HEAD") + "-dirty"


# What an evaluation of noise against data finds


def test_the_calibration_of_telling_data_from_noise_counts_both(monkeypatch):
    model = small_model("rbm", Binary((2, 2))).float()
    contrast = auxiliary(component("objective", "nce"), model.double()).float()
    model = model.float()
    data = small_data(model.space)
    about = Subject(model, data, "test", None, torch.empty(0, 2, 2), stream(0, "subject"), auxiliary=contrast)
    found = component("evaluation", "posterior_noise_classifier").evaluate(about).metrics
    x = about.some_rows(10_000)
    noise = contrast.noise.beside(x, contrast.ratio, about.key.fold("noise")).to(x.dtype)
    with torch.no_grad():
        p = torch.cat([contrast.logits(model.energy(each), each) for each in (x, noise)]).double().sigmoid()
    is_datum = torch.arange(len(p)) < len(x)
    expected = calibration(torch.maximum(p, 1 - p), (p > 0.5) == is_datum)
    name = "posterior_noise_classifier/"
    assert found[f"{name}calibration_error"] == pytest.approx(expected.error, abs=1e-6)
    assert found[f"{name}accuracy"] == pytest.approx(((p > 0.5) == is_datum).double().mean().item())
    assert found[f"{name}accuracy_by_chance"] == contrast.ratio / (1 + contrast.ratio)


class Unread(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.quick("--cfg job", "--help")
@pytest.mark.parametrize("words", ["--hydra-help", "--cfg job", "--help"])
def test_whoever_stops_reading_is_told_nothing(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Unread())
    assert dispatch(["train", *words.split()]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.long
@pytest.mark.parametrize("words", ["--hydra-help", "--info all"])
def test_so_it_is_with_a_pipe(words):
    """As `| head` does; the pipe is closed before anything is written to it."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ebm_cli", "train", *words.split()]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_the_monitor_is_to_be_chosen_from_figures_and_not_from_their_errors():
    home = trained("eval_every=4 evaluation=[pseudo_likelihood,samples] checkpoint.monitor=mine/valid/score")
    [line] = [
        line for line in (home / "train.log").read_text().splitlines() if "is not measured while training" in line
    ]
    assert "pseudo_likelihood/valid/log_pseudo_likelihood" in line
    assert "standard_error" not in line
    assert "/rows" not in line


@pytest.mark.long
def test_who_asks_for_chains_alone_is_not_told_what_else_is_not_measured():
    trained()
    answer = ebm(
        "evaluate run=run device=cpu evaluation=[chains] evaluation.chains.steps=20 evaluation.chains.chains=4"
    )
    assert answer.code == 0
    assert "nothing measured" not in answer.out + answer.err
    assert "no chains move" not in answer.out + answer.err


def test_an_advice_goes_beyond_what_the_run_had(tmp_path):
    settings = {"optimizer.lr": 0.008, "evaluation.ais.temperatures": 20000, "chains.steps": 1}
    facts = Facts(
        tmp_path, settings, configured=True, typed=frozenset(), status="done", step=1, error="", metrics={}, sources={}
    )
    said = "`ebm train optimizer.lr=0.02 chains.steps=5`, `ebm evaluate run=RUN evaluation.ais.temperatures=20000`"
    wanted = "`ebm train optimizer.lr=0.002 chains.steps=5`, `ebm evaluate run=RUN evaluation.ais.temperatures=80000`"
    assert advised(facts, said) == wanted
