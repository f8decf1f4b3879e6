"""`ebm import`: a run of a model that another package trained, at step 0, which other commands take as their own."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from ebm_cli import registry
from ebm_cli.commands.configuration import Request, choices, evaluations, loop_and_schedule, reporting
from ebm_cli.commands.data_again import WITHOUT_DATA
from ebm_cli.commands.session import configured
from ebm_cli.dataset.alignment import ALPHABETS
from ebm_cli.dataset.base import Data, placeholder
from ebm_cli.device.memory import watched
from ebm_cli.errors import RunError, UserError, advice, of_file
from ebm_cli.model.base import Quadratic
from ebm_cli.peers import formats
from ebm_cli.peers.foreign import Foreign
from ebm_cli.record import checkpoint, run
from ebm_cli.record.checkpoint_space import in_words
from ebm_cli.space import Categorical, Discrete, Space
from ebm_cli.terminal import log, logging_to, output
from ebm_cli.training.loop import recorded
from ebm_cli.training.state import Choice, Parts, TrainState, assemble, build_components, load_data

STATUS = "imported"
_MOST_ARE_THERE = 0.5  # share of couplings; a gauge, too, makes some of them 0


@dataclass(frozen=True)
class Peer:
    """Which file, as what, and whether data were named."""

    file: Path
    format: str
    checkpoint: str | None
    letters: str | None
    data: bool

    def read(self) -> Foreign:
        """The model in it."""
        return formats.read(self.file, self.format, self.checkpoint, self.letters)


def peer(found: Mapping[str, Any]) -> Peer:
    """From what the command line added to the configuration."""
    texts = {key: None if found.get(key) is None else str(found[key]) for key in ("checkpoint", "letters")}
    return Peer(Path(found["file"]).expanduser(), str(found["format"]), **texts, data=found["data"] == "true")


@watched(torch.device("cpu"))
def import_(request: Request, asked: Peer) -> int:
    """Write the run directory; the exit code. Raises UserError before anything is written."""
    with logging_to(None):
        foreign = asked.read()
        config = configured(request if asked.data else _without_data(request)).config
        parts, state = _built(config, request, foreign, asked)
        _put_chains(parts, state, foreign)
        for remark in foreign.remarks:
            log.warning("%s", remark)
        for remark in parts.data.remarks if asked.data else ():
            log.warning("%s", remark)
        _written(request, config, (parts, state), (asked, foreign))
    for line in _said(request.directory, state, (asked, foreign), choices(config, request.chosen)):
        output.print(line, highlight=False, soft_wrap=True)
    return 0


def _without_data(request: Request) -> Request:
    """The same with the data in a file of the run directory that is not there, so that none are read by mistake."""
    dataset = request.config["dataset"]
    ending = "fasta" if dataset.get("alphabet") else "npz"
    place = str(request.directory.absolute() / f"data.{ending}")
    return replace(request, config={**request.config, "dataset": {**dataset, "path": place}})


def _built(config: Mapping[str, Any], request: Request, foreign: Foreign, asked: Peer) -> tuple[Parts, TrainState]:
    """The parts of the run, and its state with the weights of the file and all else as before a first step."""
    choice = choices(config, request.chosen)
    loop, _ = loop_and_schedule(config)
    reporting(config)
    evaluations(config)
    components = replace(build_components(config, choice), initial=foreign.weights)
    device = registry.build("device", config["device"]).open()
    data = load_data(components, device) if asked.data else placeholder(foreign.space)
    _check_space(data, foreign, asked, choice["dataset"])
    _check_letters(config["dataset"], foreign.space)
    return assemble(components, loop, device, data, choice)


def _check_space(data: Data, foreign: Foreign, asked: Peer, named: str) -> None:
    """Raise UserError where rows of the data are none of the model."""
    here, space, letters = data.space, foreign.space, foreign.letters
    values = [each.values for each in (here, space) if isinstance(each, Discrete)]
    if type(here) is not type(space) or here.sites != space.sites or len(set(values)) > 1:
        raise UserError(
            f"dataset = {named}: reads {in_words(here)} rows, the model of {asked.file} takes {in_words(space)}; name "
            f"data of such rows, {_reader(space, letters)}, or leave dataset out"
        )


def _reader(space: Space, letters: str) -> str:
    """What names a data set of rows of this kind."""
    numbers, of_letters = "dataset=array dataset.path=FILE", "dataset=protein dataset.path=FILE"
    if not isinstance(space, Categorical):
        return numbers
    return of_letters if letters else f"{of_letters} or {numbers}"


def _check_letters(dataset: Mapping[str, Any], space: Space) -> None:
    """Raise UserError where an alphabet was typed that has not a letter for each value of a site."""
    alphabet = dataset.get("alphabet")
    if alphabet is None:
        return
    values, letters = getattr(space, "values", None), ALPHABETS.get(str(alphabet), str(alphabet))
    if values != len(letters):
        raise UserError(
            f"dataset.alphabet = {alphabet}: has {len(letters)} letters, a site of the model "
            f"{'is a number' if values is None else f'has {values} values'}; give one for each"
        )


def _put_chains(parts: Parts, state: TrainState, foreign: Foreign) -> None:
    """Go on with the chains of the file, where the run keeps as many and these need no weights."""
    if foreign.chains is None or state.weighted is not None or len(state.store) != len(foreign.chains):
        return
    space = parts.data.space
    x = space.encode(foreign.chains.reshape(-1, *space.site_shape)).to(state.store.device)
    state.store = parts.components.sampler.spread(x, space)


def _written(
    request: Request, config: Mapping[str, Any], made: tuple[Parts, TrainState], of: tuple[Peer, Foreign]
) -> None:
    """Configuration, metadata and a checkpoint of step 0."""
    (parts, state), (asked, foreign) = made, of
    facts = {
        "status": STATUS,
        "step": 0,
        "checkpoint": 0,
        "choices": dict(request.chosen),
        "overrides": [word for word in request.overrides if not word.startswith("+peer.")],
        "imported": {
            "file": str(asked.file.absolute()),
            "sha256": _sha256(asked.file),
            **foreign.about,
            **({} if asked.data else {WITHOUT_DATA: config["dataset"]["path"]}),
        },
    }
    try:
        home = run.create(request.directory, config, **facts)
        numbers = recorded(home, parts.data, None) | ({} if asked.data else {"data": None})
        checkpoint.save(home.checkpoints, 0, state.tensors(), numbers)
    except OSError as error:
        raise RunError(f"{request.directory}: {of_file(error)}; {advice(error)}, then import it again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _said(directory: Path, state: TrainState, of: tuple[Peer, Foreign], choice: Choice) -> list[str]:
    """What was read, and what can be done with it."""
    asked, foreign = of
    count = sum(parameter.numel() for parameter in state.model.parameters())
    about = ", ".join(f"{key} {value}" for key, value in foreign.about.items())
    home = quote(str(directory))
    known = in_words(state.model.space)
    lines = [f"{foreign.model['name']} with {count} parameters on {known} rows, from {asked.file} ({about})"]
    data = "" if asked.data else " dataset.path=DATA"
    by = " ".join(f"{group}={choice[group]}" for group in ("objective", "sampler", "chains"))
    lines.append(
        f"trained on from here by {by}, whatever made it: ebm train resume={home}{data} (import it with others to "
        "change that)"
    )
    lines += _few_couplings(state)
    lines.append(f"bracket its log-likelihood: ebm evaluate run={home} evaluation=[ais,bridge]{data}")
    return [*lines, f"run directory {directory}"]


def _few_couplings(state: TrainState) -> list[str]:
    """How many couplings there are, of a model that lacks some, and what training makes of the others."""
    model = state.model
    if not isinstance(model, Quadratic) or not model.couplings:
        return []
    name = model.couplings[0]
    possible = model.entries(name)
    there, all_of_them = int((model.get_parameter(name)[possible] != 0).sum()), int(possible.sum())
    if there > _MOST_ARE_THERE * all_of_them:
        return []
    rest = "the others stay 0 until some are added" if state.sparsity else "trained on, the others move too"
    more = "" if state.sparsity else "; import it with sparsity=activate or sparsity=prune for those alone"
    return [f"{there} of its {all_of_them} couplings are not 0; {rest}{more}"]
