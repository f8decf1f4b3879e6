"""Launchers that hand the jobs of a multirun to another program."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from typing_extensions import override

from ebm_cli.cli.meant import not_installed
from ebm_cli.errors import UserError


@dataclass
class Work:
    """A job with all that it needs, to be called in the process that does it."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig
    folder: str = field(default_factory=os.getcwd)
    state: Any = field(default_factory=Singleton.get_state)

    @property
    def name(self) -> str:
        """Where it lies in the multirun."""
        return str(OmegaConf.select(self.config, "hydra.sweep.subdir"))

    def __call__(self) -> int:
        """Its exit code."""
        setup_globals()
        Singleton.set_state(self.state)
        os.chdir(self.folder)
        done = run_job(self.task, self.config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
        return int(done.return_value)


class Handing(Launcher):
    """What is common to them. `launch` answers requests to stop itself."""

    choice: ClassVar[str]  # of hydra/launcher
    package: ClassVar[str]  # which it needs
    spec: ClassVar[type]  # its keys

    def __init__(self, **given: Any) -> None:
        self.given = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in given.items()}

    @override
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raise UserError for a key that is wrong, and if the package is missing."""
        if find_spec(self.package) is None:
            raise UserError(not_installed("hydra/launcher", self.choice) or self.choice)
        from ebm_cli.commands.configuration import checked

        self.keys: Any = checked(self.spec, self.given, dict.fromkeys(self.given, "hydra.launcher."))
        self.context, self.task, self.config = hydra_context, task_function, config
        self.sweep = Path(str(config.hydra.sweep.dir))

    @override
    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        self.hand_over([self._work(words, initial_job_idx + at) for at, words in enumerate(job_overrides)])
        return []  # what became of them, their directories say

    def hand_over(self, jobs: Sequence[Work]) -> None:
        """Let them be done, and return when they are."""
        raise NotImplementedError

    def _work(self, overrides: Sequence[str], number: int) -> Work:
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        return Work(self.context, self.task, config)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Within, what is not set otherwise is set so."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
