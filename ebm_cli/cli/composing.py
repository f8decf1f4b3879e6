"""Configurations of many jobs. Hydra needs a tenth of a second for each; most differ in values alone, which is quick.

What a set of chosen parts makes is composed once by Hydra, and copied; values are set on the copy by Hydra's own code.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ebm_cli.errors import UserError


class QuickLoader:
    """Hydra's loader of configurations for launchers, which ask it for that of each job."""

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of a job, Hydra's own keys included."""
        overrides = OverridesParser.create().parse_overrides(sweep_overrides)
        values = [override for override in overrides if self._is_value(override)]
        parts = tuple(str(override.input_line) for override in overrides if override not in values)
        if parts not in self._composed:
            self._composed[parts] = self._loader.load_sweep_config(master_config, list(parts))
        config = copy.deepcopy(self._composed[parts])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        _note(config, overrides)
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether it sets a key; otherwise it chooses a part, or speaks of a package."""
        own: Any = self._loader
        return override.package is None and not own.repository.group_exists(override.key_or_group)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the loader's."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_loader"], name)


def _note(config: DictConfig, overrides: Sequence[Override]) -> None:
    """What was typed for this job, in its order, where Hydra notes it."""
    with open_dict(config.hydra):
        own = [str(one.input_line) for one in overrides if one.is_hydra_override()]
        known = OmegaConf.to_container(config.hydra.overrides.hydra)
        assert isinstance(known, list)
        config.hydra.overrides.hydra = [*known, *(one for one in own if one not in known)]
        config.hydra.overrides.task = [str(one.input_line) for one in overrides if not one.is_hydra_override()]


def plain_data(composed: Any) -> dict[str, Any]:
    """The composed configuration, every interpolation done. Raises UserError for a bad one and for a missing key."""
    try:
        return {str(key): _resolved(composed, str(key)) for key in composed if key != "hydra"}
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split("full_key:")[0].split())) from error


def _resolved(composed: Any, key: str) -> Any:
    if OmegaConf.is_missing(composed, key):
        raise UserError(f"{key} is missing: give it as {key}={'DIR' if key == 'run' else 'VALUE'}")
    value = composed[key]
    if not OmegaConf.is_config(value):
        return value
    for inner in sorted(OmegaConf.missing_keys(value)):
        raise UserError(f"{key}.{inner} is missing: give it as {key}.{inner}=VALUE")
    return OmegaConf.to_container(value, resolve=True)


def name_trackers(config: dict[str, Any], overrides: Sequence[str]) -> None:
    """Of `tracker=[a,b]` Hydra keeps the keys of both, but the last name alone."""
    typed = [word.partition("=")[2] for word in overrides if word.partition("=")[0] == "tracker"]
    if typed and typed[-1].startswith("[") and isinstance(config.get("tracker"), dict):
        names = [name.strip().strip("'\"") for name in typed[-1].strip("[]").split(",")]
        config["tracker"]["name"] = [name for name in names if name]


def chosen_parts(hydra: Any) -> dict[str, str]:
    """What was chosen in each group, by Hydra's own keys of a configuration."""
    return {str(group): str(name) for group, name in hydra.runtime.choices.items() if "/" not in str(group)}


def seen_from_here(path: Path) -> Path:
    """As seen from the working directory, which is what messages show, if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
