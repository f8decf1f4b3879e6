"""Hydra plugin: the jobs of a multirun as tasks of Ray."""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import override

from ebm_cli.cli.launching import Handing, Work, environment
from ebm_cli.errors import RunError
from ebm_cli.signals import EXIT_CODES, StopRequest, watching

_QUIET = {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_OBJECTS = 78643200  # bytes, the least that Ray takes: nothing but exit codes comes back
_LOOK = 0.5  # seconds

Amount = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class RaySpec:
    """Keys of hydra.launcher."""

    address: str | None
    num_cpus: Amount
    num_gpus: Amount
    memory_gb: Annotated[float, Field(gt=0)] | None
    resources: dict[str, float]
    cluster_cpus: Annotated[int, Field(ge=1)] | None
    cluster_gpus: Annotated[int, Field(ge=0)] | None


class RayLauncher(Handing):
    """Gives all jobs to Ray, which does as many at a time as it has room for."""

    choice, package, spec = "ray", "ray", RaySpec

    @override
    def hand_over(self, jobs: Sequence[Work]) -> None:
        with watching() as stop:
            stop.noted()
            with environment(_QUIET), self._cluster() as ray:
                lost = self._wait(ray, self._begun(ray, jobs), stop)
        if lost and not stop.signal:
            raise BrokenExecutor(f"Ray lost the processes of {', '.join(lost)}")

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Ray, which puts handlers of its own in the place of ours."""
        import ray

        ours = {number: signal.getsignal(number) for number in EXIT_CODES}
        local = self.keys.address is None and "RAY_ADDRESS" not in os.environ
        room = {"num_cpus": self.keys.cluster_cpus, "num_gpus": self.keys.cluster_gpus, "object_store_memory": _OBJECTS}
        try:
            ray.init(self.keys.address, include_dashboard=False, logging_level=logging.ERROR, **(room if local else {}))
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = self.keys.address or os.environ.get("RAY_ADDRESS", "this machine")
            raise RunError(f"hydra.launcher.address: no Ray on {where}: {str(error).splitlines()[0]}") from error
        try:
            for number, handler in ours.items():
                signal.signal(number, handler)
            yield ray
        finally:
            ray.shutdown()

    def _begun(self, ray: Any, jobs: Sequence[Work]) -> dict[Any, str]:
        """The tasks, and which job each is. None is tried again by Ray: the ledger decides that."""
        needs = {"num_cpus": self.keys.num_cpus, "num_gpus": self.keys.num_gpus, "resources": self.keys.resources}
        memory = {} if self.keys.memory_gb is None else {"memory": int(self.keys.memory_gb * 1e9)}
        task = ray.remote(**needs, **memory, max_retries=0)(_do)
        return {task.remote(job): job.name for job in jobs}

    def _wait(self, ray: Any, tasks: dict[Any, str], stop: StopRequest) -> list[str]:
        """Until all have ended; those whose process was lost. A request to stop interrupts each."""
        from ebm_cli.commands import sweep

        lost, told = [], False
        while tasks:
            for task in ray.wait(list(tasks), timeout=_LOOK)[0]:
                name = tasks.pop(task)
                try:
                    ray.get(task)
                except ray.exceptions.TaskCancelledError:
                    pass
                except ray.exceptions.RayError:
                    lost.append(name)
            if stop.signal and not told:
                told = True
                sweep.halt(self.sweep, stop.said)
                for task in tasks:
                    ray.cancel(task)
        return lost


def _do(work: Work) -> int:
    return work()
