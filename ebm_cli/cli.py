"""The command line: the only file that imports hydra and omegaconf, and only once a command needs them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebm_cli import __version__
from ebm_cli.errors import RunError, UserError, nearest

COMMANDS = {
    "train": "train a model, or resume a run",
    "sample": "draw from a trained model",
    "evaluate": "measure a trained model",
    "list": "the parts to choose from: what each is, its keys, what it fits with",
}

HELP = f"""ebm {__version__}: train, sample and evaluate energy-based models

usage: ebm COMMAND [GROUP=NAME ...] [KEY=VALUE ...]

commands:
{chr(10).join(f"  {name:10s}{text}" for name, text in COMMANDS.items())}

first things to try:
  ebm train model=rbm objective=pcd             8x8 digits, under a minute, no network
  ebm list sampler                              the samplers and their keys
  ebm train --help                              every group and key
  ebm train -m objective=cd,pcd model.hidden=16,64
  ebm sample run=outputs/RUN n=100
  ebm evaluate run=outputs/RUN evaluation=[ais,chains]

shell completion for bash:  eval "$(ebm completion)"
"""

COMPLETION = """_ebm() {
  local out; out=$(COMP_LINE="${COMP_LINE:0:$COMP_POINT}" ebm -sc query=bash 2>/dev/null)
  COMPREPLY=($(compgen -o nospace -W "$out" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _ebm ebm
"""

_PATH_KEYS = ("run", "resume", "hydra.run.dir", "hydra.sweep.dir", "dataset.path", "dataset.root")


class SweepTable:
    """Hydra callback: remembers where a multirun keeps its jobs, for the table at its end."""

    directory: Path | None = None

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Before the first job."""
        SweepTable.directory = Path(str(config.hydra.sweep.dir))

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Every other event of Hydra is of no interest."""
        if name.startswith("on_"):
            return lambda *args, **kwargs: None
        raise AttributeError(name)


def dispatch(arguments: list[str]) -> int:
    """Run one command line; the exit code."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return 0
    if command in ("-V", "--version"):
        sys.stdout.write(f"ebm {__version__}\n")
        return 0
    if command == "completion":
        sys.stdout.write(COMPLETION)
        return 0
    try:
        if command in ("-sc", "--shell-completion"):
            return _complete(arguments)
        if command == "list":
            from ebm_cli import listing

            return listing.main(rest)
        if command not in COMMANDS:
            raise UserError(f"no command {command!r}{nearest(command, list(COMMANDS))} (try: ebm --help)")
        return _compose_and_run(command, rest)
    except UserError as error:
        _complain(command, error)
        return error.exit_code
    except RunError as error:
        _complain(command, error)
        return error.exit_code
    except KeyboardInterrupt:
        _complain(command, UserError("interrupted"))
        return 130


def _complain(command: str, error: Exception) -> None:
    sys.stderr.write(f"ebm {command}: {error}\n")


def _complete(arguments: list[str]) -> int:
    """Words for the shell: commands first, then whatever Hydra offers for the command."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) <= 2:
        sys.stdout.write(" ".join(name for name in COMMANDS if name.startswith(words[-1] if len(words) > 1 else "")))
        return 0
    if words[1] == "list":
        from ebm_cli.registry import GROUPS

        sys.stdout.write(" ".join(group for group in GROUPS if group.startswith(words[-1])))
        return 0
    if words[1] not in COMMANDS:
        return 0
    os.environ["COMP_LINE"] = " ".join(["ebm", *words[2:]])
    return _compose_and_run(words[1], arguments)


def _compose_and_run(command: str, arguments: list[str]) -> int:
    """Hand over to Hydra, which calls back once per job with the composed configuration."""
    _prepare_hydra()
    from hydra import main as hydra_main
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    SweepTable.directory = None
    arguments = _resume_in_place([_quoted_path(argument) for argument in arguments])
    outcome: list[int] = []
    decorate = hydra_main(version_base="1.3", config_path="pkg://ebm_cli.conf", config_name=command)
    argv, sys.argv = sys.argv, [f"ebm {command}", *arguments]
    try:
        decorate(_Job(command, outcome))()
    except (HydraException, OmegaConfBaseException) as error:
        from ebm_cli.hydra_errors import explain

        raise UserError(explain(error, command)) from error
    finally:
        sys.argv = argv
        directory = SweepTable.directory
        swept = _sweep_table(directory) if directory is not None else 0
    return swept if directory is not None else max(outcome, default=0)


def _prepare_hydra() -> None:
    """Let exceptions through, add the search path of the user, and a resolver for unique directory names."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import secrets

    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from ebm_cli.search_path import UserSearchPath

    Plugins.instance().register(UserSearchPath)
    unique = secrets.token_hex(2)
    OmegaConf.register_new_resolver("ebm_unique", lambda: unique, replace=True)


def _quoted_path(argument: str) -> str:
    """Paths need no quoting by the user, whatever characters they hold."""
    key, equals, value = argument.partition("=")
    if not equals or key not in _PATH_KEYS or value[:1] in ("'", '"', "") or value in ("null", "???"):
        return argument
    escaped = value.replace("\\\\", "\\\\\\\\").replace("'", "\\\\'")
    return f"{key}='{escaped}'"


def _resume_in_place(arguments: list[str]) -> list[str]:
    """`resume=DIR` makes DIR the run directory of this job; it must hold a run, since Hydra would create it."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+") == "resume" and value != "null":
            path = Path(value.strip("'\""))
            if not (path / "config.yaml").is_file():
                raise UserError(f"resume = {path}: no run is there (it has no config.yaml)")
            return [*arguments, f"hydra.run.dir={value}"]
    return arguments


class _Job:
    """The task Hydra calls, once per job; a class so that process-based launchers can send it to their workers."""

    def __init__(self, command: str, outcome: list[int]) -> None:
        self.command, self.outcome = command, outcome
        self.__name__ = self.__qualname__ = command

    def __call__(self, composed: Any) -> int:
        """Returns the exit code of one job; a stop request ends a whole multirun."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        config = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(config, dict)
        if self.command != "train":
            from ebm_cli.commands import evaluate, sample

            code = sample.sample(config) if self.command == "sample" else evaluate.evaluate(config)
            self.outcome.append(code)
            return code
        hydra = HydraConfig.get()
        multirun = hydra.mode == RunMode.MULTIRUN
        directory = Path(hydra.runtime.output_dir)
        from ebm_cli.commands import multi, train

        request = train.Request(
            {key: value for key, value in config.items() if key != "hydra"},
            {str(k): str(v) for k, v in hydra.runtime.choices.items() if "/" not in str(k)},
            tuple(hydra.overrides.task),
            _relative(directory),
            Path(str(hydra.sweep.dir)).name if multirun else None,
        )
        code = multi.job(request) if multirun else train.train(request)
        self.outcome.append(code)
        return code


def _relative(path: Path) -> Path:
    """As seen from the working directory, which is what messages show, if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _sweep_table(directory: Path) -> int:
    from ebm_cli.commands import multi

    return multi.table(_relative(directory.absolute()))


