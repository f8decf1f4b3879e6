"""Hydra plugin: the jobs of a multirun as jobs of Slurm, submitted by submitit.

Why not its own plugin for Hydra: that one waits for results in their order, raises the first failure while others run,
takes trainings that failed for jobs that went well, and knows of no run that stops with a checkpoint by itself.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import override

from ebm_cli.cli.launching import Handing, Work
from ebm_cli.errors import RunError, UserError
from ebm_cli.signals import watching

_KNOWN = "slurm.json"  # directory of a job -> its newest number in Slurm
_LONGEST = 15.0  # seconds between questions to Slurm
_OF_ANY_QUEUE = (
    "name", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "stderr_to_stdout",
)  # fmt: skip

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class SlurmSpec:
    """Keys of hydra.launcher."""

    submitit_folder: str
    name: str
    timeout_min: Count
    max_num_timeout: Annotated[int, Field(ge=0)]
    signal_delay_s: Count
    nodes: Literal[1]
    tasks_per_node: Literal[1]
    cpus_per_task: Count | None
    gpus_per_node: Count | None
    gpus_per_task: Count | None
    cpus_per_gpu: Count | None
    mem_gb: Annotated[float, Field(gt=0)] | None
    mem_per_gpu: str | None
    mem_per_cpu: str | None
    partition: str | None
    qos: str | None
    account: str | None
    constraint: str | None
    exclude: str | None
    gres: str | None
    comment: str | None
    array_parallelism: Count
    setup: list[str] | None
    stderr_to_stdout: bool
    additional_parameters: dict[str, Any] | None


class SlurmJob:
    """A job as submitit stores it; its exit code becomes that of the job of Slurm."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self) -> None:
        """Do it; asked to stop because the time is up or others go first, it goes back into the queue."""
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_ON_NODE", "1"))
        with watching() as stop:
            code = self.work()
        if code == 75 and stop.signal in (signal.SIGUSR1, signal.SIGUSR2):
            _requeue()
        raise SystemExit(code)

    def checkpoint(self) -> Any:
        """What submitit stores for the next time: the same, which finds its run there."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _requeue() -> None:
    """By submitit, which counts how often the time was up, and which heard nothing while the job did."""
    from submitit import JobEnvironment
    from submitit.core.utils import UncompletedJobError

    try:
        signal.raise_signal(JobEnvironment()._usr_sig())
    except (UncompletedJobError, subprocess.SubprocessError, OSError) as error:
        sys.stderr.write(f"ebm train: the job does not go back into the queue: {error}\n")


class SlurmLauncher(Handing):
    """Submits all jobs as one array and waits for them; without it they go on."""

    choice, package, spec = "submitit_slurm", "submitit", SlurmSpec

    @override
    def setup(self, **given: Any) -> None:
        super().setup(**given)
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UserError("hydra/launcher=submitit_slurm: there is no sbatch or srun here; start it where Slurm is")

    @override
    def hand_over(self, jobs: Sequence[Work]) -> None:
        with watching() as stop:
            stop.noted()  # no job may be in Slurm and not be known here
            waiting = waiting_in(self.sweep)
            self._say_again(waiting)
            waiting |= self._submitted([job for job in jobs if job.name not in waiting])
            if not waiting:
                return
            try:
                stop.at_once()
                self._wait(waiting)
            except KeyboardInterrupt:
                _say_how_to_go_on(waiting)
                raise

    def _say_again(self, waiting: Mapping[str, str]) -> None:
        """That what an earlier call submitted is waited for and not submitted again."""
        from ebm_cli.terminal import output

        if waiting:
            numbers = ", ".join(f"{name} as {number}" for name, number in sorted(waiting.items()))
            output.print(f"in Slurm already, and not submitted again: job {numbers}", soft_wrap=True)

    def _submitted(self, jobs: Sequence[Work]) -> dict[str, str]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from ebm_cli.record.run import Run

        if not jobs:
            return {}
        try:
            handles = self._executor().map_array(SlurmJob.__call__, [SlurmJob(job) for job in jobs])
        except (FailedJobError, FailedSubmissionError) as error:
            said = str(error).strip().splitlines() or ["no reason given"]
            raise RunError(f"Slurm takes no job: {said[-1]}; change hydra.launcher.KEY=VALUE") from error
        new = {job.name: handle.job_id for job, handle in zip(jobs, handles, strict=True)}
        Run(self.sweep).write_json(_KNOWN, {**Run(self.sweep).read_json(_KNOWN), **new})
        return new

    def _executor(self) -> Any:
        import submitit

        keys = asdict(self.keys)
        folder, timeouts = keys.pop("submitit_folder"), keys.pop("max_num_timeout")
        keys["additional_parameters"] = {"requeue": True, **(keys["additional_parameters"] or {})}
        executor = submitit.AutoExecutor(cluster="slurm", folder=folder, slurm_max_num_timeout=timeouts)
        named = {key if key in _OF_ANY_QUEUE else f"slurm_{key}": value for key, value in keys.items()}
        executor.update_parameters(**{key: value for key, value in named.items() if value is not None})
        return executor

    def _wait(self, waiting: dict[str, str]) -> None:
        """Until none is in the queue; each that is over is said, and taken away."""
        from ebm_cli.commands import sweep
        from ebm_cli.terminal import output

        began = time.monotonic()
        output.print(f"{_count(waiting)} in Slurm: squeue --jobs={_numbers(waiting)}", soft_wrap=True)
        while waiting:
            time.sleep(min(_LONGEST, 1 + (time.monotonic() - began) / 20))
            there = in_queue()
            for name in [name for name, job in waiting.items() if there is not None and job not in there]:
                output.print(f"job {name}: {sweep.state(self.sweep / name)} (Slurm's {waiting.pop(name)})")


def waiting_in(path: Path) -> dict[str, str]:
    """Jobs of a multirun that a call submitted and that are not over: directory -> number in Slurm.

    Raises RunError if Slurm does not say.
    """
    from ebm_cli.record.run import Run

    known = Run(path).read_json(_KNOWN)
    there = in_queue() if known else set()
    if there is None:
        raise RunError("squeue does not say which jobs are in the queue; try again when Slurm answers")
    return {name: number for name, number in known.items() if number in there}


def check_none_waits(path: Path) -> None:
    """Raise UserError if a job of a multirun that another launcher is to do stands in the queue of Slurm."""
    from ebm_cli.commands import sweep

    if not (path / _KNOWN).exists() or shutil.which("squeue") is None:
        return
    queued = [(name, job) for name, job in waiting_in(path).items() if sweep.state(path / name) not in sweep.LEFT_ALONE]
    for name, number in queued[:1]:
        raise UserError(
            f"resume = {path}: job {name} is in the queue of Slurm as {number}; take the multirun up with "
            f"hydra/launcher=submitit_slurm, or take the job out first: scancel {' '.join(job for _, job in queued)}"
        )


def in_queue() -> set[str] | None:
    """Numbers of this user's jobs that are not over; None if Slurm does not answer."""
    words = ["squeue", "--noheader", "--array", "--all", f"--user={os.getuid()}", "--format=%i"]
    answer = subprocess.run(words, capture_output=True, text=True)
    return None if answer.returncode else set(answer.stdout.split())


def _say_how_to_go_on(waiting: Mapping[str, str]) -> None:
    from ebm_cli.terminal import output

    numbers = _numbers(waiting)
    output.print(
        f"{_count(waiting)} left in Slurm: squeue --jobs={numbers} shows which, scancel {numbers.replace(',', ' ')} "
        "stops with checkpoints",
        soft_wrap=True,
    )


def _count(waiting: Mapping[str, str]) -> str:
    return f"{len(waiting)} job{'s' if len(waiting) > 1 else ''}"


def _numbers(waiting: Mapping[str, str]) -> str:
    return ",".join(dict.fromkeys(job.partition("_")[0] for job in waiting.values()))
