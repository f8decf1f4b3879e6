"""Which settings a resumed run takes from its own configuration, and which may be given anew."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from ebm_cli.commands.parts import UNSAID
from ebm_cli.commands.places import names_file, without
from ebm_cli.errors import UserError

FREE = (
    "steps", "log_every", "eval_every", "save_every", "checkpoint", "report", "tracker", "evaluation", "device",
    "plugins",
)  # fmt: skip
"""Keys that change what is recorded, how long and where it runs, but not what is trained."""

_OF_THE_COMMAND = ("resume", "hydra")


def merged(saved: Mapping[str, Any], composed: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The saved configuration with the free keys that were typed; plain data, so nothing in it is interpreted.

    So it takes keys that name files, whose contents are compared with what the run was trained on once they are read.
    Other keys may be typed if they change nothing, as when a scheduler starts the run's own command again. Raises
    UserError for one that would make it another run, or that the saved configuration lacks.
    """
    command = {"plugins": composed["plugins"], "resume": composed["resume"]}
    result = {"report": dict(UNSAID)} | copy.deepcopy(dict(saved)) | command
    here, there = without(composed), without(saved)
    other = [key for key in here if key not in (*FREE, *_OF_THE_COMMAND) and here[key] != there.get(key)]
    for override in overrides:
        path = override.lstrip("+~").split("=")[0].split("@")[0].replace("/", ".").split(".")
        anew = names_file(path)
        if path[0] in _OF_THE_COMMAND or (path[0] not in FREE and not other and not anew):
            continue
        if path[0] not in FREE and not anew:
            raise UserError(
                f"{'.'.join(path)}: a resumed run keeps its own; only {', '.join(FREE)} can change. "
                "Leave it out, or start a new run"
            )
        _copy(composed, result, path)
    return result


def _copy(source: Mapping[str, Any], target: dict[str, Any], path: list[str]) -> None:
    for part in path[:-1]:
        if not isinstance(target.get(part), dict):
            raise UserError(f"{'.'.join(path)}: the run's own config.yaml has no {part}")
        source, target = source.get(part, {}), target[part]
    if path[-1] in source:
        target[path[-1]] = copy.deepcopy(source[path[-1]])
    else:  # evaluation=[] or ~evaluation.ais
        target.pop(path[-1], None)
