"""What Hydra composes for a command line, once in a process: tests give the same ones many times, 0.1 s each."""

import copy
import os
import re

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from omegaconf import open_dict

_FOUND: dict = {}
_READ: dict = {}
_OF_A_SWEEP = re.compile(r"hydra\.(sweep\.dir|sweeper\.(trials|startup|search|search_seed|pruner|resume))=[\w./]+$")
"""Words that set a value of the sweep and nothing else: set on a copy, as Hydra sets them."""


def _set(loader, config, values, overrides) -> None:
    if not values:
        return
    parser = OverridesParser.create(config_loader=loader)
    ConfigLoaderImpl._apply_overrides_to_config(parser.parse_overrides(values), config)
    with open_dict(config.hydra):
        config.hydra.overrides.hydra = [word for word in overrides if word.lstrip("+~").startswith("hydra")]


def remember(monkeypatch) -> None:
    """Give a copy of what the same words led to; where files beside the package may play a part, Hydra looks."""
    compose = ConfigLoaderImpl.load_configuration

    def load_configuration(loader, config_name, overrides, *how, **named):
        path = tuple((each.provider, each.path) for each in loader.config_search_path.get_path())
        if any(place.startswith("file:") for _, place in path) or any("searchpath" in word for word in overrides):
            return compose(loader, config_name, overrides, *how, **named)
        values = [word for word in overrides if _OF_A_SWEEP.match(word)]
        words = [word for word in overrides if word not in values]
        asked = (config_name, *words, path, *how, *named.items())
        if asked not in _FOUND:
            _FOUND[asked] = compose(loader, config_name, words, *how, **named)
        config = copy.deepcopy(_FOUND[asked])
        config.hydra.runtime.cwd = os.getcwd()
        _set(loader, config, values, overrides)
        return config

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load_configuration)
    _remember_files(monkeypatch)


def _remember_files(monkeypatch) -> None:
    """Give a copy of what stands in a packaged file: to read it takes a third of the time of composing."""
    kinds = Plugins.instance().discover(ConfigSource)  # Hydra loads their modules anew: the classes that it uses
    (packaged,) = (kind for kind in kinds if kind.__name__ == "ImportlibResourcesConfigSource")
    read = packaged.load_config

    def load_config(source, config_path):
        asked = source.path, source.provider, config_path
        if asked not in _READ:
            _READ[asked] = read(source, config_path)
        return copy.deepcopy(_READ[asked])

    monkeypatch.setattr(packaged, "load_config", load_config)
