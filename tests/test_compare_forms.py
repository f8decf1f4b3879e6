"""`ebm compare`: the table at every width, csv, JSON, Markdown and LaTeX, whatever runs are called."""

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest
from helpers.cli import assert_refused, ebm
from helpers.runs import EXACT, evaluated, exact, lines_of, table, written

from ebm_cli import registry
from ebm_cli.comparison import shown
from ebm_cli.comparison.declared import declared
from ebm_cli.record import runs
from ebm_cli.terminal import plain_console


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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


def test_the_columns_of_a_csv_have_names_of_their_own():
    """Also where the error of a mean over seeds is called as a metric is."""
    for seed in (1, 2):
        written(Path(f"s{seed}"), {"seed": seed}, {EXACT: -seed, "ais/above": 1.0 * seed, "ais/above_error": 0.1})
    heads = next(csv.reader(io.StringIO(ebm("compare s1 s2 format=csv").out)))
    assert len(heads) == len(set(heads))
    assert {"ais/above", "ais/above_error", "ais/above_error_of_mean"} <= set(heads)


def test_the_ending_of_a_file_says_the_form_and_nothing_is_overwritten():
    exact(Path("a"), [-1.0])
    assert ebm("compare a out=made/t.csv").code == 0
    assert Path("made/t.csv").read_text() == ebm("compare a format=csv").out
    before = Path("made/t.csv").read_bytes()
    assert_refused(ebm("compare a out=made/t.csv"), "is there already")
    assert_refused(ebm("compare a out=t.xlsx"), "out = t.xlsx: .xlsx cannot be written", ".csv, .json, .md")
    assert ebm("compare a out=t.dat format=json").code == 0
    assert Path("made/t.csv").read_bytes() == before


def _changed(name, **values):
    path = Path("runs/b", name)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _instead(name, text=None):
    path = Path("runs/b", name)
    path.unlink(missing_ok=True)
    os.mkfifo(path) if text is None else path.write_text(text)


@pytest.mark.parametrize(
    "damage",
    [
        lambda: _changed("summary.json", **{EXACT: 10**400}),
        lambda: _changed("summary.json", judged_step="x", steps=[1]),
        lambda: _changed("summary.json", rows={"data": [1], "split": {}, "fingerprint": 7}, failed={"ais": []}),
        lambda: _changed("summary.json", **{"a/b\n\x1b[31m": 1.0, "/": 2, "perplexity/model": -1, EXACT: None}),
        lambda: _changed("metadata.json", overrides=[1, None, "=", "++a.b=[", "~x"], status={}, error=[1], step="x"),
        lambda: _instead("evaluations", "a file"),
        lambda: evaluated(Path("runs/b"), "t", {"step": None, "rows": 3, "data": "x", EXACT: True}),
        lambda: _instead("config.yaml", "1: 2\nx: {name: {y: 1}}\nseed: [.nan]\ndataset: null\n"),
        lambda: _instead("config.yaml", "a: !!python/object:os.system x"),
        lambda: _instead("summary.json"),
        lambda: _instead("rows.npz", "PK\x03\x04"),
        lambda: _instead("metadata.json", "{"),
        lambda: _instead("checkpoints", "a file") or _changed("summary.json", rows=None),
    ],
)
def test_whatever_lies_in_a_run_directory_the_others_are_shown(damage):
    """It may come from anybody, or be half written."""
    exact(Path("runs/a"), [-1.0, -2.0])
    exact(Path("runs/b"), [-1.5, -2.5], {"steps": 11})
    damage()
    for form in ("table", "csv", "json", "md", "latex"):
        answer = ebm(f"compare runs format={form} sort=-log_likelihood by=run")
        assert answer.code == 0, answer.err
        assert "-1.5" in answer.out
        assert "\x1b" not in answer.out or form in ("csv", "json")


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
        assert declared(name).compared == evaluation.compared, name
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
    shown.show_jobs([*paths, Path("sweep/3")], "multirun sweep", console)
    assert re.search(r"^3 +not begun", found.getvalue(), re.MULTILINE)


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


@pytest.mark.long
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
