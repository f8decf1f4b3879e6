"""The words after `ebm COMMAND`, checked and rewritten so that Hydra takes them as a person meant them."""

import os
import re
from pathlib import Path
from shlex import quote

from ebm_cli.cli import importing
from ebm_cli.cli.again import ORDERS, SWEEP, multirun
from ebm_cli.cli.listing import choices, keys_of, no_choice
from ebm_cli.cli.tuning import BASE, KEYS, check_no_search, is_space, tuned
from ebm_cli.cli.words import plain, quoted, taken
from ebm_cli.errors import UserError, nearest
from ebm_cli.record import hub
from ebm_cli.record.runs import instead

_PATH_KEYS = (
    "run",
    "resume",
    "out",
    "data",
    "given",
    "between",
    "mutations",
    "wild_type",
    "hydra.run.dir",
    "hydra.sweep.dir",
)
_FILE_KEYS = ("path", "root", "file", "folder", "contacts", "vocabulary_file")  # of a part, whatever group it is of
_OF_RUNS = {
    "sample": ("sampler", "model"),
    "evaluate": ("sampler", "dataset", "noise", "model"),
    "score": ("dataset", "model"),
    "transform": ("dataset", "model"),
    "export": ("dataset", "model"),
}
_OF_ITS_PART = re.compile(rf"((dataset|noise\.source|model)\.({'|'.join(_FILE_KEYS)})|(stop|running|health)\.\w+)=")
_ONE_OF = (
    "dataset",
    "model",
    "objective",
    "chains",
    "noise",
    "sampler",
    "optimizer",
    "sparsity",
    "stop",
    "running",
    "health",
    "tracker",
    "device",
)
_FLAGS = {  # Hydra's, and whether a value may follow
    "-h": False, "--help": False, "--hydra-help": False, "--version": False, "-r": False, "--run": False,
    "-m": False, "--multirun": False, "--resolve": False, "-c": True, "--cfg": True, "-p": True, "--package": True,
    "-cp": True, "--config-path": True, "-cn": True, "--config-name": True, "-cd": True, "--config-dir": True,
    "-i": True, "--info": True, "--experimental-rerun": True, "-sc": True, "--shell-completion": True,
}  # fmt: skip


def prepared(arguments: list[str], command: str) -> list[str]:
    """Arguments for Hydra: paths quoted, overrides before flags, `resume` turned into the directory it is about."""
    swept = several(_checked(arguments, command))
    arguments = [_of_wandb(argument) for argument in arguments]
    found = _in_order([_quoted_path(argument, several=swept) for argument in arguments])
    if command in ("tune", "import"):
        return tuned(found) if command == "tune" else importing.words(found)
    if command != "train":
        return _of_the_run(found, _OF_RUNS[command])
    if swept:
        return multirun(found)
    for argument in found:
        if argument.partition("=")[0] in ORDERS:
            raise UserError(f"{argument}: is for the jobs of a multirun; leave it out, or write ebm train -m")
        if argument.partition("=")[0] in KEYS:
            raise UserError(f"{argument}: is for a search; leave it out, or write ebm tune")
    return _resume_in_place(found)


def _checked(arguments: list[str], command: str) -> list[str]:
    """The arguments, after refusing what Hydra would answer with a page of its own usage."""
    base = BASE.get(command, command)
    if several(arguments) and (base != "train" or command == "import"):
        raise UserError(f"{command} takes one run at a time; leave out -m, which is for ebm train")
    for argument in arguments:
        _check_flag(argument, command)
        _check_deletion(argument, command)
        _check_choice(argument, base)
        if command != "tune" and not several(arguments):
            _check_launcher(argument, command)
        group, _, value = argument.partition("=")
        if group in ("hydra.launcher", "hydra.sweeper"):
            raise UserError(f"{argument}: one of these is chosen with a slash, {argument.replace('.', '/', 1)}")
        if group == "hydra/sweeper" and value not in ("basic", ""):
            raise UserError(
                f"{argument}: it would search by the exit code of a job, which is 0 of every job that is done; leave "
                "it out, and search with ebm tune"
            )
        if group == "tracker.name" and value and value not in choices("tracker"):
            continue
        if group.endswith(".name") and group.removesuffix(".name") in _ONE_OF:
            raise UserError(f"{argument}: {_chosen(group.removesuffix('.name'), value)}")
    return arguments


