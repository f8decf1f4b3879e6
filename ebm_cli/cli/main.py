"""The command line: the only file that imports hydra and omegaconf, and only once a command needs them."""

import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ebm_cli import __version__
from ebm_cli.cli import completion, importing
from ebm_cli.cli.arguments import directories_there, for_follower, prepared, several
from ebm_cli.cli.renamed import by_new_names
from ebm_cli.cli.tuning import BASE, KEYS
from ebm_cli.errors import RunError, UserError, advice, nearest, of_file
from ebm_cli.signals import StopRequest, watching

COMMANDS = {
    "train": "train a model, or resume a run",
    "tune": "search for the best values of keys",
    "sample": "draw from a trained model, or what is missing of your own rows",
    "evaluate": "measure a trained model",
    "score": "energy and log p of your own rows",
    "transform": "hidden activities of your own rows",
    "import": "a run of a model that another package trained",
    "export": "the model of a run in a file of another package",
    "compare": "runs side by side: where they differ, what was measured, which is better",
    "watch": "live curves of a run that trains, or the state of a multirun",
    "report": "a page on runs: what came out, what is wrong, what to do next",
    "list": "the parts to choose from: what each is, its keys, what it fits with",
}

_PLAIN = ("compare", "watch", "report")
"""Commands that compose no configuration; each is a module of its name."""

HELP = f"""ebm {__version__}: train, sample and evaluate energy-based models

usage: ebm COMMAND [GROUP=NAME ...] [KEY=VALUE ...]

commands:
{chr(10).join(f"  {name:10s}{text}" for name, text in COMMANDS.items())}

first things to try:
  ebm train model=rbm objective=pcd             8x8 digits, under a minute, no network
  ebm list sampler                              the samplers and their keys
  ebm train --help                              every group and key
  ebm train -m objective=cd,pcd model.hidden=16,64
  ebm tune optimizer.lr='interval(0.001,0.3,log)' model.hidden='choice(16,64)'
  ebm sample run=outputs/RUN n=100
  ebm evaluate run=outputs/RUN evaluation=[ais,chains]
  ebm score run=outputs/RUN data=FILE           energies and log p of your own rows
  ebm watch outputs/RUN                         curves, while it trains
  ebm compare outputs/RUN outputs/OTHER         side by side, with what is known of the difference
  ebm report outputs/RUN                        a page: what is wrong, what to do next, curves, pictures

shell completion:  eval "$(ebm completion)"; zsh and fish: ebm completion zsh, ebm completion fish | source
"""

_BEFORE_LEAVING = 3.0  # seconds; torchrun ends all processes once one has failed, and rank 0 is to say why
_SETS_MODE = re.compile(r"\+*hydra\.(mode|searchpath)=|--config|-c[dpn]")
_VERSION = f"ebm {__version__}\n"
_TEXTS = {"-h": HELP, "--help": HELP, "help": HELP, "-V": _VERSION, "--version": _VERSION}


def dispatch(arguments: list[str]) -> int:
    """Run one command line; the exit code."""
    # Before torch starts its threads: those that wait must sleep. Spinning, two runs on the same cores slow each other
    # down fifty-fold, since every small operation then waits for a thread that is not scheduled.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    with watching() as stop:
        try:
            stop.at_once()
            _check_text([*arguments, os.getcwd()])
            code = _dispatched(command, rest)
        except BaseException as error:
            told = _told(error, command, stop)
            if told is None:
                raise
            code = told
        stop.noted()
    return code


def _check_text(words: list[str]) -> None:
    """Raise UserError for bytes that are no text: neither YAML nor JSON could hold such a path."""
    for word in words:
        shown = os.fsencode(word).decode("utf-8", "backslashreplace")
        if shown != word:
            raise UserError(f"{shown}: is not UTF-8; give it another name")


def _dispatched(command: str, rest: list[str]) -> int:
    if command in _TEXTS:
        sys.stdout.write(_TEXTS[command])
        return 0
    if command == "completion":
        sys.stdout.write(completion.script(rest))
        return 0
    if command in ("-sc", "--shell-completion"):
        return _complete([command, *rest])
    if command == "list":
        from ebm_cli.cli import listing

        return listing.main(rest)
    if command in _PLAIN:
        return import_module(f"ebm_cli.cli.{command}").main(rest)
    if command not in COMMANDS:
        raise UserError(f"no command {command!r}{nearest(command, list(COMMANDS))} (try: ebm --help)")
    rest, notes = by_new_names(rest)
    follows = os.environ.get("RANK", "0") != "0"
    if notes and not follows:
        _complain(command, "; ".join(notes))
    return (_follow if follows else _compose_and_run)(command, rest)


