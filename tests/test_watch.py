"""`ebm watch`: what it shows of runs, at any width, and when it ends."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.cli import assert_refused, ebm

from ebm_cli import terminal
from ebm_cli.record import lease
from ebm_cli.record.run import Run
from ebm_cli.terminal import plain_console
from ebm_cli.watching import curve, show
from ebm_cli.watching.look import Watched
from ebm_cli.watching.show import Show


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(name="run", *, logged=5, steps=50, status="done", **facts):
    """A run directory with so many logged steps."""
    path = Path(name)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(f"steps: {steps}\nmodel:\n  name: rbm\n  steps: 7\n")
    Run(path).write_json("metadata.json", {"status": status, "step": 10 * logged, **facts})
    lines = [
        {"step": 10 * n, "loss": 1.0 / n, "energy_gap": 1.0 / n, "ais/valid/log": -n} for n in range(1, logged + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def swept(*jobs):
    """A multirun with jobs in these states, in folders of their numbers; a new one has no folder."""
    for number, status in enumerate(jobs):
        if status != "new":
            run(f"sweep/{number}", status=status, overrides=["lr=1", f"seed={number}"])
    ledger = {"jobs": [{"directory": str(number)} for number in range(len(jobs))]}
    Path("sweep/sweep.json").write_text(json.dumps(ledger))


def shown(*words, width=80, height=40, **options):
    console = plain_console(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    Show(words, console).once() if options.get("once") else console.print(Show(words, console)._frame())
    return console.export_text()


def dots(picture):
    """Rows and columns of the dots of a curve drawn in braille."""
    return {(4 * y + j, 2 * x + i) for y, line in enumerate(picture) for x, letter in enumerate(line)
            for j in range(4) for i in range(2)
            if 0x2800 <= ord(letter) < 0x2900 and (ord(letter) - 0x2800) & curve._DOTS[j][i]}  # fmt: skip


# Curves


def test_a_straight_line_is_drawn_as_one():
    lines = curve.drawn([(0, 0.0), (100, 1.0)], width=26, height=5)
    assert lines[0].startswith("1 ")
    assert lines[4].startswith("0 ")
    assert lines[5].strip().split() == ["0", "100"]
    inner = [line[2:] for line in lines[:5]]
    where = dots(inner)
    assert {(19, 0), (0, 47)} <= where  # the lowest at the left, the highest at the right
    assert {x for _, x in where} == set(range(48))
    assert all(abs(y - (19 - 19 * x / 47)) <= 1 for y, x in where)


@pytest.mark.parametrize("points", [[(5, 2.0)], [(0, 2.0), (1, 2.0)], [(0, 0.0)], [(3, -1e30), (4, 1e30)]])
def test_curves_that_have_no_width_or_height(points):
    lines = curve.drawn(points, width=40, height=4)
    assert len(lines) == 5
    assert max(map(len, lines)) <= 40
    assert dots(lines)


def test_the_first_steps_do_not_flatten_the_others():
    points = [(n, 1e6 if n == 0 else n / 100) for n in range(100)]
    assert curve.drawn(points, width=40, height=4)[0].split()[0] == "0.98"


def test_a_terminal_without_such_letters_gets_stars():
    text = "".join(curve.drawn([(0, 0.0), (9, 1.0)], width=30, height=4, dots=False))
    assert text.isascii()
    assert "*" in text


# What is read


def test_what_is_known_of_a_run():
    look = Watched(run(logged=3), "run").look()
    assert (look.state, look.step, look.steps, look.error) == ("done", 30, 50, None)
    assert look.curves["ais/valid/log"] == [(10, -1.0), (20, -2.0), (30, -3.0)]


def test_only_the_end_of_a_long_file_is_read():
    path = run(logged=2000)
    look = Watched(path, "run", last=5000).look()
    steps = [step for step, _ in look.curves["loss"]]
    assert steps[-1] == 20000
    assert 20 < len(steps) < 150
    assert steps == [*range(steps[0], 20001, 10)]


def test_lines_that_are_cut_off_or_hold_anything_are_left_out():
    path = run(logged=2)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 30, "loss": null, "x": "y", "b": true, "i": 1e999}\n[1]\n{"step": "4", "loss": 1}\n{"step": 4'
        )
    look = Watched(path, "run").look()
    assert set(look.curves) == {"loss", "energy_gap", "ais/valid/log"}
    assert look.step == 20


def test_the_rate_is_that_since_the_process_began_to_train():
    path = run(logged=6, steps=100, status="running", trains_since={"step": 20, "time": time.time() - 8})
    with lease.claimed(path, ""):
        look = Watched(path, "run").look()
        assert look.state == "running"
        assert look.rate == pytest.approx(40 / 8, rel=0.1)
        text = shown("run")
    assert "60/100" in text
    assert "0:00:08 left" in text


def test_a_run_that_died_or_never_was_one():
    assert Watched(run("a", status="running"), "a").look().state == "died"
    assert Watched(Path("b"), "b").look().state == "new"
    Run(Path()).write_json("metadata.json", {"status": "failed", "error": "no such key"})
    look = Watched(Path(), "c").look()
    assert (look.state, look.error, look.steps) == ("failed", "no such key", None)


# What is shown


@pytest.mark.parametrize("width", [80, 160])
def test_one_run(width):
    run()
    text = shown("run", width=width)
    lines = text.splitlines()
    assert lines[0].split() == ["run", "done"]
    assert "50/50" in lines[1]
    assert max(map(len, lines)) <= width
    heads = [line.split() for line in lines if line.startswith("energy_gap ") and "ais" in line]
    assert bool(heads) == (width == 160)  # side by side
    assert "loss" in text
    assert text.count("⠉") + text.count("⣀") > 3


@pytest.mark.parametrize("width", [80, 160])
def test_a_multirun(width):
    swept("done", "failed", "new", "died", "stopped")
    text = shown("sweep", width=width)
    lines = text.splitlines()
    assert lines[0] == "1 of 5 runs done: 1 failed, 1 died, 1 stopped, 1 not begun".ljust(len(lines[0]))
    rows = [line.split() for line in lines if line[:1].isdigit()][1:]
    assert [row[:3] for row in rows if row[1] != "not"] == [
        ["0", "seed=0", "done"], ["1", "seed=1", "failed"], ["3", "seed=3", "died"], ["4", "seed=4", "stopped"],
    ]  # fmt: skip
    assert ["2", "not", "begun"] in rows
    assert "lr=1" not in text
    assert max(map(len, lines)) <= width
    assert ("energy_gap" in lines[1] + lines[2]) == (width == 160)
    assert "log" in lines[1] + lines[2] + lines[3]


def test_where_there_is_no_room_what_went_wrong_is_shown():
    swept(*["done"] * 20, "failed", *["done"] * 20)
    lines = shown("sweep", height=9).splitlines()
    assert len(lines) <= 9
    assert any("seed=20" in line and "failed" in line for line in lines)
    assert lines[-1].strip() == "and 36 more"
    assert len(shown("sweep", height=9, once=True).splitlines()) == 43


def test_names_are_shown_as_they_are_and_not_obeyed():
    run("r[bold]x\x1b[31m", status="failed", error="[red]why\x1b[2J")
    for text in (shown("r[bold]x\x1b[31m"), shown(".")):
        assert "r[bold]x?[31m" in text
        assert "\x1b" not in text
    assert "[red]why?[2J" in text


def test_what_is_no_terminal_is_shown_once():
    run()
    answer = ebm("watch run")
    assert answer.code == 0
    assert answer.out.startswith("run  done")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nowhere", ["nowhere: no run is there"]),
        ("", ["name at least one: ebm watch RUN"]),
        ("run every=0", ["every = 0: must be a number of seconds from 0.1 to 3600"]),
        ("run every=x", ["every = x: must be a number of seconds"]),
        ("run once=2", ["once = 2: must be true or false"]),
        ("run onec=true", ["onec: is no key of ebm watch; did you mean once?"]),
    ],
)
def test_what_is_refused(line, words):
    run()
    assert_refused(ebm(f"watch {line}"), *words)


# When it ends


def until_all_end(*words, then, monkeypatch):
    """Watch, with `then` in place of each pause; how often that was."""
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        assert len(pauses) < 10
        then(len(pauses))

    monkeypatch.setattr(show.time, "sleep", sleep)
    console = plain_console(width=80, height=30, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    Show(words, console).until_all_end(0.5)
    return len(pauses)


def test_it_ends_with_the_run(monkeypatch):
    path = run(status="running")
    held = lease.claimed(path, "")
    held.__enter__()

    def then(number):
        if number == 3:
            Run(path).update_metadata(status="done")
            held.__exit__(None, None, None)

    assert until_all_end("run", then=then, monkeypatch=monkeypatch) == 3


def test_ctrl_c_is_no_failure(monkeypatch):
    path = run(status="running")
    monkeypatch.setattr(terminal, "output", plain_console(file=open("/dev/null", "w"), force_terminal=True))  # noqa: SIM115
    monkeypatch.setattr(show.time, "sleep", lambda _: signal.raise_signal(signal.SIGINT))
    with lease.claimed(path, ""):
        assert ebm("watch run").code == 0
    monkeypatch.setattr(show.time, "sleep", lambda _: signal.raise_signal(signal.SIGTERM))
    with lease.claimed(path, ""):
        assert ebm("watch run").code == 75


def test_jobs_that_begin_meanwhile_are_watched_too(monkeypatch):
    swept("done", "new")
    held = lease.claimed(Path("sweep"), "")
    held.__enter__()

    def then(number):
        if number == 2:
            run("sweep/1")
        if number == 3:
            held.__exit__(None, None, None)

    assert until_all_end("sweep", then=then, monkeypatch=monkeypatch) == 3


def test_nothing_that_takes_long_is_imported():
    code = "import sys, ebm_cli.cli.watch, ebm_cli.watching.show; print(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "hydra", "omegaconf", "numpy", "wandb", "pydantic", "scipy"} & set(done.stdout.split())
