"""Launchers that hand the jobs of a multirun to another program: Slurm and Ray, started for the tests."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import slurm
from helpers.cli import TINY, assert_refused, ebm, outcome

from ebm_cli.cli import launching
from ebm_cli.cli.ray import check_room
from ebm_cli.cli.slurm import SlurmLauncher
from ebm_cli.commands import multi
from ebm_cli.errors import UserError, install
from ebm_cli.record import lease
from ebm_cli.record.run import Run, create

WORDS = [*TINY, "device.threads=1", "device.compile=never", "seed=1,2"]
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=debug", "hydra.launcher.mem_gb=1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("launcher", "extra"), [("submitit_slurm", "slurm"), ("ray", "ray")])
def test_a_launcher_whose_package_is_missing_says_what_to_install(launcher, extra, monkeypatch):
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    answer = ebm(f"train -m hydra/launcher={launcher} hydra.sweep.dir=sweep", *WORDS)
    assert_refused(answer, f"hydra/launcher={launcher} is not installed; it comes with an extra, {install(extra)}")
    assert not Path("sweep").exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra.launcher.timeout_min=0", "hydra.launcher.timeout_min = 0: must be greater than or equal to 1"),
        ("hydra.launcher.mem_gb=-1", "hydra.launcher.mem_gb = -1: must be greater than 0"),
        ("hydra.launcher.array_parallelism=many", "hydra.launcher.array_parallelism"),
    ],
)
def test_keys_of_slurm_are_checked(word, said, monkeypatch):
    monkeypatch.setattr(launching, "find_spec", lambda name: True)
    assert_refused(ebm("train -m hydra.sweep.dir=sweep hydra/launcher=submitit_slurm", word, *WORDS), said)
    assert not Path("sweep").exists()


def test_where_no_slurm_is_that_is_said(monkeypatch):
    monkeypatch.setattr(launching, "find_spec", lambda name: True)
    monkeypatch.setenv("PATH", "/nowhere")
    answer = ebm("train -m hydra.sweep.dir=sweep hydra/launcher=submitit_slurm", *WORDS)
    assert_refused(answer, "there is no sbatch or srun here; start it where Slurm is")


def squeue_says(monkeypatch, folder: Path, *numbers: str) -> None:
    """A stand-in for Slurm, which has these jobs in its queue."""
    for name, said in {"squeue": "\n".join(numbers), "sbatch": "", "srun": ""}.items():
        (folder / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.fixture
def handed_over(tmp_path, monkeypatch):
    """A multirun of two jobs, none of which has begun; Slurm has the second in its queue, as 7_1."""
    bins = tmp_path / "bin"
    bins.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(multi, "train", lambda request: 75)
        assert ebm("train -m hydra.sweep.dir=sweep", *WORDS).code == 1
    Run(Path("sweep")).write_json("slurm.json", {"0": "7_0", "1": "7_1"})
    squeue_says(monkeypatch, bins, "7_1", "9")
    return bins


@pytest.mark.long
def test_jobs_in_the_queue_of_slurm_are_begun_by_no_other_launcher(handed_over, monkeypatch):
    answer = ebm("train -m resume=sweep")
    assert_refused(answer, "job 1 is in the queue of Slurm as 7_1", "hydra/launcher=submitit_slurm", "scancel 7_1")
    squeue_says(monkeypatch, handed_over, "9")
    monkeypatch.setattr(multi, "train", lambda request: 75)
    assert ebm("train -m resume=sweep").code == 1


@pytest.mark.long
def test_jobs_in_the_queue_of_slurm_are_not_submitted_again(handed_over, monkeypatch):
    submitted = []
    monkeypatch.setattr(launching, "find_spec", lambda name: True)
    monkeypatch.setattr(
        SlurmLauncher, "_submitted", lambda self, jobs: submitted.extend(job.name for job in jobs) or {}
    )
    monkeypatch.setattr(SlurmLauncher, "_wait", lambda self, waiting: None)
    answer = ebm("train -m resume=sweep hydra/launcher=submitit_slurm")
    assert submitted == ["0"]
    assert "in Slurm already, and not submitted again: job 1 as 7_1\n" in answer.out


def test_jobs_that_are_all_at_work_in_slurm_are_waited_for(handed_over, monkeypatch):
    squeue_says(monkeypatch, handed_over, "7_0", "7_1")
    monkeypatch.setattr(launching, "find_spec", lambda name: True)
    submitted = []
    monkeypatch.setattr(SlurmLauncher, "_submitted", lambda self, jobs: submitted.extend(jobs) or {})
    jobs = [Run(Path("sweep", name)) for name in "01"]
    for job in jobs:
        create(job.path, {"seed": 1, "tracker": {"name": "none"}}, overrides=[])
        job.update_metadata(status="running")

    def over(self, waiting):
        assert waiting == {"0": "7_0", "1": "7_1"}
        for job in jobs:
            job.update_metadata(status="done")
            job.write_json("summary.json", {"status": "done"})

    monkeypatch.setattr(SlurmLauncher, "_wait", over)
    with lease.claimed(jobs[0].path, ""), lease.claimed(jobs[1].path, ""):
        answer = ebm("train -m resume=sweep hydra/launcher=submitit_slurm")
    assert answer.code == 0, answer
    assert "in Slurm already, and not submitted again: job 0 as 7_0, 1 as 7_1\n" in answer.out
    assert "take up" not in answer.out
    assert not submitted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("num_gpus=1.5", "hydra.launcher.num_gpus = 1.5: is a part of one GPU or a whole number of them"),
        ("resources={GPU:1}", "hydra.launcher.resources.GPU: is said by hydra.launcher.num_gpus"),
        ("resources={a100:-1}", "hydra.launcher.resources.a100 = -1: must be greater than or equal to 0"),
        ("address=127.0.0.1:1", "hydra.launcher.address: no Ray on 127.0.0.1:1 (Connection refused); start one with"),
        ("address=ray://127.0.0.1:1", "no Ray on ray://127.0.0.1:1 (Connection refused)"),
        ("address=127.0.0.1:99999", "no Ray on 127.0.0.1:99999"),
    ],
)
def test_keys_of_ray_are_checked(words, said, monkeypatch):
    monkeypatch.setattr(launching, "find_spec", lambda name: True)
    answer = ebm("train -m hydra.sweep.dir=sweep hydra/launcher=ray", f"hydra.launcher.{words}", *WORDS)
    assert_refused(answer, said)
    assert not Path("sweep").exists()


def test_what_ray_on_this_machine_has_not_is_not_waited_for():
    there = {"CPU": 2.0, "memory": 4e9, "node:127.0.0.1": 1.0}
    check_room({"CPU": 2, "GPU": 0, "memory": 4e9}, there)
    for needs, said in [
        ({"GPU": 0.5}, "hydra.launcher.num_gpus = 0.5: Ray on this machine has 0; let a job need less"),
        ({"CPU": 3}, "hydra.launcher.num_cpus = 3: Ray on this machine has 2;"),
        ({"memory": 9e9}, "hydra.launcher.memory_gb = 9: Ray on this machine has 4;"),
        ({"a100": 1}, "hydra.launcher.resources.a100 = 1: Ray on this machine has 0;"),
    ]:
        with pytest.raises(UserError, match=re.escape(said)):
            check_room(needs, there)


def swept(directory: str, words: list[str], environment=None) -> subprocess.Popen:
    command = [sys.executable, "-m", "ebm_cli", "train", "-m", *words, f"hydra.sweep.dir={directory}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def equal(one: str, other: str) -> bool:
    return all(outcome(Path(one, job)) == outcome(Path(other, job)) for job in "01")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("submitit", reason="submitit is not installed (extra slurm)")
    why = slurm.missing()
    if why:
        pytest.skip(why)
    with slurm.started(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.mark.slurm
@pytest.mark.long
@pytest.mark.timeout(400)
def test_slurm_gives_what_this_process_gives_and_requeues_what_is_preempted(cluster):
    """A job that is sent USR2 goes back into the queue, comes back after two minutes, and goes on bit for bit."""
    words = [*(word for word in WORDS if not word.startswith("steps=")), "steps=4000", "save_every=200"]
    assert swept("here", words).wait() == 0
    process = swept("slurm", [*words, *SLURM], cluster)
    checkpoints = Path("slurm/0/checkpoints")
    while process.poll() is None and not list(checkpoints.glob("step-*")):
        time.sleep(0.1)
    number = json.loads(Path("slurm/slurm.json").read_text())["0"]
    subprocess.run(["scancel", "--signal=USR2", number], check=True, env=cluster)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "resuming slurm/0 at step" in Path("slurm/0/train.log").read_text()
    assert equal("here", "slurm")


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(200)
def test_ray_gives_what_this_process_gives():
    pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    assert swept("here", WORDS).wait() == 0
    process = swept("ray", [*WORDS, "hydra/launcher=ray"])
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert equal("here", "ray")
