"""What Hydra makes of words, once in a process: tests give the same ones many times, a tenth of a second each.

Kept are the parts that a set of choices leads to, the configuration that these make, how a word is read, and what a
whole line led to. Values are set by Hydra itself on a copy. Every copy of a configuration is made by pickle, in a fifth
of the time that `copy.deepcopy` needs for all its nodes.
"""

import copy
import os
import pickle  # noqa: TID251 - what this process has written

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig

_LINES: dict = {}
_CHOSEN: dict = {}
_COMPOSED: dict = {}
_WORDS: dict = {}
_FILES: dict = {}


def remember(monkeypatch) -> None:
    """Give a copy of what the same words led to; where files beside the package may play a part, Hydra looks."""
    kinds = Plugins.instance().discover(ConfigSource)  # Hydra loads their modules anew: the classes that it uses
    (packaged,) = (kind for kind in kinds if kind.__name__ == "ImportlibResourcesConfigSource")
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", _lines(ConfigLoaderImpl.load_configuration))
    monkeypatch.setattr(config_loader_impl, "create_defaults_list", _parts(config_loader_impl.create_defaults_list))
    compose = ConfigLoaderImpl._compose_config_from_defaults_list
    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", _made(compose))
    monkeypatch.setattr(OverridesParser, "parse_rule", _words(OverridesParser.parse_rule))
    monkeypatch.setattr(packaged, "load_config", _files(packaged.load_config))
    monkeypatch.setattr(DictConfig, "__deepcopy__", _copies(DictConfig.__deepcopy__))


def _once(kept: dict, asked: tuple, make):
    """A copy of what is kept under these words."""
    if asked not in kept:
        kept[asked] = pickle.dumps(make())
    return pickle.loads(kept[asked])  # noqa: S301


def _lines(compose):
    def load_configuration(loader, config_name, overrides, *how, **named):
        path = tuple((each.provider, each.path) for each in loader.config_search_path.get_path())
        if any(place.startswith("file:") for _, place in path) or any("searchpath" in word for word in overrides):
            return compose(loader, config_name, overrides, *how, **named)
        asked = (config_name, *overrides, path, *how, *named.items())
        config = _once(_LINES, asked, lambda: compose(loader, config_name, overrides, *how, **named))
        config.hydra.runtime.cwd = os.getcwd()
        return config

    return load_configuration


def _parts(create):
    def create_defaults_list(repo, config_name, overrides_list, **how):
        sources = repo.get_sources()
        if any(source.scheme() == "file" for source in sources):
            return create(repo=repo, config_name=config_name, overrides_list=overrides_list, **how)
        chosen = [each for each in overrides_list if repo.group_exists(each.key_or_group)]
        places = ((source.provider, source.path) for source in sources)
        asked = (config_name, *(each.input_line for each in chosen), *places, *how.items())
        if asked not in _CHOSEN:
            _CHOSEN[asked] = create(repo=repo, config_name=config_name, overrides_list=chosen, **how)
        found = _CHOSEN[asked]
        values = [each for each in overrides_list if _is_value(each, repo)]
        return DefaultsList(found.defaults, found.defaults_tree, values, found.overrides)

    return create_defaults_list


def _is_value(override, repo) -> bool:
    """Whether Hydra sets it once the parts are there."""
    if override.is_sweep_override():
        return False
    return isinstance(override.value(), dict) or not repo.group_exists(override.key_or_group)


def _made(compose):
    def compose_config_from_defaults_list(loader, defaults, repo):
        asked = id(defaults)
        if not any(kept.defaults is defaults for kept in _CHOSEN.values()):
            return compose(loader, defaults, repo)
        return _once(_COMPOSED, (asked,), lambda: compose(loader, defaults, repo))

    return compose_config_from_defaults_list


def _words(parse):
    def parse_rule(parser, text, rule):
        if (text, rule) not in _WORDS:
            _WORDS[text, rule] = parse(parser, text, rule)
        return copy.copy(_WORDS[text, rule])

    return parse_rule


def _files(read):
    def load_config(source, config_path):
        asked = source.path, source.provider, config_path
        return _once(_FILES, asked, lambda: read(source, config_path))

    return load_config


def _copies(deepcopy):
    def copied(config, memo):
        if memo:
            return deepcopy(config, memo)
        parent = config.__dict__["_parent"]
        try:
            config.__dict__["_parent"] = None  # kept, not copied
            found = pickle.loads(pickle.dumps(config))  # noqa: S301
        finally:
            config.__dict__["_parent"] = parent
        found.__dict__["_parent"] = parent
        return found

    return copied
