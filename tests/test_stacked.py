"""Jobs of a multirun in step: each is the run that it is alone, and what becomes of one is nothing to the others."""

import json
import os
import signal
from concurrent.futures import BrokenExecutor
from contextlib import nullcontext
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import processes
from helpers.cli import TINY, assert_refused, ebm, facts, last_step, outcome, train
from helpers.libraries import uncompiled
from helpers.statistics import assert_close
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from safetensors.torch import load_file
from test_compiled import COMPILER
from test_joblib import until_step
from test_resume import at_step

from ebm_cli.cli import stacked
from ebm_cli.cli.launching import Work
from ebm_cli.cli.stacked import Part, StackedLauncher, StackedSpec
from ebm_cli.device import ranks
from ebm_cli.record import lease
from ebm_cli.signals import StopRequest
from ebm_cli.terminal import Board

STACKED = "hydra/launcher=stacked"
AIS = "while_training=false temperatures=3 chains=10 raise_points=5"
FULL = " ".join(
    ["evaluation=[ais,samples] checkpoint.monitor=null", *(f"evaluation.ais.{word}" for word in AIS.split())]
)


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return None if "compiled" in request.node.name else uncompiled(monkeypatch)


def sweep(line: str, directory: str = "sweep"):
    return ebm("train -m", *TINY, f"hydra.sweep.dir={directory}", STACKED, "hydra.launcher.processes=1", *line.split())


def tensors(run):
    return load_file(last_step(Path(run)) / "state.safetensors")


def logged(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one, other):
    """Chains to the bit, everything else but for roundings."""
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if name in ("chains", "ages"):
            assert torch.equal(tensor, second[name])
        assert_close(tensor, second[name], rtol=1e-5, atol=1e-6)
    for line, its in zip(logged(one), logged(other), strict=True):
        assert line.keys() == its.keys()
        numbers = {name for name, value in line.items() if isinstance(value, float) and "second" not in name}
        assert [line[name] for name in numbers] == pytest.approx([its[name] for name in numbers], rel=1e-4, abs=1e-5)


@pytest.mark.long
def test_each_job_is_the_run_that_it_is_alone(made):
    """Training and what is measured, of rates and seeds; one call for all of them."""
    answer = sweep(f"seed=1,2 optimizer.lr=0.01,0.2 {FULL}")
    assert answer.code == 0, answer.err
    assert set(made.calls) == {4}
    assert len(made.identities) == 3, "a step of training, and those of annealing up and down"
    assert "training steps, or their transitions, and annealing compiled" in Path("sweep/3/train.log").read_text()
    assert "training steps" not in answer.err
    for number, words in enumerate(["seed=1 optimizer.lr=0.01", "seed=1 optimizer.lr=0.2", "seed=2 optimizer.lr=0.01"]):
        assert train(f"{words} {FULL} device.compile=ahead", f"alone{number}").code == 0
        assert_same_run(f"sweep/{number}", f"alone{number}")
    config = yaml.safe_load(Path("sweep/0/config.yaml").read_text())
    assert config == yaml.safe_load(Path("alone0/config.yaml").read_text())
    assert config["device"]["compile"] == "ahead"


@pytest.mark.long
def test_each_job_has_the_configuration_of_its_own(monkeypatch):
    """Hydra keeps one for the process; what a job asks it for, in the middle of the others too, is its own."""
    seen = {}
    at_step(monkeypatch, 3, lambda: seen.setdefault(str(HydraConfig.get().job.num), HydraConfig.get().overrides.task))
    assert sweep("seed=1,2,3 steps=5").code == 0
    assert {number: next(word for word in words if "seed" in word) for number, words in seen.items()} == {
        "0": "seed=1", "1": "seed=2", "2": "seed=3",
    }  # fmt: skip


@pytest.mark.long
def test_one_that_fails_stops_alone(monkeypatch):
    monkeypatch.setattr("ebm_cli.terminal._PLAIN_LINE_SECONDS", -1.0)
    answer = sweep("seed=1,2 optimizer.lr=0.01,1e38")
    assert answer.code == 1
    assert [facts(Path("sweep", name))["status"] for name in "0123"] == ["done", "failed", "done", "failed"]
    assert answer.err.count("job 1 | ") == answer.err.count("job 3 | ") == 1
    assert "job 0" not in answer.err
    assert "2 jobs in step  step 8/12" in answer.err
    heads = [line.partition(":")[0] for line in answer.out.splitlines()[:5]]
    assert heads == ["job 0", "job 1", "job 2", "job 3", "multirun sweep"]
    assert answer.out.count("failed at step 2 ") == 3, "two jobs, and their row of means"
    for number in (1, 3):
        assert f"{number}: {facts(Path('sweep', str(number)))['error']}"[:150] in " ".join(answer.out.split())
    assert train("seed=2 optimizer.lr=0.01 device.compile=ahead", "alone").code == 0
    assert_same_run("sweep/2", "alone")


