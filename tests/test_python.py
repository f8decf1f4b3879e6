"""`import ebm_cli`: runs as objects that do what the commands do, and leave the process as it was."""

import ast
import contextlib
import io
import logging
import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import TINY, ebm, outcome, snapshot
from helpers.components import ROOT

import ebm_cli
from ebm_cli import registry
from ebm_cli.cli.composed import composed

SHORT = (*TINY, "dataset.binarize=threshold")


def quiet(call, *arguments, **named):
    """What a call gives; what it says is not shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return call(*arguments, **named)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The directory of a run of the command."""
    path = tmp_path_factory.mktemp("python") / "run"
    assert ebm("train", *SHORT, f"hydra.run.dir={path}").code == 0
    return path


@pytest.fixture(scope="module")
def run(home):
    return quiet(ebm_cli.load, home)


@pytest.fixture(scope="module")
def rows():
    """Grey levels of digits, as the run's own data were before they were binarised."""
    keys = {"valid": 144, "binarize": "none", "box": "unit", "dequantise": False, "noise": 0.0}
    return registry.build("dataset", {"name": "digits", **keys}).read().test.values[:12]


def written(command, run, **keys):
    """The arrays that a command writes."""
    out = run.path.parent / f"{command}-{len(os.listdir(run.path.parent))}"
    answer = ebm(command, f"run={run.path}", f"out={out}", "device=cpu", *(f"{k}={v}" for k, v in keys.items()))
    assert answer.code == 0, answer.err
    (file,) = out.glob("*.npz")
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays}


@pytest.mark.long
def test_scores_and_features_are_those_of_the_commands(run, rows, tmp_path):
    np.save(tmp_path / "x.npy", rows)
    scores = written("score", run, data=tmp_path / "x.npy", format="npz")
    for x in (rows, rows.reshape(12, 64).tolist(), tmp_path / "x.npy", str(tmp_path / "x.npy")):
        assert np.array_equal(run.energy(x), scores["free_energy"])
    found = run.log_likelihood(rows)
    assert np.array_equal(found.value, scores["log_p"])
    assert (found.exact, found.said) == (True, "exact")
    assert found.low is found.value is found.high
    assert repr(found) == f"LogLikelihood({scores['log_p'].mean():.4f} nats, the mean of 12 rows, exact)"
    assert "between -2.0000 and -1.0000" in repr(
        found._replace(low=found.low * 0 - 2, high=found.low * 0 - 1, exact=False)
    )
    assert np.array_equal(run.pseudo_log_likelihood(rows), scores["log_pseudo_likelihood"])
    hidden = written("transform", run, data=tmp_path / "x.npy", format="npz")["hidden"]
    assert np.array_equal(run.features(rows), hidden)
    assert np.array_equal(run.features(rows, "hidden"), hidden)


@pytest.mark.long
def test_draws_are_those_of_the_command(run, rows, tmp_path):
    assert np.array_equal(run.sample(5, steps=7, seed=3), written("sample", run, n=5, steps=7, seed=3)["samples"])
    gaps = rows[:3].copy()
    gaps[:, :4] = np.nan
    np.save(tmp_path / "gaps.npy", gaps)
    due = written("sample", run, given=tmp_path / "gaps.npy", n=6, steps=8)
    found = run.impute(gaps, n=6, steps=8)
    for name in ("filled", "samples", "missing"):
        assert np.array_equal(getattr(found, name), due[name])
    masked = np.ma.array(rows[:3].copy(), mask=np.isnan(gaps))
    assert np.array_equal(run.sample(6, 8, given=masked), due["samples"])
    assert list(found.cells.row[[0, -1]]) == [1, 3]
    assert "96 values of 3 rows" in repr(found)


def test_tensors_in_tensors_out(run, rows):
    x = torch.from_numpy(rows)
    for found in (run.energy(x), run.log_likelihood(x).value, run.pseudo_log_likelihood(x), run.features(x)):
        assert isinstance(found, torch.Tensor)
    assert run.energy(x).dtype == torch.float64
    filled = run.impute(x.where(x < 0.5, torch.nan), n=2, steps=2).filled
    assert isinstance(filled, torch.Tensor)
    model_rows = run.rows(x).requires_grad_()
    slope = torch.autograd.grad(run.model.energy(model_rows).sum(), model_rows)[0]
    assert slope.shape == (12, 8, 8)
    assert run.model.W.shape == (64, 8)