def _told(error: BaseException, command: str, stop: StopRequest) -> int | None:
    """The exit code for what ended a command, once it is said; None for a bug in this package."""
    if isinstance(error, SystemExit):  # Hydra's --help; a multirun that was asked to stop, which is said
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if stop.broke(error):
        stop.noted()
        _complain(command, stop.said)
        return stop.exit_code or 130
    if not isinstance(error, UserError | RunError):
        return None
    _complain(command, str(error))
    return error.exit_code


def _follow(command: str, arguments: list[str]) -> int:
    """One of the processes of torchrun that neither write nor speak."""
    from ebm_cli import terminal

    terminal.silence()
    with tempfile.TemporaryDirectory() as empty:
        try:
            return _compose_and_run(command, for_follower(arguments, Path(empty) / "run"))
        except (UserError, RunError) as error:
            time.sleep(_BEFORE_LEAVING)
            return error.exit_code


def _complain(command: str, sentence: str) -> None:
    with suppress(OSError, AttributeError):  # nobody reads it any more
        sys.stderr.write(f"ebm {command}: {sentence}\n")


def _complete(arguments: list[str]) -> int:
    """Words for the shell: commands first, then whatever Hydra offers for the command."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) <= 2:
        sys.stdout.write(" ".join(name for name in COMMANDS if name.startswith(words[-1] if len(words) > 1 else "")))
        return 0
    if words[1] == "list":
        from ebm_cli.cli import listing

        offered = list(listing.GROUPS) if len(words) == 3 else listing.choices(words[2]) if len(words) == 4 else []
        sys.stdout.write(" ".join(word for word in offered if word.startswith(words[-1])))
        return 0
    if words[1] in _PLAIN:
        from ebm_cli.cli import plain

        asked = import_module(f"ebm_cli.cli.{words[1]}")
        sys.stdout.write(" ".join(plain.completions(words, asked.USAGE, asked.CHOICES)))
        return 0
    if words[1] not in COMMANDS:
        return 0
    own = {"tune": KEYS, "import": importing.KEYS}.get(words[1], ())
    sys.stdout.write("".join(f"{key}=\n" for key in own if key.startswith(words[-1])))
    os.environ["COMP_LINE"] = " ".join(["ebm", *words[2:]])
    return _compose_and_run(words[1], arguments)


def _compose_and_run(command: str, arguments: list[str]) -> int:
    """Hand over to Hydra, which calls back once per job with the composed configuration."""
    _prepare_hydra()
    from hydra import main as hydra_main
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    arguments = prepared(arguments, command)
    job = _Job(command, Outcome(), directories_there(arguments))
    decorate = hydra_main(version_base="1.3", config_path="pkg://ebm_cli.conf", config_name=BASE.get(command, command))
    argv, sys.argv = sys.argv, [f"ebm {command}", *arguments]
    try:
        with _composed_once(arguments):
            _while_read(decorate(job), job)
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if job.outcome.started and not isinstance(error, HydraException | OmegaConfBaseException):
            raise
        from ebm_cli.cli.hydra_errors import explain

        place = "hydra.sweep.dir" if several(arguments) else "hydra.run.dir"
        raise UserError(explain(error, command, resumes=_taken_up(arguments), place=place)) from error
    finally:
        sys.argv = argv
    if job.outcome.swept is not None:
        return job.outcome.swept
    if job.outcome.error is not None:
        raise job.outcome.error
    return max(job.outcome.codes, default=0)


def _while_read(run: Callable[[], Any], job: "_Job") -> None:
    """Until nobody reads any more what Hydra itself prints, such as its help."""
    try:
        run()
    except BrokenPipeError:
        if job.outcome.started:
            raise


@contextmanager
def _composed_once(arguments: list[str]) -> Iterator[None]:
    """Spare each command a tenth of a second: Hydra composes all once more, only to look up `hydra.mode`.

    What is packaged sets nothing but RUN, as Hydra would; where a word or a file of the user's may, Hydra looks.
    """
    from hydra._internal.hydra import Hydra

    from ebm_cli.cli.listing import folders_of_the_user

    original, user = Hydra.get_mode, folders_of_the_user() or any(_SETS_MODE.match(word) for word in arguments)
    if not user:
        Hydra.get_mode = lambda *arguments, **named: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = original  # type: ignore[method-assign]


def _taken_up(arguments: list[str]) -> bool:
    return any(argument.startswith("resume=") for argument in arguments)


def _prepare_hydra() -> None:
    """Let exceptions through, and add what is our own.

    What Hydra logs and nobody reads any more is lost, not a traceback for each line.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.raiseExceptions = False
    from ebm_cli.cli.composed import ready

    ready()


