"""The configuration of a command composed for a caller in Python: of Hydra nothing is left behind in its process."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from ebm_cli.cli import sweeper
from ebm_cli.cli.arguments import prepared
from ebm_cli.cli.composing import chosen_parts, name_trackers, plain_data, seen_from_here
from ebm_cli.cli.hydra_errors import explain
from ebm_cli.cli.renamed import by_new_names
from ebm_cli.cli.search_path import UserSearchPath
from ebm_cli.errors import UserError

VERSION, PACKAGED = "1.3", "pkg://ebm_cli.conf"
_OF_ONE: Any = (GlobalHydra, HydraConfig, JobRuntime, version.VersionBase)  # singletons that belong to an application


class Composed(NamedTuple):
    """What words led to: plain data, the choice in each group, the words as typed, and the directory of a new run."""

    config: dict[str, Any]
    chosen: dict[str, str]
    overrides: tuple[str, ...]
    directory: Path


def composed(command: str, words: Sequence[str]) -> Composed:
    """What `ebm COMMAND WORDS` would do. Raises UserError for words that are none of the command, and for flags."""
    for word in words:
        if not isinstance(word, str):
            raise UserError(f"{word!r}: each word must be text, such as 'steps=300'")
        if word.startswith("-"):
            raise UserError(f"{word}: flags are for the command line; give words of the form GROUP=NAME and KEY=VALUE")
    arguments = prepared(by_new_names([*words])[0], command)
    with _hydra():
        try:
            hydra = Hydra.create_main_hydra2(f"ebm {command}", create_config_search_path(PACKAGED))
            found = hydra.compose_config(command, arguments, RunMode.RUN)
            HydraConfig.instance().set_config(found)
            directory = Path(str(found.hydra.run.dir))
            config, overrides = plain_data(found), tuple(map(str, found.hydra.overrides.task))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            resumes = any(word.startswith("resume=") for word in arguments)
            raise UserError(explain(error, command, resumes=resumes)) from error
        name_trackers(config, overrides)
        return Composed(config, chosen_parts(found.hydra), overrides, seen_from_here(directory.absolute()))


def ready() -> None:
    """Add the search path of the user, the sweepers, and a resolver for unique directory names."""
    Plugins.instance().register(UserSearchPath)
    sweeper.register()
    unique = secrets.token_hex(2)
    OmegaConf.register_new_resolver("ebm_unique", lambda: unique, replace=True)


@contextmanager
def _hydra() -> Iterator[None]:
    """Within, no application of Hydra goes on and ours can be composed; then the caller's own, if any, goes on.

    Plugins stay loaded, but for the one that adds folders to every search path.
    """
    resolvers, there = BaseContainer._resolvers, Singleton._instances
    kept = {kind: there.pop(kind) for kind in _OF_ONE if kind in there}
    BaseContainer._resolvers = dict(resolvers)
    try:
        version.setbase(VERSION)
        ready()
        yield
    finally:
        for kind in _OF_ONE:
            there.pop(kind, None)
        there.update(kept)
        BaseContainer._resolvers = resolvers
        _forget(UserSearchPath)


def _forget(plugin: type[SearchPathPlugin]) -> None:
    plugins = Plugins.instance()
    plugins.plugin_type_to_subclass_list[SearchPathPlugin].remove(plugin)
    del plugins.class_name_to_class[f"{plugin.__module__}.{plugin.__name__}"]