def _check_launcher(argument: str, command: str) -> None:
    """Raise UserError for a launcher that one run, which needs none, would leave out without a word."""
    group, _, value = argument.lstrip("+").partition("=")
    if group == "hydra/launcher" and value not in ("basic", ""):
        other = ", or write ebm train -m" if command == "train" else ""
        raise UserError(f"{argument}: is for the jobs of a multirun; leave it out{other}")


def _check_choice(argument: str, command: str) -> None:
    """Raise UserError for a group of which none is named, or several are where one can be."""
    group, equals, value = argument.partition("=")
    if equals and value in ("", "null", "~") and group in _ONE_OF and command == "train":
        raise UserError(f"{group} = {value or 'nothing'}: name one (see: ebm list {group})")
    if argument == "tracker=[]":
        raise UserError(f"{argument}: name at least one; tracker=none for none")
    if group in _ONE_OF and group != "tracker" and value.startswith("["):
        raise UserError(f"{argument}: {group} takes one name, {group}=NAME (see: ebm list {group})")


def _of_wandb(argument: str) -> str:
    """`tracker.name=NAME` names the run, where NAME is no tracker: `name` itself says which tracker it is."""
    key, _, value = argument.partition("=")
    return f"tracker.run_name={value}" if key == "tracker.name" and value else argument


def _chosen(group: str, name: str) -> str:
    """How a choice of a group is made, for who gave its name as a key."""
    there = name in choices(group) or not name
    return f"choose with {group}={name or 'NAME'}" if there else no_choice(group, name)


def several(arguments: list[str]) -> bool:
    """Whether they ask for a multirun, in which a comma separates values."""
    return bool({"-m", "--multirun"} & set(arguments))


def _check_flag(argument: str, command: str) -> None:
    flag, equals, value = argument.partition("=")
    if not flag.startswith("-") or flag in _FLAGS:
        return
    name = flag.lstrip("-")
    if flag.startswith("--") and (equals or name.partition(".")[0] in (*_ONE_OF, *keys_of(command))):
        raise UserError(f"{argument}: keys have no dashes before them; write {name}={value or 'VALUE'}")
    raise UserError(f"unknown flag {flag}{nearest(flag, list(_FLAGS))} (see: ebm {command} --hydra-help)")


def _check_deletion(argument: str, command: str) -> None:
    """Raise UserError for `~KEY` of what no run can do without, which Hydra takes away as it is told."""
    key = argument.lstrip("~").partition("=")[0].partition("@")[0]
    if not argument.startswith("~") or "." in key or key == "experiment":
        return
    if key == "evaluation":
        raise UserError(f"{argument}: choose what is measured with evaluation=[NAME,...], nothing with evaluation=[]")
    other = "none" if key == "tracker" else "NAME" if key in _ONE_OF else "VALUE"
    raise UserError(f"{argument}: {key} cannot be left out; give another, {key}={other} (see: ebm {command} --help)")


def _of_the_run(arguments: list[str], groups: tuple[str, ...]) -> list[str]:
    """`sampler.KEY=VALUE` without a sampler changes a key of the run's own: to Hydra it is added to an empty group."""
    own = {group for group in groups if not any(argument.startswith(f"{group}=") for argument in arguments)}
    return [f"+{argument}" if argument.partition(".")[0] in own else argument for argument in arguments]


def is_file(key: str) -> bool:
    """Whether a key names a file of a part."""
    group, _, last = key.lstrip("+").rpartition(".")
    return bool(group) and group.partition(".")[0].partition("@")[0] != "hydra" and last in _FILE_KEYS


