"""A run that was stopped, however, and resumed ends bit for bit as one that was not."""

import dataclasses
import multiprocessing
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.cli import TINY, assert_refused, digest, ebm, facts, last_step, outcome, snapshot, train, trained

from ebm_cli.record import checkpoint
from ebm_cli.training import loop

POLICIES = {
    "data": "objective=cd chains.steps=2 optimizer.momentum=0.9 optimizer.warmup=5",
    "persistent": "objective=pcd sampler=gibbs optimizer=adam chains.count=7",
    "replay": "objective=ml_replay sampler=metropolis chains.steps=2 chains.size=30 optimizer.ema=0.9 optimizer.clip=1",
    "replay_data": "objective=cd_replay chains.steps=2 chains.size=30 objective.centered=true optimizer.momentum=0.5",
    "tempered": "objective=pcd sampler=parallel_tempering sampler.temperatures=3",
    "tempered_replay": "objective=ml_replay sampler=parallel_tempering chains.steps=2 chains.size=30",
    "retuned": "sampler=parallel_tempering sampler.temperatures=3 sampler.ladder=adaptive sampler.retune=7",
    "noise": "objective=short_run sampler=metropolis sampler.flips=2 chains.steps=3 optimizer=adamw",
}
QUICK = ("persistent", "replay", "tempered")
RHYTHM = "steps=30 save_every=5 eval_every=7 evaluation=[samples,pseudo_likelihood] checkpoint.keep_last=2"


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def at_step(monkeypatch, step, act):
    """Call `act` before training step number `step` is done."""
    original = loop.train_step

    def stepping(parts, state, how):
        if state.step == step:
            act()
        return original(parts, state, how)

    monkeypatch.setattr(loop, "train_step", stepping)


def die():
    raise Killed


@pytest.mark.quick("persistent")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in POLICIES]
)
def test_killed_and_resumed_is_as_never_killed(name, monkeypatch):
    line = f"{RHYTHM} {POLICIES[name]}"
    trained(line, "whole")
    for step in (3, 17):
        with monkeypatch.context() as patch:
            at_step(patch, step, die)
            with pytest.raises(Killed):
                train(line, "parts") if step == 3 else ebm("train resume=parts")
    assert ebm("train resume=parts").code == 0
    assert outcome(Path("parts")) == outcome(Path("whole"))
    assert facts(Path("parts"))["status"] == "done"


@pytest.mark.long
def test_what_a_resumed_run_was_given_is_kept():
    """Without, the command that it prints after a Ctrl-C would be refused: more steps are done than it says."""
    train("steps=4", "run")
    assert ebm("train resume=run steps=8").code == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["steps"] == 8
    assert ebm("train resume=run").code == 0
    (change,) = facts(Path("run"))["changes"]
    assert (change["step"], change["overrides"][-1], change["before"]["steps"]) == (4, "steps=8", 4)