@pytest.mark.long
def test_one_that_meets_its_target_ends_alone():
    """The other goes on, and each did what it does by itself; one of the first correlations is above 0.01 by chance."""
    line = "chains.count=20 stop=pearson stop.every=2"
    assert sweep(f"{line} stop.target=0.01,0.99").code == 0
    first, second = (facts(Path("sweep", name), "summary.json") for name in "01")
    assert (first["ended"]["why"], second["ended"]["why"], second["steps"]) == ("target", "all steps", 12)
    assert first["steps"] < 12
    assert train(f"{line} stop.target=0.01 device.compile=ahead", "alone").code == 0
    assert_same_run("sweep/0", "alone")


@pytest.mark.long
def test_other_shapes_and_plain_samplers_go_their_own_way(made):
    """Two of each shape in step; a sampler of single sites trains as it does alone."""
    answer = sweep("seed=1,2 model.hidden=4,8")
    assert answer.code == 0, answer.err
    assert set(made.calls) == {2}
    assert len(made.identities) == 2
    made.calls.clear()
    answer = sweep("seed=1,2 sampler=gibbs", "sites")
    assert answer.code == 0
    assert not made.calls
    assert "job 0 | not in step, one job after the other: this sampler is not compiled" in answer.err
    assert answer.err.count("not in step") == 1
    assert train("seed=2 sampler=gibbs", "alone").code == 0
    assert outcome(Path("sites/1")) == outcome(Path("alone"))


@pytest.mark.long
def test_a_stopped_multirun_is_taken_up_to_the_bit_with_others_of_its_kind(monkeypatch):
    """All stop after the step in progress with a checkpoint; taken up they end as if nobody had stopped them."""
    line = "seed=1,2,3 optimizer.lr=0.1 optimizer.schedule=constant save_every=5"
    assert sweep(line, "whole").code == 0
    with monkeypatch.context() as patch:
        at_step(patch, 7, lambda: signal.raise_signal(signal.SIGTERM))
        answer = sweep(line)
    assert answer.code == 75
    assert answer.err.count("stopped by SIGTERM: each job ends") == 1
    stopped = [facts(Path("sweep", name)) for name in "012"]
    assert [found["status"] for found in stopped] == ["stopped"] * 3
    assert {found["step"] for found in stopped} <= {7, 8}
    assert f"ebm train -m resume=sweep {STACKED}" in answer.out
    assert ebm(f"train -m resume=sweep {STACKED}").code == 0
    for name in "012":
        assert outcome(Path("sweep", name)) == outcome(Path("whole", name))
    again = ebm(f"train -m resume=sweep {STACKED} seed=1,2,3,4")
    assert again.code == 0
    assert "3 done" in again.out
    assert facts(Path("sweep/3"))["status"] == "done"