def _in_order(arguments: list[str]) -> list[str]:
    """Overrides first, then flags, each with its value: Hydra's parser takes no override after a flag."""
    overrides: list[str] = []
    flags: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        a_value = before in _FLAGS and _FLAGS[before] and "=" not in argument
        (flags if argument.startswith("-") or a_value else overrides).append(argument)
    return overrides + flags


def _quoted_path(argument: str, *, several: bool = False) -> str:
    """Paths need no quoting by the user, whatever characters they hold; of several, commas stand between them."""
    key, equals, value = argument.partition("=")
    is_path = key in _PATH_KEYS or is_file(key)
    if key == "given" and value.startswith("["):  # words, no file
        return argument
    if not equals or not is_path or is_space(argument) or value[:1] in ("'", '"', "{", "") or value in ("null", "???"):
        return argument
    apart = several and key not in _PATH_KEYS and not os.path.exists(value)
    return f"{key}={','.join(quoted(each) for each in (value.split(',') if apart else [value]))}"


def _resume_in_place(arguments: list[str]) -> list[str]:
    """`resume=DIR` makes DIR the run directory of this job; it must hold a run, since Hydra would create it.

    `resume=auto` is for schedulers that start the same command again: it resumes the run in hydra.run.dir if one is
    there, and starts it otherwise.
    """
    value, others = taken(arguments, "resume")
    if value is None or value == "null":
        return arguments
    place, elsewhere = taken(others, "hydra.run.dir")
    if plain(value) == "auto":
        if place is None:
            raise UserError("resume = auto: say which directory it is about, hydra.run.dir=DIR")
        if not _holds_run(place):
            return others
        return [f"hydra.run.dir={place}", "resume=auto", *_added(elsewhere)]
    _check_resume(value, place)
    return [f"hydra.run.dir={value}", f"resume={value}", *_added(others)]


def _added(arguments: list[str]) -> list[str]:
    """Keys that name files, and when it ends, may be given to a run whose part is another than the usual one."""
    return [f"++{argument}" if _OF_ITS_PART.match(argument) else argument for argument in arguments]


def _check_resume(value: str, place: str | None) -> None:
    path = plain(value)
    if not path:
        raise UserError("resume is empty: name a run directory, resume=DIR")
    if not _holds_run(value):
        check_no_search(path)
        if os.path.isfile(Path(path) / SWEEP):
            raise UserError(f"resume = {path}: is a multirun; take it up again with ebm train -m resume={quote(path)}")
        if hub.there(Path(path)):
            raise UserError(
                f"resume = {path}: is a folder for the Hugging Face hub, without chains and optimizer, so it does not "
                f"go on; resume the run that it is of, or use it as it is, run={quote(path)}"
            )
        raise UserError(f"resume = {path}: no run is there ({instead(Path(path)) or 'it has no config.yaml'})")
    if place is not None:
        raise UserError(f"hydra.run.dir: a resumed run stays where it is, in {path}; leave it out")


def _holds_run(value: str) -> bool:
    return os.path.isfile(Path(plain(value)) / "config.yaml")  # unlike the method, also of names no file can have


def directories_there(arguments: list[str]) -> set[Path]:
    """Directories above and at the run directory that exist before Hydra makes the missing ones."""
    given = [plain(value) for key, _, value in (a.partition("=") for a in arguments) if key == "hydra.run.dir"]
    path = Path(given[-1] if given else "outputs").absolute()
    return {folder for folder in (path, *path.parents) if os.path.exists(folder)}


def for_follower(arguments: list[str], empty: Path) -> list[str]:
    """A process that only computes gets an empty directory of its own, since Hydra makes one; resumed runs have one."""
    if taken(arguments, "resume")[0] is not None:
        return arguments
    return [f"hydra.run.dir='{empty}'", *taken(arguments, "hydra.run.dir")[1]]
