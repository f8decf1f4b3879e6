"""What Hydra composes for a command line, once in a process: tests give the same ones many times, 0.1 s each."""

import copy
import os

from hydra._internal.config_loader_impl import ConfigLoaderImpl

_FOUND: dict = {}


def remember(monkeypatch) -> None:
    """Give a copy of what the same words led to; where files beside the package may play a part, Hydra looks."""
    compose = ConfigLoaderImpl.load_configuration

    def load_configuration(loader, config_name, overrides, *how, **named):
        path = tuple((each.provider, each.path) for each in loader.config_search_path.get_path())
        if any(place.startswith("file:") for _, place in path) or any("searchpath" in word for word in overrides):
            return compose(loader, config_name, overrides, *how, **named)
        asked = (config_name, *overrides, path, *how, *named.items())
        if asked not in _FOUND:
            _FOUND[asked] = compose(loader, config_name, overrides, *how, **named)
        config = copy.deepcopy(_FOUND[asked])
        config.hydra.runtime.cwd = os.getcwd()
        return config

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load_configuration)
