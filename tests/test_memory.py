"""What fits into memory: groups of chains with the numbers they would draw together, and refusals before any work."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, last_step, trained
from helpers.cli import train as train_line
from safetensors.torch import load_file

from ebm_cli.commands import session
from ebm_cli.device import control_groups, memory
from ebm_cli.device.base import Device
from ebm_cli.device.engine import Engine
from ebm_cli.errors import RunError, UserError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("n", "rows", "sizes"), [(10, 4, [4, 4, 2]), (10, 10, [10]), (9, 5, [5, 4]), (3, 1, [1] * 3)])
def test_parts_cover_all_rows_and_none_is_larger_than_allowed(n, rows, sizes):
    parts = Engine(compiled=False, rows=rows).slices(n)
    assert [part.stop - part.start for part in parts] == sizes
    assert torch.equal(torch.cat([torch.arange(n)[part] for part in parts]), torch.arange(n))


def test_nothing_is_one_part():
    assert Engine(compiled=False, rows=3).slices(0) == [slice(0, 0)]


@pytest.mark.long
@pytest.mark.quick("block_gibbs")
@pytest.mark.parametrize("sampler", ["block_gibbs", "metropolis"])
def test_runs_in_groups_are_the_same_run(sampler, monkeypatch):
    """Training, AIS and RAISE: chains to the bit; sums over groups round differently."""
    line = f"sampler={sampler} evaluation=[ais,samples] evaluation.ais.temperatures=20 evaluation.ais.chains=10"
    line += " evaluation.ais.raise_points=6 evaluation.ais.raise_chains=2 batch_size=12 chains.count=12 steps=30"
    whole = trained(line, "whole")
    monkeypatch.setattr(session, "rows_at_once", lambda units, left, device: 5)
    groups = trained(line, "groups")
    a, b = (load_file(last_step(run) / "state.safetensors") for run in (whole, groups))
    assert torch.equal(a["chains"], b["chains"])
    assert any(not torch.equal(a[name], b[name]) for name in a), "the groups were never formed"
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
    ours, theirs = facts(whole, "summary.json"), facts(groups, "summary.json")
    assert ours["ais/log_z"] == pytest.approx(theirs["ais/log_z"], abs=1e-3)
    assert ours["raise/log_likelihood"] == pytest.approx(theirs["raise/log_likelihood"], abs=1e-3)


def test_a_run_that_cannot_fit_is_refused_with_both_numbers():
    answer = train_line("device.memory=0.00001")  # the libraries alone take more
    assert_refused(answer, "not enough memory: the run needs", "0 bytes (0 bytes) are available", "device.memory")
    answer = train_line("model.hidden=100000000000")
    assert_refused(answer, "not enough memory", "weights 130 TB", "are available; take a lower model.hidden, or raise")


def test_a_limit_counts_what_the_process_holds_already(monkeypatch):
    monkeypatch.setattr(memory, "taken", lambda device: 3 * 10**9)
    assert Device(CPU, "", "fp32", memory=3.1).bytes_left() == pytest.approx(10**8)
    assert Device(CPU, "", "fp32", memory=2.0).bytes_left() == 0
    monkeypatch.undo()
    assert 10**8 < memory.taken(CPU) < 10**10


def test_the_sizes_named_are_those_that_are_needed():
    ways = {"weights": "a lower model.hidden", "chains": "a lower chains.count"}
    with pytest.raises(UserError, match=r"needs 3000 bytes \(3 kB: weights 1 kB, chains 2 kB\), 2999 bytes"):
        memory.check({"weights": 1000, "chains": 2000}, 2999, ways)
    memory.check({"weights": 1000, "chains": 2000}, 3000, ways)


def test_what_takes_the_memory_is_what_there_is_to_be_less_of():
    """The largest first, and nothing that takes less than a tenth of it all."""
    needed = {"weights": 1000, "couplings": 3000, "chains": 100, "batch": 10_000}
    ways = {"weights": "a", "couplings": "a", "chains": "b", "batch": "c"}
    with pytest.raises(UserError, match=r"take c, or a, or raise device.memory if that is set$"):
        memory.check(needed, 5, ways)


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ("model=ising model.graph=complete", "take data of fewer sites, or a sparse graph, model.graph=lattice, or"),
        ("model=boltzmann", "take data of fewer sites, or raise"),
        ("model=rbm chains.count=10000000000", "take a lower chains.count, or raise"),
        ("model=rbm sampler=parallel_tempering chains.count=1000000000", "take a lower chains.count or sampler.temp"),
        ("model=rbm chains.count=9 batch_size=100000000000", "take a lower batch_size, or raise"),
        ("chains=trajectory chains.count=9 chains.rungs=100000000", "take a lower chains.rungs or chains.count, or"),
    ],
)
def test_every_item_has_its_own_way_out(line, way, tmp_path):
    rows = np.random.Generator(np.random.Philox(1)).integers(0, 2, (30, 100, 100)).astype(bool)
    np.savez(tmp_path / "rows.npz", train=rows, test=rows[:5])
    bound = "device.memory=2" if "=complete" in line or "boltzmann" in line else ""
    answer = ebm(
        f"train dataset=array dataset.path={tmp_path}/rows.npz {line} steps=1 evaluation=[] tracker=none device=cpu "
        f"{bound} hydra.run.dir={tmp_path}/run"
    )
    assert_refused(answer, "not enough memory", way)


def test_what_is_available_is_what_a_machine_may_have():
    assert 10**7 < memory.available(CPU) < 2**50


def test_all_limits_bound_it(monkeypatch):
    monkeypatch.setattr(memory, "_of_machine", lambda: 3000)
    monkeypatch.setattr(control_groups, "left", lambda: 2000)
    assert memory.available(CPU) == 2000
    monkeypatch.setattr(memory, "_of_address_space", lambda: 1000)
    assert memory.available(CPU) == 1000
    monkeypatch.setattr(memory, "taken", lambda device: 10**9)
    with memory.bounded(1.0000005):
        assert memory.room() == 500
    with memory.bounded(0.5):
        assert memory.room() == 0
    assert memory.room() == 1000


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")]
)
def test_memory_that_runs_out_is_one_sentence(error):
    with pytest.raises(RunError, match=r"^out of memory on cpu .*chains.count.*device.memory"), memory.watched(CPU):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape"), memory.watched(CPU):
        raise RuntimeError("shape mismatch")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone gives memory back in this way")
@pytest.mark.parametrize("kept", [True, pytest.param(False, marks=pytest.mark.long)])
def test_freed_memory_is_kept_for_what_comes_next(kept):
    """Arrays of 48 MB one after the other: pages are given once, and without it each time anew."""
    code = f"""
