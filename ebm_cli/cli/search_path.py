"""Hydra plugin: configuration of the user's own, in ./conf and in the folders of EBM_CONFIG_PATH."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from typing_extensions import override

from ebm_cli.cli.listing import folders_of_the_user


class UserSearchPath(SearchPathPlugin):
    """After the packaged configuration, so that a user's files add choices and never silently replace one."""

    @override
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders that exist."""
        for folder in folders_of_the_user():
            search_path.append("ebm", f"file://{folder.absolute()}")
