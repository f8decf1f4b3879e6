"""The command line: quick where nothing is computed, exact exit codes, and a user's own parts."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml
from helpers.cli import TINY, assert_refused, ebm, facts, outcome, train, trained

from ebm_cli import registry
from ebm_cli.cli import main, renamed
from ebm_cli.commands.configuration import evaluations, loop_and_schedule
from ebm_cli.evaluation.samples import Samples
from ebm_cli.record import checkpoint
from ebm_cli.training import loop
from ebm_cli.training.state import build_components

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "ebm_cli"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def imported_by(line: str) -> set[str]:
    """Modules in memory after a command line, in a process of its own."""
    told = "print(*sys.modules, file=sys.stderr)"
    code = f"import sys; from ebm_cli.cli import main; main.dispatch({line.split()!r}); {told}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.quick("list", "completion", "--version", "--help")
@pytest.mark.parametrize("line", ["--help", "--version", "list", "list model rbm", "completion"])
def test_what_needs_no_arithmetic_imports_none(line):
    assert not imported_by(line) & {"torch", "hydra", "numpy", "pydantic", "wandb"}


@pytest.mark.quick("train model=rbm --cfg job")
@pytest.mark.parametrize("line", ["train --help", "train model=rbm --cfg job"])
def test_help_of_a_command_imports_no_torch(line):
    assert not imported_by(line) & {"torch", "wandb"}


def test_help_names_every_command():
    text = ebm("--help").out
    assert all(f"\n  {name}" in text for name in main.COMMANDS)
    assert ebm("").code == 0


def completed(line: str, monkeypatch) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    return ebm("-sc query=bash").out.split()


@pytest.mark.parametrize(
    ("line", "words"),
    {
        "ebm tr": {"train", "transform"},
        "ebm ": {
            "train",
            "tune",
            "sample",
            "evaluate",
            "score",
            "transform",
            "import",
            "export",
            "compare",
            "watch",
            "report",
            "list",
        },
        "ebm watch o": {"once="},
        "ebm train mod": {"model=", "model."},
        "ebm train model=rb": {"model=rbm"},
        "ebm train model=rbm model.h": {"model.hidden=", "model.hidden_units="},
        "ebm sample che": {"checkpoint="},
        "ebm list mo": {"model"},
        "ebm compare s": {"sort="},
        "ebm compare format=m": {"format=md"},
        "ebm report o": {"out="},
        "ebm list model r": {
            "rbm",
            "real_boltzmann",
            "replicated_softmax",
            "resnet",
            "resnet_binary",
            "resnet_categorical",
        },
        "ebm nonsense mo": set(),
    }.items(),
)
def test_completion(line, words, monkeypatch):
    assert set(completed(line, monkeypatch)) == words


def test_flags_may_stand_anywhere():
    for line in ("train --cfg job steps=3", "train steps=3 --cfg job model.hidden=4", "train steps=3 --cfg=job"):
        answer = ebm(line)
        assert answer.code == 0
        assert "\nsteps: 3\n" in f"\n{answer.out}"


# Signals


def send(number):
    os.kill(os.getpid(), number)


def during_step(monkeypatch, step, *numbers):
    original = loop.train_step

    def stepping(parts, state, how):
        if state.step == step:
            for number in numbers:
                send(number)
        return original(parts, state, how)

    monkeypatch.setattr(loop, "train_step", stepping)


@pytest.mark.quick("TERM")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)], ids=["TERM", "USR1", "INT"]
)
def test_a_signal_ends_the_step_and_saves(number, code, monkeypatch):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with monkeypatch.context() as patch:
        during_step(patch, 5, number)
        answer = train(directory="it is here")
    assert answer.code == code
    run = Path("it is here")
    assert checkpoint.steps(run / "checkpoints") == [6]
    assert facts(run)["status"] == facts(run, "summary.json")["status"] == "stopped"
    assert facts(run, "summary.json")["steps"] == 6
    assert "stopped at step 6; the newest checkpoint is of step 6" in answer.err
    assert "go on with: ebm train resume='it is here'" in answer.err
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert ebm("train 'resume=it is here'").code == 0
    assert facts(run)["status"] == "done"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_stops_at_once(first, monkeypatch):
    during_step(monkeypatch, 5, first, signal.SIGINT)
    answer = train("save_every=4")
    assert answer.code == {signal.SIGINT: 130, signal.SIGTERM: 75}[first]
    assert checkpoint.steps(Path("run/checkpoints")) == [4]
    assert "stopped at step 5; the newest checkpoint is of step 4" in answer.err


@pytest.mark.quick("15-75")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_during_the_last_evaluation_is_heard(number, code, monkeypatch):
    def slow(self, subject):
        send(number)
        time.sleep(20)

    with monkeypatch.context() as patch:
        patch.setattr(Samples, "evaluate", slow)
        began = time.monotonic()
        answer = train()
    assert time.monotonic() - began < 5
    assert answer.code == code
    assert facts(Path("run"))["status"] == "stopped"
    assert checkpoint.steps(Path("run/checkpoints")) == [12]
    assert "go on with: ebm train resume=run" in answer.err
    assert ebm("train resume=run").code == 0
    assert "samples/copies" in facts(Path("run"), "summary.json")


def test_ctrl_c_before_training_leaves_nothing(monkeypatch, tmp_path):
    from ebm_cli.commands import session as command

    monkeypatch.setattr(command, "load_data", lambda *_, **__: send(signal.SIGINT))
    answer = ebm("train", *TINY)
    assert (answer.code, answer.err) == (130, "ebm train: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_the_program_itself_ends_with_these_codes(number, code, tmp_path):
    words = [*TINY, "steps=1000000", "device.compile=never", "log_every=100", "hydra.run.dir=run"]
    process = subprocess.Popen([*PROGRAM, "train", *words], stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "run" / "metrics.jsonl").exists() and (tmp_path / "run" / "metrics.jsonl").stat().st_size:
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "go on with: ebm train resume=run" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGUSR1", 75)])
def test_a_signal_within_the_exec_of_a_string_ends_with_these_codes_too(number, code, tmp_path):
    """`python -m` would end itself by SIGINT whenever a KeyboardInterrupt arose there, though it was answered."""
    source = f"""
        import signal, sys
        from ebm_cli import __main__
        from ebm_cli.cli import main
        main.dispatch = lambda words: exec("import signal; signal.raise_signal(signal.{number})")
        sys.exit(__main__.main())
    """
    (tmp_path / "signalled.py").write_text(textwrap.dedent(source))
    done = subprocess.run([sys.executable, "-m", "signalled"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stderr == f"ebm: {'interrupted' if number == 'SIGINT' else 'stopped by ' + number}\n"


def test_the_end_of_the_interpreter_searches_for_no_garbage():
    """With torch there that takes a second."""
    source = "import gc, sys; from ebm_cli.__main__ import main; main(); sys.exit(0 if gc.get_freeze_count() else 3)"
    done = subprocess.run([sys.executable, "-c", source, "--version"], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_the_same_command_again_goes_on_where_a_signal_stopped_it(monkeypatch):
    """What a scheduler does after exit code 75: the command line unchanged, with resume=auto."""
    words = [*TINY, "model.hidden=6", "steps=40", "save_every=10"]
    assert ebm("train", *words, "hydra.run.dir=whole").code == 0
    real, calls = loop.train_step, []

    def stepping(*arguments):
        calls.append(1)
        if len(calls) == 17:
            signal.raise_signal(signal.SIGUSR1)
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", stepping)
    command = ["train", *words, "hydra.run.dir=run", "resume=auto"]
    assert ebm(*command).code == 75
    assert facts(Path("run"))["status"] == "stopped"
    assert ebm(*command).code == 0
    assert len(calls) == 40
    assert outcome(Path("run")) == outcome(Path("whole"))
    assert_refused(ebm("train", *words, "resume=auto"), "resume = auto", "hydra.run.dir=DIR")
    assert_refused(ebm(*[word.replace("hidden=6", "hidden=7") for word in command]), "a resumed run keeps its own")


def test_the_program_itself_refuses_with_code_two():
    done = subprocess.run([*PROGRAM, "trian"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ebm trian: no command 'trian'; did you mean train? (try: ebm --help)\n"


def test_the_configuration_is_composed_once(monkeypatch):
    from hydra._internal.hydra import Hydra

    original, times = Hydra.compose_config, []
    monkeypatch.setattr(Hydra, "compose_config", lambda *a, **b: times.append(1) or original(*a, **b))
    trained()
    assert times == [1]


@pytest.mark.long
@pytest.mark.parametrize("where", ["own file", "command line"])
def test_hydra_mode_holds_wherever_it_is_set(where, tmp_path):
    sweep, words = "hydra: {mode: MULTIRUN, sweep: {dir: sweep}, sweeper: {params: {seed: '3,4'}}}", []
    if where == "own file":
        (tmp_path / "conf" / "experiment").mkdir(parents=True)
        (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{sweep}\n")
        words = ["experiment=mine"]
    else:
        words = ["hydra.mode=MULTIRUN", "hydra.sweep.dir=sweep", "seed=3,4"]
    assert ebm("train", *TINY, *words).code == 0
    assert [facts(Path(f"sweep/{job}"))["status"] for job in (0, 1)] == ["done", "done"]


# A user's own parts

PLUGIN = """
from typing import Annotated