def test_stopped_in_time_and_resumed_is_as_never_stopped(monkeypatch):
    trained("steps=20 save_every=6", "whole")
    at_step(monkeypatch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train("steps=20 save_every=6", "parts").code == 75
    assert last_step(Path("parts")).name == "step-00000010"
    assert ebm("train resume=parts").code == 0
    assert outcome(Path("parts")) == outcome(Path("whole"))


@pytest.mark.long
def test_looking_more_often_changes_nothing():
    every = "[samples,pseudo_likelihood,chains,ais] evaluation.samples.while_training=true"
    tiny = (
        "evaluation.chains.while_training=true evaluation.chains.warmup=2 evaluation.chains.steps=8 "
        "evaluation.ais.while_training=true evaluation.ais.temperatures=3 evaluation.ais.chains=4 "
        "evaluation.ais.raise_points=2"
    )
    rarely = trained("log_every=12 eval_every=0 save_every=0 optimizer.ema=0.9", "rarely")
    often = trained(f"log_every=1 eval_every=1 save_every=1 optimizer.ema=0.9 evaluation={every} {tiny}", "often")
    assert digest(last_step(rarely) / checkpoint.TENSORS) == digest(last_step(often) / checkpoint.TENSORS)


@pytest.mark.long
def test_more_steps_for_a_finished_run():
    trained("steps=10 optimizer.schedule=constant", "parts")
    assert ebm("train resume=parts steps=20").code == 0
    trained("steps=20 optimizer.schedule=constant", "whole")
    tensors = [last_step(Path(name)) / checkpoint.TENSORS for name in ("parts", "whole")]
    assert digest(tensors[0]) == digest(tensors[1])


@pytest.mark.long
def test_killed_before_the_first_checkpoint_starts_again(monkeypatch):
    whole = trained("steps=8", "whole")
    with monkeypatch.context() as patch:
        at_step(patch, 5, die)
        with pytest.raises(Killed):
            train("steps=8", "parts")
    assert len(Path("parts/metrics.jsonl").read_text().splitlines()) == 5
    answer = ebm("train resume=parts")
    assert answer.code == 0
    assert "no checkpoint was written yet, so the run starts again" in answer.err
    assert outcome(Path("parts")) == outcome(whole)


@pytest.mark.quick("{")
@pytest.mark.parametrize("left", ["", "{", '{"id": "../../x", "seconds": "soon"}', "[]"])
def test_killed_while_the_run_directory_was_being_made(left):
    run = trained()
    for path in ("metrics.jsonl", "summary.json", "metadata.json"):
        (run / path).unlink()
    for folder in (run / "checkpoints").iterdir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    if left:
        (run / "metadata.json").write_text(left)
    assert ebm("train resume=run").code == 0
    assert facts(run)["status"] == "done"
    assert len(facts(run)["id"]) == 8


@pytest.mark.long
def test_killed_while_the_configuration_is_written(monkeypatch):
    """There is no run yet: half a configuration would be neither resumed nor begun again."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: die())
        with pytest.raises(Killed):
            train("", "run")
    assert not Path("run/config.yaml").exists()
    trained("", "run")
    assert not [path for path in Path("run").iterdir() if "writing" in path.name]


@pytest.mark.long
def test_leftovers_of_a_kill_while_saving_do_no_harm(monkeypatch):
    whole = trained("save_every=4", "whole")
    run = trained("save_every=4 steps=8", "run2")
    (run / "checkpoints" / ".writing-00000012").mkdir()
    (run / "checkpoints" / ".writing-00000012" / checkpoint.TENSORS).write_bytes(b"half")
    assert ebm("train resume=run2 steps=12").code == 0
    assert last_step(run).name == last_step(whole).name
    assert not (run / "checkpoints" / ".writing-00000012").exists()


@pytest.mark.long
def test_evaluations_may_be_chosen_anew():
    run = trained()
    assert ebm("train resume=run evaluation=[pseudo_likelihood]").code == 0
    assert set(facts(run, "summary.json")) > {"pseudo_likelihood/log_pseudo_likelihood", "status"}
    assert "samples/copies" not in facts(run, "summary.json")
    assert ebm("train resume=run evaluation=[]").code == 0
    of_all = {"status", "steps", "seconds", "training_seconds", "ended", "health", "judged", "judged_step", "rows"}
    assert {key for key in facts(run, "summary.json") if not key.startswith(("units/", "baseline/"))} == of_all


@pytest.mark.long
def test_the_rungs_of_a_ladder_stay_when_more_steps_are_given():
    trained("steps=16 checkpoint.log_spaced=5 checkpoint.keep_last=1")
    assert ebm("train resume=run steps=40 checkpoint.log_spaced=5").code == 0
    assert {1, 2, 4, 8} <= set(checkpoint.steps(Path("run/checkpoints")))


@pytest.mark.long
def test_a_checkpoint_of_another_model_is_refused():
    run = trained()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("hidden: 8", "hidden: 9"))
    before = snapshot(run)
    for command in ("train resume=run", "sample run=run", "evaluate run=run evaluation=[samples]"):
        answer = ebm(command)
        *warnings, refusal = answer.err.splitlines()
        assert [line.partition("config.yaml ")[2] for line in warnings] == (
            [] if command.startswith("train") else ["is not as this run wrote it; what it says is taken"]
        )
        assert_refused(
            dataclasses.replace(answer, err=refusal),
            "step-00000012 is a checkpoint of another model",
            "model.W is (64, 8)",
            "(64, 9)",
        )
    assert snapshot(run) == before


# The real thing: processes that are killed at random times.


def _child(line: str, folder: str) -> None:
    os.chdir(folder)
    with open("output.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        os._exit(ebm(line).code)


@pytest.fixture(scope="module")
def processes():
    """Processes that have torch in memory already when they begin, and share nothing with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ebm_cli.commands.train", "hydra", "helpers.cli"])
    return context


@pytest.mark.long
@pytest.mark.parametrize("name", ["tempered_replay", "noise"])
def test_killed_many_times_in_a_row(name, tmp_path, processes):
    """The first has all that other policies have to restore."""
    most = 6 if name == "tempered_replay" else 3
    line = f"{RHYTHM} {POLICIES[name]} steps={75 * most} save_every=20 eval_every=70"
    times, kills, directory = random.Random(name), 0, "run0"
    whole = outcome(trained(line, "whole"))
    while kills < most:
        there = Path(directory, "config.yaml").exists()
        command = f"train resume={directory}" if there else f"train {' '.join(TINY)} {line} hydra.run.dir={directory}"
        process = processes.Process(target=_child, args=(command, str(tmp_path)))
        process.start()
        process.join(times.uniform(0.1, 0.7))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), Path("output.txt").read_text()
        kills += process.exitcode != 0
        if process.exitcode == 0:
            assert outcome(Path(directory)) == whole
            directory = f"run{kills}"
    if Path(directory, "config.yaml").exists():
        assert ebm(f"train resume={directory}").code == 0
        assert outcome(Path(directory)) == whole