@pytest.mark.long
def test_so_many_at_a_time(made):
    assert sweep("seed=1,2,3,4,5 hydra.launcher.together=2").code == 0
    assert set(made.calls) == {2}
    assert_refused(
        sweep("seed=1,2 hydra.launcher.together=0", "other"), "hydra.launcher.together = 0",
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler here: nothing can be compiled")
def test_compiled_for_several_a_job_is_what_it_is_among_others(monkeypatch):
    """To the bit, whether two or three go in step; and but for roundings what the same operations give it alone."""
    line = "optimizer.lr=0.1 steps=40"
    assert sweep(f"{line} seed=1,2,3").code == 0
    answer = sweep(f"{line} seed=1,2,3,4 hydra.launcher.together=2", "parts")
    assert answer.code == 0, answer.err
    assert [outcome(Path("parts", name)) for name in "012"] == [outcome(Path("sweep", name)) for name in "012"]
    assert len([*Path("cache").rglob("*.so")]) == 2, "of three, and of two, which are two times two"
    assert not [*Path("cache").rglob("*.lock")]
    uncompiled(monkeypatch)
    assert train("optimizer.lr=0.1 steps=40 seed=2 device.compile=ahead", "alone").code == 0
    assert_same_run("parts/1", "alone")


PLAIN = "sampler=gibbs device.threads=1 steps=60 save_every=10 log_every=10"  # nothing of it is compiled


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What comes of each job by itself."""
    folder = tmp_path_factory.mktemp("alone")
    assert ebm("train -m", *TINY, *PLAIN.split(), "seed=1,2,3,4", f"hydra.sweep.dir={folder}").code == 0
    return [outcome(folder / name) for name in "0123"]


@pytest.mark.long
@pytest.mark.parametrize("how", ["INT", "KILL"])
def test_parts_in_processes_of_their_own(how, alone):
    """Stopped with checkpoints, or one process killed: in the end all is as if nothing had happened."""
    words = ["train", "-m", *TINY, *PLAIN.split(), "seed=1,2,3,4", STACKED, "hydra.launcher.processes=2"]
    process = processes.program([*words, "hydra.sweep.dir=sweep"], Path("said.txt"))
    until_step(Path("sweep/2"))
    if how == "KILL":
        os.kill(facts(Path("sweep/2"), lease.NAME)["pid"], signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGINT)
    process.join(120)
    assert process.exitcode == (0 if how == "KILL" else 130)
    if how == "INT":
        assert Path("said.txt").read_text().count("interrupted: each job ends") == 1
        assert facts(Path("sweep/2"))["status"] == "stopped"
        assert {facts(Path("sweep"), "summary.json")["jobs"][at]["status"] for at in (1, 3)} == {"new"}
        assert ebm(*words, "hydra.sweep.dir=sweep", "resume=auto", "hydra.launcher.processes=1").code == 0
    assert "Traceback" not in Path("said.txt").read_text()
    assert [outcome(Path("sweep", name)) for name in "0123"] == alone


@pytest.mark.parametrize(
    ("jobs", "keys", "parts"),
    [
        (16, (None, None), [(8, None, 1), (8, None, 1)]),
        (9, (None, None), [(4, None, 1), (5, None, 1)]),
        (7, (None, None), [(7, None, 1)]),
        (16, (8, None), [(8, 4, 1), (8, 4, 1)]),
        (16, (6, None), [(16, 6, 1)]),
        (3, (None, 1), [(3, None, 2)]),
        (3, (None, 8), [(1, None, 1)] * 3),
    ],
)
def test_how_many_processes_do_how_many_jobs(jobs, keys, parts, monkeypatch):
    monkeypatch.setattr(ranks, "cores", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    launcher = StackedLauncher()
    launcher.keys = StackedSpec(*keys)
    found = launcher._parts(list(range(jobs)))
    assert [(len(part.jobs), part.together, part.threads) for part in found] == parts
    assert [job for part in found for job in part.jobs] == list(range(jobs))
    assert {part.processes for part in found} == {len(parts)}


def test_on_a_gpu_one_process_has_all_jobs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    launcher = StackedLauncher()
    launcher.keys = StackedSpec(None, None)
    assert len(launcher._parts(list(range(16)))) == 1


@pytest.mark.parametrize(("killed", "signal", "raises"), [([1], None, True), ([1], 15, False), ([], None, False)])
def test_a_process_that_is_killed_is_told_to_the_ledger(killed, signal, raises, monkeypatch):
    """Unless a request to stop did it."""
    workers = SimpleNamespace(begin=lambda *given: begun.append(given), busy=False, killed=killed)
    begun, stop = [], StopRequest()
    stop.signal = signal
    monkeypatch.setattr("ebm_cli.commands.workers.Processes", lambda *_: workers)
    parts = [Part([], None, 2, 1)] * 2
    with pytest.raises(BrokenExecutor) if raises else nullcontext():
        stacked._side_by_side(parts, Board(), stop)
    assert [number for number, _ in begun] == [0, 1]


def test_places_are_those_of_the_process_that_planned_them():
    """What is said once of a multirun, such as its time, another process would say anew."""
    OmegaConf.register_new_resolver("another_each_time", lambda: next(numbers))
    numbers = iter(range(9))
    sweep = {"dir": "sweep-${another_each_time:}", "subdir": "${hydra.job.num}"}
    config = OmegaConf.create({"hydra": {"sweep": sweep, "job": {"num": 3}}})
    OmegaConf.set_readonly(config, value=True)
    sent = stacked._sent(Work(None, None, config))
    assert OmegaConf.to_container(sent.config.hydra.sweep, resolve=False) == {"dir": "sweep-0", "subdir": "3"}
    assert sent.state is None


def test_jobs_elsewhere_are_on_the_board(capfd, monkeypatch):
    monkeypatch.setattr("ebm_cli.terminal._PLAIN_LINE_SECONDS", -1.0)
    pipes = [Pipe(duplex=False) for _ in range(2)]
    for number, (_, sender) in enumerate(pipes):
        stacked._Sender(sender).show(str(number), 100, 300 + number)
    pipes[0][1].close()
    for step in (100, 250):
        stacked._Sender(pipes[1][1]).show("1", step, 301)
    stacked._Sender(pipes[1][1]).ended("1")
    pipes[1][1].close()
    stacked._listen([receiver for receiver, _ in pipes], board := Board())
    assert board.steps == {"0": (100, 300), "1": (250, 250)}
    assert "2 jobs in step  step 100/300" in capfd.readouterr().err


def test_a_launcher_is_chosen_with_a_slash_and_its_keys_are_suggested():
    dotted = ebm("train -m", *TINY, "seed=1,2", "hydra.launcher=stacked")
    assert_refused(dotted, "hydra.launcher=stacked: one of these is chosen with a slash, hydra/launcher=stacked")
    misspelt = ebm("train -m", *TINY, "seed=1,2", STACKED, "hydra.launcher.togehter=2")
    assert_refused(misspelt, "unknown key hydra.launcher.togehter; did you mean hydra.launcher.together or")
    brief = ["steps=1", "sampler=gibbs", "evaluation=[samples]"]
    many = ebm("train -m", *TINY, *brief, "seed=1", STACKED, "hydra.launcher.processes=1000000")
    assert_refused(many, "hydra.launcher.processes = 1000000: each needs a core", "or leave it out")
    several = ebm("train -m", *TINY, "seed=1,2", STACKED, "hydra.launcher.together=4,8")
    assert_refused(several, "hydra.launcher.together = 4,8: is one for all jobs of a multirun; give it one value")