@pytest.mark.long
def test_what_cannot_be_done_is_a_sentence(run, rows, tmp_path):
    for call, words in {
        lambda: ebm_cli.load(tmp_path / "none"): "no run is there",
        lambda: ebm_cli.load(run.path, checkpoint=7): "has steps 12, last and best",
        lambda: run.energy(rows[:, 0]): "its rows have 8 values, those of the run 8x8",
        lambda: run.energy(rows[0, 0]): "it must be numbers (n, *shape)",
        lambda: run.energy(np.array([["a"]])): "it must be numbers (n, *shape)",
        lambda: run.energy(np.full((1, 64), np.nan)): "value 1 is missing; fill it in, for example by run.impute(x)",
        lambda: run.impute(rows): "x: nothing is missing",
        lambda: run.sample(0): "n = 0: must be greater than or equal to 1",
        lambda: run.sample(3, given=["word"]): "is for models of documents",
        lambda: run.features(rows, "visible"): "this model has hidden",
        lambda: ebm_cli.train("model=rbm"): "give a list of them, such as ['model=rbm']",
        lambda: ebm_cli.train(["model=rmb"]): "did you mean rbm",
        lambda: ebm_cli.train(["-m"]): "flags are for the command line",
        lambda: ebm_cli.train(["steps=3", f"hydra.run.dir={run.path}"]): "a run is there already",
        lambda: ebm_cli.evaluate(run, "ais"): "give a list of names",
        lambda: ebm_cli.evaluate(run, ["aiss"]): "did you mean ais",
    }.items():
        with pytest.raises(ebm_cli.UserError) as found:
            quiet(call)
        assert words in str(found.value)
        assert "\n" not in str(found.value)


