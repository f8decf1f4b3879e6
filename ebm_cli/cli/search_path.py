"""Hydra plugin: configuration of the user's own, in ./conf and in the folders of EBM_CONFIG_PATH."""

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from typing_extensions import override


class UserSearchPath(SearchPathPlugin):
    """After the packaged configuration, so that a user's files add choices and never silently replace one."""

    @override
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders that exist."""
        for folder in folders():
            search_path.append("ebm", f"file://{folder.absolute()}")


def folders() -> list[Path]:
    """Those that exist, in the order in which a choice is looked for."""
    own = [Path.cwd() / "conf"]
    named = [Path(entry) for entry in os.environ.get("EBM_CONFIG_PATH", "").split(os.pathsep) if entry]
    return [folder for folder in own + named if folder.is_dir()]
