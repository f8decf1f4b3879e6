"""Hydra plugin: the jobs of a multirun in step with each other, in this process or in one for each core."""

from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from threading import Event, Thread
from typing import Annotated, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write
from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import override

from ebm_cli.cli.launching import Handing, Work
from ebm_cli.errors import UserError
from ebm_cli.signals import StopRequest, watching
from ebm_cli.terminal import Board, beside_others, console, logging_to, output

_LOOK = 0.1  # seconds between looks at whether this process was asked to stop
_EACH = 4  # jobs that repay a process of their own, which takes some three seconds to begin


@dataclass(frozen=True)
class StackedSpec:
    """Keys of hydra.launcher."""

    together: Annotated[int, Field(ge=1)] | None
    processes: Annotated[int, Field(ge=1)] | None


class Part(NamedTuple):
    """Jobs that go in step in one process, of so many processes, and how many of them at a time."""

    jobs: Sequence[Work]
    together: int | None
    processes: int
    threads: int


class StackedLauncher(Handing):
    """Does all jobs at once: those of one shape with one call for all, others one after the other."""

    choice, package, spec = "stacked", "greenlet", StackedSpec

    @override
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raise UserError also for more processes than there are cores."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        from ebm_cli.device.ranks import cores

        if (self.keys.processes or 1) > cores():
            raise UserError(
                f"hydra.launcher.processes = {self.keys.processes}: each needs a core, and this process may use "
                f"{cores()}; give no more, or leave it out"
            )

    @override
    def hand_over(self, jobs: Sequence[Work]) -> None:
        from ebm_cli.commands.multi import head

        board, parts = Board(), self._parts(jobs)
        for job in jobs:
            output.print(head(job.name, job.config.hydra.overrides.task), soft_wrap=True)
        with watching() as stop, logging_to(None), _stop_told(stop):
            stop.noted()
            if len(parts) == 1:
                _in_step(parts[0], board, stop)
            else:
                _side_by_side(parts, board, stop)

    def _parts(self, jobs: Sequence[Work]) -> list[Part]:
        """Equal ones, a process each, as many as cores.

        One thread in each: how many jobs are left when a multirun is taken up then changes no rounding.
        """
        import torch

        from ebm_cli.device.ranks import cores

        asked, together = self.keys.processes, self.keys.together
        most = cores() if asked is None and not torch.cuda.is_available() else asked or 1
        least = _EACH if asked is None else 1
        count = max(1, min(most, min(len(jobs), together or len(jobs)) // least))
        ends = [len(jobs) * at // count for at in range(count + 1)]
        each = None if together is None else max(1, together // count)
        threads = 1 if asked is None else max(1, cores() // count)
        return [Part(jobs[begin:end], each, count, threads) for begin, end in pairwise(ends)]


@contextmanager
def _stop_told(stop: StopRequest) -> Iterator[None]:
    """Within, a request to stop is answered with a line at once, however long the step in progress takes."""
    ended = Event()

    def look() -> None:
        while not stop.signal and not ended.wait(_LOOK):
            pass
        if stop.signal:
            console.print(f"{stop.said}: each job ends after the step in progress, or now if it waits for the compiler")

    looking = Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


def _side_by_side(parts: Sequence[Part], board: Board, stop: StopRequest) -> None:
    """Each part in a process of its own."""
    from ebm_cli.commands.workers import Processes

    workers, pipes = Processes(len(parts), stop, _part), [Pipe(duplex=False) for _ in parts]
    Thread(target=_listen, args=([receiver for receiver, _ in pipes], board), daemon=True).start()
    for number, (part, (_, sender)) in enumerate(zip(parts, pipes, strict=True)):
        workers.begin(number, (part._replace(jobs=[*map(_sent, part.jobs)]), sender))
        sender.close()
    while workers.busy:
        workers.ended()
    if workers.killed and not stop.signal:
        raise BrokenExecutor("a process of jobs in step was killed")


def _sent(job: Work) -> Work:
    """What another process gets: places as they are here, where the time and what is unique were asked for once."""
    with read_write(job.config), open_dict(job.config):
        job.config.hydra.sweep.dir = str(job.config.hydra.sweep.dir)
        job.config.hydra.sweep.subdir = job.name
    return replace(job, state=None)


def _listen(receivers: list[Connection], board: Board) -> None:
    """Put on the board how far all are, until nobody says so any more."""
    while receivers:
        for receiver in wait(receivers):
            assert isinstance(receiver, Connection)
            try:
                name, *how_far = receiver.recv()
            except EOFError:
                receivers.remove(receiver)
                continue
            board.show(name, *how_far) if how_far else board.ended(name)


class _Sender(Board):
    """The board of another process."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @override
    def show(self, name: str, step: int, total: int) -> None:
        self.connection.send((name, step, total))

    @override
    def ended(self, name: str) -> None:
        self.connection.send((name,))


def _part(given: tuple[Part, Connection]) -> int:
    """What such a process does; what became of the jobs, their directories say."""
    part, connection = given
    setup_globals()  # of its singletons jobs need none but the configuration, which each brings
    with watching() as stop, logging_to(None):
        stop.noted()
        _in_step(part, _Sender(connection), stop)
    return stop.code(1 if stop.signal else 0)


def _in_step(part: Part, board: Board, stop: StopRequest) -> None:
    from ebm_cli.device.stack import Stack

    works = [partial(_done, job, board) for job in part.jobs]
    Stack[int](part.threads, part.together, stop, _hydra, part.processes).run(works)


def _done(job: Work, board: Board) -> int:
    """The exit code of one."""
    with beside_others(job.name, board), watching() as stop:
        try:
            stop.at_once()
            done = run_job(job.task, job.config, "hydra.sweep.dir", "hydra.sweep.subdir", job.context)
            return int(done.return_value)
        except KeyboardInterrupt:
            return stop.exit_code or 130
        finally:
            stop.noted()
            board.ended(job.name)


def _hydra() -> "partial[None]":
    """What puts back whose configuration Hydra's singleton has."""
    return partial(setattr, HydraConfig.instance(), "cfg", HydraConfig.instance().cfg)