from pydantic import Field

from ebm_cli.model.base import ModelSpec
from ebm_cli.model.rbm import RBM
from ebm_cli.registry import register
from ebm_cli.space import Binary


@register("model", "MODULE")
class Twice(ModelSpec):
    hidden: Annotated[int, Field(ge=1)]
    weight_std: float

    spaces = (Binary,)
    builds = RBM

    def build(self, space, mean, key):
        return RBM(space, 2 * self.hidden, self.weight_std, mean, key)
"""


def own_model(folder: Path, module: str, monkeypatch) -> None:
    """A model in a module of the user's, and its configuration in `folder`/model/mine.yaml; forgotten afterwards."""
    registry.load_components()
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    Path(f"{module}.py").write_text(PLUGIN.replace("MODULE", module))
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "mine.yaml").write_text(f"# A model of my own\nname: {module}\nhidden: 3\nweight_std: 0.1\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))


@pytest.mark.long
@pytest.mark.parametrize(
    ("folder", "flag"), [("conf", ""), pytest.param("elsewhere", "--config-dir=elsewhere", marks=pytest.mark.long)]
)
def test_a_users_own_model(folder, flag, monkeypatch):
    module = f"own_model_{folder}"
    own_model(Path(folder), module, monkeypatch)
    line = f"model=mine model.hidden=2 plugins=[{module}] {flag}"
    answer = train(line)
    assert answer.code == 0, answer.err
    assert f"{module} with 324 parameters" in answer.err
    assert ebm("sample run=run n=2 steps=1", f"plugins=[{module}]").code == 0
    assert ebm(f"train resume=run plugins=[{module}] steps=14").code == 0
    if folder == "conf":
        assert "A model of my own" in ebm("list model").out
        assert "model.hidden" in ebm("list model mine").out


@pytest.mark.long
def test_configuration_named_by_the_environment(monkeypatch):
    own_model(Path("named"), "own_model_named", monkeypatch)
    monkeypatch.setenv("EBM_CONFIG_PATH", f"nowhere{os.pathsep}named")
    assert train("model=mine plugins=[own_model_named]").code == 0
    assert "A model of my own" in ebm("list").out
    assert "model.hidden" in ebm("list model mine").out
    assert "did you mean mine?" in train("model=mime", "other").err


def test_a_users_own_model_needs_its_plugin(monkeypatch):
    own_model(Path("conf"), "own_model_unnamed", monkeypatch)
    assert_refused(train("model=mine"), "model.name = 'own_model_unnamed': no such model; there are ")


def test_a_file_of_the_users_own_never_replaces_one_of_the_package():
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/rbm.yaml").write_text("name: boltzmann\nweight_std: 1.0\n")
    trained()
    assert "name: rbm" in Path("run/config.yaml").read_text()


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")))
def test_every_recipe_fits_together(name, tmp_path, monkeypatch):
    """Its parts are built and checked, up to where data would be read."""
    monkeypatch.chdir(tmp_path)
    answer = ebm("train", f"experiment={name}", "--cfg", "job", "--resolve")
    assert answer.code == 0, answer.err
    config = yaml.safe_load(answer.out)
    registry.load_components()
    choice = {group: config[group]["name"] for group in ("dataset", "model", "sampler", "chains", "objective")}
    build_components(config, choice)
    loop_and_schedule(config)
    assert evaluations(config)


def test_former_names_of_recipes_go_on_working_and_say_the_new_one():
    """Each leads to a recipe that is there; in a multirun too, and beside other words."""
    for former, name in renamed._EXPERIMENTS.items():
        assert (ROOT / "conf" / "experiment" / f"{name}.yaml").exists(), former
        assert not (ROOT / "conf" / "experiment" / f"{former}.yaml").exists()
    found, notes = renamed.by_new_names(
        ["-m", "experiment=seed3_own_rate,rsm_stdlib", "steps=1", "x.experiment=seed0_nce"]
    )
    assert found == ["-m", "experiment=rsm_own_rate,rsm_stdlib", "steps=1", "x.experiment=seed0_nce"]
    assert notes == ["experiment=seed3_own_rate is called rsm_own_rate"]
    answer = ebm("train", "experiment=seed4_true_cd_digits", "--cfg", "job")
    assert answer.err == "ebm train: experiment=seed4_true_cd_digits is called chains_true_cd_digits\n"
    assert answer.out == ebm("train", "experiment=chains_true_cd_digits", "--cfg", "job").out