import resource, numpy as np
from ebm_cli.device import memory
if {kept}:
    memory.keep_freed()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(6_000_000)
before = faults()
for _ in range(5):
    np.ones(6_000_000)
print(faults() - before)
"""
    found = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert found < 100 if kept else found > 100


def _tree(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return control_groups.left(folder)


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"
GROUPS = {
    "a container, version 2": ({"proc/self/cgroup": "0::/", f"{V2}/memory.max": 500, f"{V2}/memory.current": 100}, 400),
    "no limit": ({"proc/self/cgroup": "0::/", f"{V2}/memory.max": "max", f"{V2}/memory.current": 100}, None),
    "no control groups": ({"proc/self/cgroup": ""}, None),
    "a task of Slurm, the limit two groups above": (
        {
            "proc/self/cgroup": "0::/slurm/job_7/step_0/task_1",
            f"{V2}/slurm/job_7/memory.max": 900,
            f"{V2}/slurm/job_7/memory.current": 300,
            f"{V2}/slurm/job_7/step_0/memory.max": "max",
            f"{V2}/slurm/job_7/step_0/memory.current": 200,
            f"{V2}/slurm/memory.max": 5000,
            f"{V2}/slurm/memory.current": 1000,
        },
        600,
    ),
    "throttled before the limit": (
        {
            "proc/self/cgroup": "0::/job",
            f"{V2}/job/memory.max": 900,
            f"{V2}/job/memory.high": 700,
            f"{V2}/job/memory.current": 100,
        },
        600,
    ),
    "cached files are given back": (
        {
            "proc/self/cgroup": "0::/job",
            f"{V2}/job/memory.max": 900,
            f"{V2}/job/memory.current": 800,
            f"{V2}/job/memory.stat": "anon 300\ninactive_file 450\nactive_file 50",
        },
        550,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "9:cpu,cpuacct:/x\n5:memory:/slurm/uid_1/job_7\n1:name=systemd:/",
            f"{V1}/memory.limit_in_bytes": 2**63 - 4096,
            f"{V1}/memory.usage_in_bytes": 9000,
            f"{V1}/slurm/uid_1/memory.limit_in_bytes": 800,
            f"{V1}/slurm/uid_1/memory.usage_in_bytes": 500,
            f"{V1}/slurm/uid_1/job_7/memory.limit_in_bytes": 700,
            f"{V1}/slurm/uid_1/job_7/memory.usage_in_bytes": 200,
        },
        300,
    ),
    "a container of version 1, whose own path is not there": (
        {
            "proc/self/cgroup": "5:memory:/docker/abc",
            f"{V1}/memory.limit_in_bytes": 700,
            f"{V1}/memory.usage_in_bytes": 200,
        },
        500,
    ),
    "both versions": (
        {
            "proc/self/cgroup": "5:memory:/a\n0::/b",
            f"{V1}/a/memory.limit_in_bytes": 700,
            f"{V1}/a/memory.usage_in_bytes": 200,
            f"{V2}/unified/b/memory.max": 300,
            f"{V2}/unified/b/memory.current": 100,
        },
        200,
    ),
    "a path from outside a namespace": (
        {
            "proc/self/cgroup": "0::/../../other",
            f"{V2}/memory.max": 500,
            f"{V2}/memory.current": 900,
            "other/memory.max": 1,
        },
        0,
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_tightest_control_group_bounds_it(tmp_path, case):
    files, left = GROUPS[case]
    assert _tree(tmp_path, files) == (control_groups.UNLIMITED if left is None else left)


@pytest.mark.long
def test_the_data_are_part_of_what_a_run_needs(tmp_path):
    """And what they take already is not counted twice."""
    np.savez(tmp_path / "a.npz", train=np.random.default_rng(0).integers(0, 256, (4000, 8, 8), np.uint8))
    with_limit = "dataset=array dataset.path=a.npz device.memory="
    assert_refused(train_line(f"{with_limit}0.00001"), "a.npz: reading it takes 256 kB", "0 bytes")
    device = Device(CPU, "", "fp32", memory=memory.taken(CPU) / 1e9)
    assert device.bytes_left(10**8) == pytest.approx(10**8, abs=5 * 10**7)
    assert device.bytes_left() < 5 * 10**7
    answer = train_line("model.hidden=100000000000 dataset=array dataset.path=a.npz")
    assert_refused(answer, "data 256 kB", "weights 130 TB")


def test_every_rank_has_the_data(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", train=np.zeros((4000, 8, 8), np.uint8))
    monkeypatch.setattr(memory, "available", lambda device: 2 * memory.PROCESS + 500_000)
    monkeypatch.setattr("ebm_cli.commands.train.launch", lambda *_: 0)  # nothing is to be begun
    answer = train_line("dataset=array dataset.path=a.npz device.ranks=2")
    assert_refused(answer, "2 processes 1 GB", "data of each 512 kB", "device.ranks")


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_memory_that_runs_out_anywhere_is_a_sentence(tmp_path, monkeypatch, command):
    """While data are read, parts are built or checkpoints loaded: exit code 1, no traceback."""
    trained("steps=1", "run")

    def exhausted(*arguments, **keywords):
        raise np._core._exceptions._ArrayMemoryError((10**9,), np.dtype(float))

    monkeypatch.setattr("ebm_cli.training.state.new_state", exhausted)
    lines = {"sample": "sample run=run", "evaluate": "evaluate run=run evaluation=[samples]"}
    answer = train_line("", "other") if command == "train" else ebm(lines[command])
    assert answer.code == 1
    assert answer.err.count("out of memory on cpu") == 1
    assert "Traceback" not in answer.err