def about_the_process():
    """What a command sets, and a caller would miss."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    log = logging.getLogger("ebm")
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "log": (log.level, log.propagate, [*log.handlers], logging.raiseExceptions),
        "root": [*logging.getLogger().handlers],
        "environment": dict(os.environ),
        "argv": [*sys.argv],
        "folder": os.getcwd(),
        "hydra": (GlobalHydra.instance().is_initialized(), HydraConfig.instance().cfg),
        "resolvers": OmegaConf.has_resolver("ebm_unique"),
        "grad": torch.is_grad_enabled(),
        "filters": [*warnings.filters],
    }


def test_a_run_equals_that_of_the_command_and_two_calls_leave_the_process_as_it_was(home, tmp_path, monkeypatch):
    """With an application of Hydra going on, which is not disturbed."""
    from hydra import initialize_config_module

    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    logging.getLogger("ebm").setLevel("WARNING")
    with initialize_config_module("ebm_cli.conf", version_base="1.3"):
        before = about_the_process()
        runs = [quiet(ebm_cli.train, [*SHORT, f"hydra.run.dir={name}"]) for name in ("a", "b")]
        assert about_the_process() == before
    torch.set_num_threads(threads)
    for found in runs:
        assert outcome(found.path) == outcome(home)
        assert found.step == 12
    named = composed("train", SHORT).directory
    assert named.parent == Path("outputs")
    assert named.name.split("_")[2] == "rbm-pcd-digits"


@pytest.mark.long
def test_a_request_to_stop_saves_and_ends_the_call(tmp_path, monkeypatch):
    from ebm_cli.training import loop

    steps, path = loop.train_step, tmp_path / "stopped"

    def stopped(parts, state, how):
        if state.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return steps(parts, state, how)

    monkeypatch.setattr(loop, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"ebm_cli.train\(\['resume="):
        quiet(ebm_cli.train, [*SHORT, f"hydra.run.dir={path}"])
    assert quiet(ebm_cli.load, path).step == 5
    monkeypatch.undo()
    assert quiet(ebm_cli.train, [f"resume={path}"]).step == 12


def test_a_run_that_fails_is_an_error_with_its_sentence(tmp_path):
    with pytest.raises(ebm_cli.RunError, match="is not finite"):
        quiet(ebm_cli.train, [*SHORT, "optimizer.lr=1e38", f"hydra.run.dir={tmp_path}/run"])


def test_what_the_run_recorded(run, home):
    table = run.metrics()
    assert list(table.index) == list(range(1, 13))
    assert table.index.name == "step"
    assert table.loss.notna().all()
    pictures = run.pictures()
    assert pictures["samples"].dtype == np.uint8
    assert next(iter(pictures)) == "step-00000012"
    shown = run._repr_html_()
    assert shown.count("<img") == len(pictures) - 1
    assert "rbm on digits, step 12" in shown
    assert run.summary["status"] == "done"
    assert run.config["model"]["hidden"] == 8


@pytest.mark.long
def test_where_log_z_is_an_estimate_log_p_has_ends(tmp_path, rows):
    """24 hidden units are too many for a sum; the evaluation is of the checkpoint that is open, log Z of it alone."""
    words = (
        "model.hidden=24",
        "save_every=6",
        "evaluation=[]",
        "tracker=none",
        "device=cpu",
        "checkpoint.monitor=null",
    )
    home = tmp_path / "run"
    assert ebm("train steps=12 batch_size=10 eval_every=0", *words, f"hydra.run.dir={home}").code == 0
    run, last = (quiet(ebm_cli.load, home, which) for which in (6, "last"))
    few = [f"evaluation.ais.{key}" for key in ("chains=10", "temperatures=10", "bootstrap=100", "raise_points=4")]
    found = quiet(ebm_cli.evaluate, run, ["ais"], [*few, "device=cpu"])
    likely = run.log_likelihood(rows)
    assert np.allclose(likely.value, -run.energy(rows) - found["ais/log_z"])
    assert np.allclose(
        likely.low, -run.energy(rows) - max(found["ais/log_z_high"], found["ais/log_z"] + found["ais/gap"])
    )
    assert (likely.low < likely.value).all()
    assert not likely.exact
    assert f"by AIS of evaluations/{sorted(home.glob('evaluations/*'))[-1].name}" in likely.said
    with pytest.raises(ebm_cli.UserError, match=r"at step 12 has found log Z.*ebm.evaluate\(run, \[\"ais\"\]\)"):
        last.log_likelihood(rows)


def test_nothing_is_written_by_looking(run, rows):
    before = snapshot(run.path)
    run.energy(rows)
    run.sample(2, steps=2)
    run.metrics()
    assert snapshot(run.path) == before


def test_names_are_typed_and_load_when_asked_for():
    stub = ast.parse((ROOT / "ebm_cli" / "__init__.pyi").read_text())
    typed = {
        f"{alias.asname}": node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == ebm_cli._WHERE
    assert set(ebm_cli._WHERE) <= set(dir(ebm_cli))
    assert not hasattr(ebm_cli, "no_such_name")


@pytest.fixture(scope="module")
def on_a_table(tmp_path_factory):
    """A table of three columns in a directory, and a run on it."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("polars")
    home, random = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    colour = random.choice(["red", "green", "blue"], 80)
    table = pandas.DataFrame({"size": random.normal(3, 2, 80), "colour": colour, "sold": colour == "red"})
    table.to_csv(home / "t.csv", index=False)
    words = ("dataset=table", f"dataset.path={home}/t.csv", "model=mixed_rbm", "model.hidden=4", "steps=10")
    few = ("evaluation=[]", "tracker=none", "batch_size=10", "checkpoint.monitor=null", "device=cpu", "eval_every=0")
    answer = ebm("train", *words, *few, f"hydra.run.dir={home}/run")
    assert answer.code == 0, answer.err
    return home, table, quiet(ebm_cli.load, home / "run")