@dataclass
class Outcome:
    """What became of the jobs of one command line that ran in this process."""

    started: bool = False
    codes: list[int] = field(default_factory=list)
    error: UserError | RunError | None = None
    swept: int | None = None  # the exit code of a multirun


class _Job:
    """The task Hydra calls, once per job; a class so that process-based launchers can send it to their workers."""

    def __init__(self, command: str, outcome: Outcome, there: set[Path]) -> None:
        self.command, self.outcome, self.there = command, outcome, there
        self.__name__ = self.__qualname__ = command

    def __call__(self, composed: Any) -> int:
        """The exit code of one job. An error waits in `outcome`: Hydra would print all overrides before it."""
        self.outcome.started = True
        try:
            code = self._run(composed)
        except (UserError, RunError) as error:
            self.outcome.error, code = error, error.exit_code
        except OSError as error:
            if error.errno is None:
                raise
            self.outcome.error, code = RunError(f"{of_file(error)}: {advice(error)}, then run the command again"), 1
        self.outcome.codes.append(code)
        return code

    def _run(self, composed: Any) -> int:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        directory = Path(HydraConfig.get().runtime.output_dir)
        from ebm_cli.cli.composing import plain_data, seen_from_here
        from ebm_cli.cli.meant import as_typed

        try:
            config = plain_data(composed)
            if self.command == "train":
                code = _train(config, HydraConfig.get(), seen_from_here(directory))
                if code == 2:  # of a process that did the work and said why
                    _remove_empty(directory, self.there)
                return code
            if self.command == "import":
                return _import(config, HydraConfig.get(), seen_from_here(directory))
            done: int = getattr(import_module(f"ebm_cli.commands.{self.command}"), self.command)(config)
            return done
        except (UserError, KeyboardInterrupt) as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                _remove_empty(directory, self.there)
            if isinstance(error, UserError):
                words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
                raise UserError(as_typed(str(error), words)) from error
            raise


def _train(config: dict[str, Any], hydra: Any, directory: Path) -> int:
    from hydra.types import RunMode

    from ebm_cli.cli.composing import chosen_parts, name_trackers

    name_trackers(config, hydra.overrides.task)
    _start_tracker(config)
    from ebm_cli.commands import multi, train
    from ebm_cli.commands.configuration import Request

    multirun = hydra.mode == RunMode.MULTIRUN
    if multirun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("-m: under torchrun each process would be a multirun; use ebm train -m device.ranks=N")
    request = Request(
        config,
        chosen_parts(hydra),
        tuple(hydra.overrides.task),
        directory,
        Path(str(hydra.sweep.dir)) if multirun else None,
        multirun and bool(hydra.sweeper.get("fail_fast")),
    )
    return multi.job(request) if multirun else train.train(request)


def _import(config: dict[str, Any], hydra: Any, directory: Path) -> int:
    from ebm_cli.cli.composing import chosen_parts
    from ebm_cli.commands.configuration import Request
    from ebm_cli.commands.import_ import import_, peer

    asked = peer(config.pop("peer"))
    return import_(Request(config, chosen_parts(hydra), tuple(hydra.overrides.task), directory), asked)


def _start_tracker(config: Mapping[str, Any]) -> None:
    """While this process imports torch; whether the configuration is good will be seen later."""
    from ebm_cli.tracker import process

    chosen, among = config.get("tracker"), config.get("device")
    alone = isinstance(among, dict) and among.get("ranks") == 1
    if alone and isinstance(chosen, dict) and os.environ.get("RANK", "0") == "0":
        name = chosen.get("name")
        for one in name if isinstance(name, list) else [name]:
            process.start(str(one))


def _remove_empty(path: Path, keep: set[Path]) -> None:
    """Remove the directories that were made for a run that is not to be, as far as they are empty."""
    for folder in (path.absolute(), *path.absolute().parents):
        if folder in keep:
            return
        with suppress(OSError):
            folder.rmdir()
