"""Hydra plugin: the jobs of `ebm train -m`, every combination of what is swept, by a ledger (`commands/sweep.py`)."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from typing_extensions import override

from ebm_cli.cli.arguments import is_file
from ebm_cli.cli.composing import QuickLoader, chosen_parts, name_trackers, plain_data, seen_from_here
from ebm_cli.cli.elsewhere import Elsewhere
from ebm_cli.cli.launching import Handing
from ebm_cli.cli.ray import RayLauncher
from ebm_cli.cli.slurm import SlurmLauncher, check_none_waits
from ebm_cli.cli.spaces import of_a_search
from ebm_cli.cli.stacked import StackedLauncher
from ebm_cli.cli.words import plain, quoted
from ebm_cli.errors import UserError
from ebm_cli.terminal import beginning, told

ALONE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
STACKED = "hydra_plugins.ebm.StackedLauncher"
_BY_NUMBER = "${hydra.job.num}"
_SAID_AGAIN = ("hydra/launcher", "hydra.launcher", "hydra.sweep.subdir")
PLUGINS = ("plugins=", "+plugins=", "++plugins=")


class LedgerSweeper(Sweeper):
    """Plans the jobs, launches those that are still to be done, and shows what became of all."""

    def __init__(self, params: dict[str, str] | None, resume: bool, retries: int, fail_fast: bool) -> None:
        self.params, self.resume = dict(params or {}), resume
        self.retries, self.fail_fast = retries, fail_fast

    @override
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config: DictConfig = config
        self.task: Any = task_function
        self.loader = cast(Any, QuickLoader(hydra_context.config_loader))
        context = HydraContext(config_loader=self.loader, callbacks=hydra_context.callbacks)
        self.alone = config.hydra.launcher._target_ == ALONE  # in this process, a job at a time
        here = self.alone or config.hydra.launcher._target_ == STACKED
        task = task_function if here else Elsewhere(task_function)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(context, task, config)

    @override
    def sweep(self, arguments: list[str]) -> None:
        """Do all jobs; the exit code of the whole is left in the outcome of the task."""
        from ebm_cli.commands import multi

        given = [*(f"{key}={values}" for key, values in self.params.items()), *arguments]
        self.plugins = [word for word in given if word.startswith(PLUGINS)]
        words = [self._anchored(word) for word in given if word not in self.plugins]
        path = seen_from_here(Path(str(self.config.hydra.sweep.dir)).absolute())
        launch = partial(self._launch, path)
        if not isinstance(self.launcher, SlurmLauncher):
            check_none_waits(path)
        with beginning():
            wanted = self._wanted(words)
        waits = isinstance(self.launcher, SlurmLauncher)
        settle = partial(self.launcher.launch, [], initial_job_idx=0) if waits else None
        self.task.outcome.swept = multi.run(path, words, wanted, launch, self._orders(), settle)

    def _anchored(self, word: str) -> str:
        """The same with absolute paths: the multirun may be taken up from another folder."""
        key, _, value = word.partition("=")
        if not is_file(key) or value[:1] in ("", "["):
            return word
        [parsed] = OverridesParser.create(config_loader=self.loader).parse_overrides([word])
        swept = parsed.is_sweep_override()
        values = list(parsed.sweep_string_iterator()) if swept else [parsed.get_value_element_as_str()]
        return f"{key}={','.join(each if each == 'null' else quoted(os.path.abspath(plain(each))) for each in values)}"

    def _orders(self) -> Any:
        from ebm_cli.commands.sweep import Orders

        of_hydra = OmegaConf.to_container(self.config.hydra.overrides.hydra, resolve=False)
        assert isinstance(of_hydra, list)
        typed = [quote(str(word)) for word in of_hydra if str(word).lstrip("+").startswith(_SAID_AGAIN)]
        return Orders(self.resume, self.retries, self.fail_fast, self.alone, (*typed, *map(quote, self.plugins)))

    def _launch(self, path: Path, batch: Sequence[Any]) -> None:
        from ebm_cli.commands.stopping import passed_on

        words = [[*job.overrides, *self.plugins, f"hydra.sweep.subdir={quoted(job.directory)}"] for job in batch]
        answers = self.alone or isinstance(self.launcher, Handing)
        with nullcontext() if answers else passed_on(path, [path / job.directory for job in batch]):
            self.launcher.launch(words, initial_job_idx=batch[0].number)

    def _wanted(self, arguments: list[str]) -> list[Any]:
        """Every combination of what is swept, composed and checked."""
        from ebm_cli.commands.sweep import Wanted

        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(arguments)
        found = []
        for one in parsed:
            if isinstance(one.value(), IntervalSweep):
                raise UserError(of_a_search(str(one.input_line)))
        for combination in told(BasicSweeper.split_arguments(parsed, None)[0], "jobs planned"):
            config = self.loader.load_sweep_config(self.config, [*combination, *self.plugins])
            if config.hydra.sweep.dir != self.config.hydra.sweep.dir:
                raise UserError("hydra.sweep.dir: is one folder for all jobs; name what is swept in hydra.sweep.subdir")
            place = self._place(config)
            plain = plain_data(config)
            name_trackers(plain, combination)
            found.append(Wanted(tuple(combination), plain, place, chosen_parts(config.hydra)))
        return found

    def _place(self, config: DictConfig) -> Callable[[int], str]:
        """The directory of a job by its number, as hydra.sweep.subdir has it."""
        if OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] == _BY_NUMBER:  # type: ignore[index,call-overload]
            return str

        def place(number: int) -> str:
            with open_dict(config.hydra.job):
                config.hydra.job.num = config.hydra.job.id = number
            HydraConfig.instance().set_config(config)
            return str(OmegaConf.select(config, "hydra.sweep.subdir"))

        return place


def register() -> None:
    """Make them known to Hydra, which takes plugins from the name space `hydra_plugins` alone."""
    from ebm_cli.cli.tuner import TuneSweeper

    for plugin in (LedgerSweeper, TuneSweeper, SlurmLauncher, RayLauncher, StackedLauncher):
        Plugins.instance().class_name_to_class[f"hydra_plugins.ebm.{plugin.__name__}"] = plugin
