"""Launchers that hand the jobs of a multirun to another program: Slurm and Ray, started for the tests."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import slurm
from helpers.cli import TINY, assert_refused, ebm, outcome

from ebm_cli.cli import launching

WORDS = [*TINY, "device.threads=1", "device.compile=never", "seed=1,2"]
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=debug", "hydra.launcher.mem_gb=1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("submitit_slurm", "it comes with: pip install 'ebm-cli[slurm]'"),
        ("ray", "it comes with: pip install 'ebm-cli[ray]'"),
    ],
)
def test_a_launcher_whose_package_is_missing_says_what_to_install(launcher, said, monkeypatch):
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    answer = ebm(f"train -m hydra/launcher={launcher} hydra.sweep.dir=sweep", *WORDS)
    assert_refused(answer, f"hydra/launcher={launcher} is not installed; {said}")
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


def swept(directory: str, words: list[str], environment=None) -> subprocess.Popen:
    command = [sys.executable, "-m", "ebm_cli", "train", "-m", *words, f"hydra.sweep.dir={directory}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def equal(one: str, other: str) -> bool:
    return all(outcome(Path(one, job)) == outcome(Path(other, job)) for job in "01")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("submitit", reason="submitit is not installed (ebm-cli[slurm])")
    why = slurm.missing()
    if why:
        pytest.skip(why)
    with slurm.started(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


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


@pytest.mark.long
@pytest.mark.timeout(200)
def test_ray_gives_what_this_process_gives():
    pytest.importorskip("ray", reason="ray is not installed (ebm-cli[ray])")
    assert swept("here", WORDS).wait() == 0
    process = swept("ray", [*WORDS, "hydra/launcher=ray"])
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert equal("here", "ray")