@pytest.mark.long
def test_a_file_for_a_run_on_a_table_goes_by_the_names_of_its_columns(on_a_table):
    """As ebm score reads it: the same energies for columns in another order, and a sentence for one that is missing."""
    home, table, run = on_a_table
    table[["colour", "sold", "size"]].to_csv(home / "other.csv", index=False)
    table[["size", "sold"]].to_csv(home / "less.csv", index=False)
    assert np.array_equal(run.energy(home / "other.csv"), run.energy(home / "t.csv"))
    with pytest.raises(ebm_cli.UserError, match=r"less\.csv: has no column 'colour'"):
        run.energy(home / "less.csv")


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_data_frame_for_a_run_on_a_table_goes_by_the_names_of_its_columns(on_a_table, library):
    home, table, run = on_a_table
    frame = table if library == "pandas" else pytest.importorskip("polars").DataFrame(table.to_dict("list"))
    assert np.array_equal(run.energy(frame[["sold", "size", "colour"]]), run.energy(home / "t.csv"))
    with pytest.raises(ebm_cli.UserError, match="x: has no column 'colour'"):
        run.energy(frame[["size", "sold"]])


def test_data_frames_that_are_no_table_are_refused(on_a_table):
    pandas = pytest.importorskip("pandas")
    _, table, run = on_a_table
    for frame, said in (
        (pandas.concat([table, table[["size"]]], axis=1), "x: two columns are called 'size'; give each a name"),
        (table[:0], "x: holds no row"),
        (table.to_dict("list"), "x: is no data frame; give one with the columns size, colour, sold"),
    ):
        with pytest.raises(ebm_cli.UserError, match=said):
            run.energy(frame)


@pytest.mark.parametrize("nothing", [None, np.nan])
@pytest.mark.parametrize("column", ["size", "colour", "sold"])
def test_a_column_may_be_missing_in_every_row(on_a_table, column, nothing):
    _, table, run = on_a_table
    found = run.impute(table[5:7].assign(**{column: nothing}), n=2, steps=2).filled
    assert found.notna().all().all()
    others = [name for name in table.columns if name != column]
    assert found[others].equals(table[5:7][others])
    assert {*map(str, found[column])} <= {*map(str, table[column])} or column == "size"


def test_samples_of_a_run_on_a_table_are_a_data_frame_with_its_columns(on_a_table):
    _, table, run = on_a_table
    drawn = run.sample(6, steps=3)
    assert list(drawn.columns) == list(table.columns)
    assert set(drawn.colour) <= set(table.colour)
    assert drawn["size"].dtype == float


def test_gaps_of_a_data_frame_are_filled_in_the_types_of_its_columns(on_a_table):
    """What is there stays as it is: of pandas NaN, None and NA are gaps, also in its own types."""
    pandas = pytest.importorskip("pandas")
    _, table, run = on_a_table
    gaps = table[:4].astype({"sold": object})
    gaps.index = [91, 75, 1264, 330]
    gaps.iloc[:3, 1] = None
    gaps.iloc[3, 2] = None
    gaps.iloc[1, 0] = np.nan
    found = run.impute(gaps, n=4, steps=4)
    assert type(found.filled) is type(table)
    assert found.filled.notna().all().all()
    assert found.filled.where(gaps.notna()).equals(gaps.where(gaps.notna()))
    assert found.samples.shape == (4, 4, 3)
    assert list(found.cells.row) == [1, 2, 2, 3, 4]
    assert list(found.cells.column) == ["colour", "size", "colour", "colour", "sold"]
    assert found.cells.r_hat.dtype == found.cells["mean"].dtype == float
    assert list(found.cells["mode"][[0, 2, 3]]) == list(found.filled.colour[:3])
    assert found.filled.sold.map(type).eq(bool).all()
    typed = gaps.assign(sold=gaps.sold.astype("boolean"), colour=table.colour[:1].astype("category").to_list() * 4)
    typed["colour"], typed["note"] = typed.colour.astype("category"), pandas.array([None, 7, 8, 9], "Int64")
    typed.iloc[2, 1] = None
    found = run.impute(typed, n=4, steps=4).filled
    assert found.drop(columns="colour").dtypes.equals(typed.drop(columns="colour").dtypes)
    assert {*typed.colour.cat.categories} <= {*found.colour.cat.categories} <= {*table.colour}
    assert found.note.equals(typed.note)
    assert list(found.index) == list(typed.index)
