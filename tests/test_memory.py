"""What fits into memory: groups of chains with the numbers they would draw together, and refusals before any work."""

import subprocess
import sys

import pytest
import torch
from cli_helpers import assert_refused, facts, last_step, trained
from cli_helpers import train as train_line
from safetensors.torch import load_file

from ebm_cli import memory
from ebm_cli.commands import parts
from ebm_cli.device import Device
from ebm_cli.engine import Engine
from ebm_cli.errors import RunError, UserError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("n", "rows", "sizes"), [(10, 4, [4, 4, 2]), (10, 10, [10]), (9, 5, [5, 4]), (3, 1, [1] * 3)])
def test_parts_cover_all_rows_and_none_is_larger_than_allowed(n, rows, sizes):
    parts = Engine(compiled=False, rows=rows).parts(n)
    assert [part.stop - part.start for part in parts] == sizes
    assert torch.equal(torch.cat([torch.arange(n)[part] for part in parts]), torch.arange(n))


def test_nothing_is_one_part():
    assert Engine(compiled=False, rows=3).parts(0) == [slice(0, 0)]


@pytest.mark.parametrize("sampler", ["block_gibbs", "gibbs", "metropolis"])
def test_runs_in_groups_are_the_same_run(sampler, monkeypatch):
    """Training, AIS and RAISE: chains to the bit; sums over groups round differently."""
    line = f"sampler={sampler} evaluation=[ais,samples] evaluation.ais.temperatures=20 evaluation.ais.chains=10"
    line += " evaluation.ais.raise_points=6 evaluation.ais.raise_chains=2 batch_size=12 chains.count=12 steps=30"
    whole = trained(line, "whole")
    monkeypatch.setattr(parts, "rows_at_once", lambda units, left, device: 5)
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
    assert_refused(answer, "not enough memory: the run needs", "0 bytes (0 bytes) are available", "chains.count")
    answer = train_line("model.hidden=100000000000")
    assert_refused(answer, "not enough memory", "weights 104 TB", "are available")


def test_a_limit_counts_what_the_process_holds_already(monkeypatch):
    monkeypatch.setattr(memory, "taken", lambda device: 3 * 10**9)
    assert Device(CPU, "", "fp32", memory=3.1).bytes_left() == pytest.approx(10**8)
    assert Device(CPU, "", "fp32", memory=2.0).bytes_left() == 0
    monkeypatch.undo()
    assert 10**8 < memory.taken(CPU) < 10**10


def test_the_sizes_named_are_those_that_are_needed():
    with pytest.raises(UserError, match=r"needs 3000 bytes \(3 kB: weights 1 kB, chains 2 kB\), 2999 bytes"):
        memory.check({"weights": 1000, "chains": 2000}, 2999)
    memory.check({"weights": 1000, "chains": 2000}, 3000)


def test_what_is_available_is_what_a_machine_may_have():
    assert 10**7 < memory.available(CPU) < 2**50


def test_a_control_group_bounds_it(monkeypatch):
    files = {"/proc/meminfo": "MemAvailable:    1000 kB\n", "/sys/fs/cgroup/memory.max": "500000\n",
             "/sys/fs/cgroup/memory.current": "100000\n"}  # fmt: skip
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    assert memory.available(CPU) == 400_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert memory.available(CPU) == 1_024_000


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")]
)
def test_memory_that_runs_out_is_one_sentence(error):
    with pytest.raises(RunError, match=r"^out of memory on cpu .*chains.count.*device.memory"), memory.watched(CPU):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape"), memory.watched(CPU):
        raise RuntimeError("shape mismatch")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone gives memory back in this way")
@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_kept_for_what_comes_next(kept):
    """Arrays of 48 MB one after the other: pages are given once, and without it each time anew."""
    code = f"""
import resource, numpy as np
from ebm_cli import memory
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
