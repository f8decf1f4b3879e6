"""Hydra plugin: the jobs of a multirun as tasks of Ray."""

import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import override

from ebm_cli.cli.launching import Handing, Work, environment
from ebm_cli.errors import RunError, UserError
from ebm_cli.signals import EXIT_CODES, StopRequest, watching

_QUIET = {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_OBJECTS = 78643200  # bytes, the least that Ray takes: nothing but exit codes comes back
_LOOK = 0.5  # seconds
_ANSWER = 10.0  # seconds in which a cluster answers
_KEYS = {"CPU": ("num_cpus", 1.0), "GPU": ("num_gpus", 1.0), "memory": ("memory_gb", 1e9)}  # and its unit

Amount = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class RaySpec:
    """Keys of hydra.launcher."""

    address: str | None
    num_cpus: Amount
    num_gpus: Amount
    memory_gb: Annotated[float, Field(gt=0)] | None
    resources: dict[str, Amount] | None
    cluster_cpus: Annotated[int, Field(ge=1)] | None
    cluster_gpus: Annotated[int, Field(ge=0)] | None


class RayLauncher(Handing):
    """Gives all jobs to Ray, which does as many at a time as it has room for."""

    choice, package, spec = "ray", "ray", RaySpec

    @override
    def setup(self, **given: Any) -> None:
        super().setup(**given)
        self.local = self.keys.address is None and "RAY_ADDRESS" not in os.environ
        for name in set(self.keys.resources or {}) & set(_KEYS):
            raise UserError(
                f"hydra.launcher.resources.{name}: is said by hydra.launcher.{_KEYS[name][0]}; leave it out"
            )
        self.needs = {"CPU": self.keys.num_cpus, "GPU": self.keys.num_gpus, **(self.keys.resources or {})}
        if self.keys.memory_gb is not None:
            self.needs["memory"] = self.keys.memory_gb * 1e9
        gpus = self.keys.num_gpus
        if gpus > 1 and gpus != int(gpus):
            raise UserError(f"hydra.launcher.num_gpus = {gpus}: is a part of one GPU or a whole number of them")
        if not self.local:
            _check_answers(self.keys.address or os.environ["RAY_ADDRESS"])

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
        room = {"num_cpus": self.keys.cluster_cpus, "num_gpus": self.keys.cluster_gpus, "object_store_memory": _OBJECTS}
        try:
            ray.init(
                self.keys.address, include_dashboard=False, logging_level=logging.ERROR, **(room if self.local else {})
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = self.keys.address or os.environ.get("RAY_ADDRESS", "this machine")
            raise RunError(f"hydra.launcher.address: no Ray on {where}: {str(error).splitlines()[0]}") from error
        try:
            for number, handler in ours.items():
                signal.signal(number, handler)
            if self.local:
                check_room(self.needs, ray.cluster_resources())
            yield ray
        finally:
            ray.shutdown()

    def _begun(self, ray: Any, jobs: Sequence[Work]) -> dict[Any, str]:
        """The tasks, and which job each is. None is tried again by Ray: the ledger decides that."""
        others = {name: amount for name, amount in self.needs.items() if name not in ("CPU", "GPU", "memory")}
        needs = {"num_cpus": self.keys.num_cpus, "num_gpus": self.keys.num_gpus, "resources": others}
        memory = {"memory": int(self.needs["memory"])} if "memory" in self.needs else {}
        try:
            task = ray.remote(**needs, **memory, max_retries=0)(_do)
        except ValueError as error:
            raise UserError(f"hydra.launcher: Ray takes no such job: {' '.join(map(str, error.args))}") from error
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


def check_room(needs: Mapping[str, float], there: Mapping[str, float]) -> None:
    """Raise UserError for a job that Ray on this machine alone would wait for without end."""
    for name, amount in needs.items():
        if amount > there.get(name, 0):
            key, unit = _KEYS.get(name, (f"resources.{name}", 1.0))
            raise UserError(
                f"hydra.launcher.{key} = {amount / unit:g}: Ray on this machine has {there.get(name, 0) / unit:.4g}; "
                "let a job need less, or name a cluster that has it, hydra.launcher.address=HOST:PORT"
            )


def _check_answers(address: str) -> None:
    """Raise UserError where nothing listens at HOST:PORT, which Ray would try for many minutes, deaf to Ctrl-C."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return  # auto, which Ray answers at once
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(
            f"hydra.launcher.address: no Ray on {address} ({why}); start one with ray start --head, or leave it out"
        ) from error


def _do(work: Work) -> int:
    return work()