def _points(rows: int, seed: int) -> None:
    numbers = np.random.Generator(np.random.Philox(seed)).integers(0, 2, (rows, 4), np.uint8)
    np.savez("points.npz", train=numbers, test=numbers[:5])


def _coupled() -> None:
    """A run on the graph of graph.txt."""
    words = [word for word in TINY if not word.startswith("model.")]
    graph = "dataset=array dataset.path=points.npz model=ising model.graph=file model.path=graph.txt"
    answer = ebm(f"train {graph} hydra.run.dir=run", *words)
    assert answer.code == 0, answer.err


@pytest.mark.long
def test_other_data_are_noticed():
    """Refused where training would go on, said where something is only measured."""
    _points(50, 0)
    trained("dataset=array dataset.path=points.npz", "run")
    _points(50, 1)
    assert_refused(ebm("train resume=run steps=20"), "resume = run: its dataset now reads other rows")
    answer = ebm("evaluate run=run evaluation=[pseudo_likelihood]")
    assert answer.code == 0
    assert "its dataset now reads other rows" in answer.err
    _points(50, 0)
    assert "other rows" not in ebm("evaluate run=run evaluation=[pseudo_likelihood]").err
    assert ebm("train resume=run steps=20").code == 0


@pytest.mark.long
def test_files_of_a_run_are_found_from_anywhere(monkeypatch):
    _points(50, 0)
    Path("graph.txt").write_text("0 1\n1 2\n")
    _coupled()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert ebm("sample run=../run n=2 steps=2").code == 0
    assert ebm("train resume=../run steps=15").code == 0


@pytest.mark.long
def test_another_graph_is_refused():
    """As many edges, but others: the couplings would belong to none of them."""
    _points(50, 0)
    Path("graph.txt").write_text("0 1\n1 2\n")
    _coupled()
    Path("graph.txt").write_text("0 1\n1 3\n")
    assert_refused(ebm("sample run=run n=2 steps=2"), "model.edges is another one now; a file that model.path names")
    assert_refused(ebm("train resume=run steps=20"), "model.edges is another one now; a file that model.path names")
