"""`ebm sample`: draw from a trained model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor

from ebm_cli.commands import auto_steps, between, documents, given_rows, policies, results, sequences, tables
from ebm_cli.commands.between import Way
from ebm_cli.commands.configuration import checked
from ebm_cli.commands.given_rows import Filled
from ebm_cli.commands.labels import of_label
from ebm_cli.commands.session import accelerated
from ebm_cli.commands.trained import Trained, Wanted, its_data, open_trained
from ebm_cli.dataset.columns import Columns
from ebm_cli.device.engine import Work
from ebm_cli.device.memory import watched
from ebm_cli.errors import RunError, UserError
from ebm_cli.evaluation.base import Picture, Subject
from ebm_cli.evaluation.laid import laid
from ebm_cli.evaluation.samples import draw, points, sampled_exactly
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.policy import PolicyModel
from ebm_cli.model.replicated_softmax import ReplicatedSoftmax
from ebm_cli.record import picture
from ebm_cli.record.run import Run
from ebm_cli.rng import stream
from ebm_cli.sampler.remarks import remarks_on
from ebm_cli.sampler.standstill import lost, stuck
from ebm_cli.sampler.trajectory import Laid, TrajectoryTempering
from ebm_cli.signals import finishing
from ebm_cli.space import Categorical, Counts, Space, Words
from ebm_cli.terminal import log, logging_to, output
from ebm_cli.training import passed
from ebm_cli.yardstick.statistics import Against, shown_by_statistics

_TYPES: dict[str, type] = {
    "binary": np.uint8,
    "spin": np.int8,
    "categorical": np.uint8,
    "mixed": np.float64,
    "words": np.int32,
    "counts": np.int32,
}  # written, by the space
_BYTE = 2**8
_TEXTS = {"words": "words.txt", "counts": "documents.txt"}
_OF_WEIGHTS = (
    "the run's chains have weights, since chains do not cross between its modes: those from noise may come to them in "
    "other shares than the model's; start=chains draws from the run's own, by their weights"
)
_FEW = 100  # steps, the first half of which says something of a step size
_SHOWN, _WIDTH = 5, 120  # samples printed, and their characters


def _as_words(given: object) -> object:
    """Words may be numbers, which the command line reads as such."""
    if given == "":
        raise ValueError("must be a file of rows, or words of documents, [WORD,...]")
    return [str(word) for word in given] if isinstance(given, list) else given


def _or_auto(steps: object) -> object:
    """A number of steps, or None for auto."""
    if steps is None or (isinstance(steps, str) and steps != "auto"):
        raise ValueError("must be a number, or auto")
    return None if steps == "auto" else steps


_Given = list[str] | Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How samples are drawn."""

    n: Annotated[int, Field(ge=1)]
    steps: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_or_auto)]  # None: auto
    max_steps: Annotated[int, Field(ge=1, le=10**7)] | None  # of auto: the longest mixing time that is looked for
    start: Literal["noise", "chains"]
    length: Annotated[int, Field(ge=1, le=2**20)] | None
    label: Annotated[int, Field(ge=0)] | None  # of classifiers
    given: Annotated[_Given, BeforeValidator(_as_words)]  # words of documents, or a file of rows
    seed: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Settings(Drawing):
    """The keys of `ebm sample` beside its groups."""

    run: Annotated[str, Field(min_length=1)]
    checkpoint: str  # last, best or a step
    between: Annotated[str, Field(min_length=1)] | None  # of codes: test, samples or a file of rows
    frames: Annotated[int, Field(ge=2)] | None  # of between; None: 11
    way: Way | None  # of between; None: straight
    array: Annotated[str, Field(min_length=1)] | None  # of a file of rows
    format: tables.Format  # of tables
    out: Annotated[str, Field(min_length=1)] | None  # a new folder for the samples; None: samples/<time> of the run
    plugins: list[str]


class Drawn(NamedTuple):
    """Samples x (n, *shape) in the space of the run, the step size that was found, and how they were drawn, in words.

    Of documents also the vocabulary, the counts of the given words, (K,), and lines on the words that come next.
    """

    x: Tensor
    scale: dict[str, float]
    way: str
    words: tuple[str, ...]
    given: Tensor | None
    likely: list[str]


@watched(torch.device("cpu"))
def sample(config: Mapping[str, Any]) -> int:
    """Run n chains, write `samples/<time>/samples.npz` with a picture or text beside it; the exit code."""
    settings = {key: value for key, value in config.items() if key not in ("sampler", "device", "model")}
    asked = checked(Settings, settings | {"checkpoint": str(config["checkpoint"])})
    _check_used(asked)
    with logging_to(None), results.folder(Path(asked.run), "samples", asked.out) as home:
        by_policy = policies.asked_for(config, asked.given)
        anew = {group: config.get(group) for group in (("model",) if by_policy else ("sampler", "model"))}
        wanted = Wanted(Path(asked.run), asked.checkpoint, config["device"], plugins=asked.plugins, **anew)
        trained = open_trained(wanted, with_data=by_policy)
        if asked.between is not None:
            return _between(trained, home, asked, asked.between, config)
        if isinstance(asked.given, str):
            return _fill(trained, home, asked, asked.given, config)
        columns = tables.columns_of(trained)
        found, space = drawn(trained, asked, asked.given, config), trained.parts.data.space
        texts = _texts(space, found) if found.words else sequences.files(trained, found.x)
        images = {} if asked.given else _pictures(trained, found.x)
        finishing()
        home.write_all("", images, texts)
        file = _written(home, space, found)
        more = found.likely if columns is None else _as_table(home, space, found.x, columns, asked.format)
    _show(f"{_count(asked.n, 'sample')}{found.way}", file, [*images], texts)
    for line in more:
        output.print(line, highlight=False, soft_wrap=True)
    return 0


def _check_used(asked: Settings) -> None:
    """Raise UserError for a key that was typed and has no effect."""
    if asked.max_steps is not None and asked.steps is not None:
        raise UserError(
            f"max_steps = {asked.max_steps}: has no effect on a number of steps; take steps=auto, or leave it out"
        )
    others = {"given": bool(asked.given), "label": asked.label is not None, "length": asked.length is not None}
    _asked_between(asked).check(others)


def _asked_between(asked: Settings) -> between.Asked:
    return between.Asked(asked.between, asked.frames, asked.way)


def drawn(trained: Trained, asked: Drawing, named: list[str], config: Mapping[str, Any]) -> Drawn:
    """n samples of the run's model, of documents with the words that are `named`; `config` has the group `device`.

    Raises RunError if a chain is lost.
    """
    state = trained.state
    documents.check_keys(asked.length, named, asked.start, state.model)
    words = _words(trained, named)
    by_policy = policies.asked_for(config, named)
    model, given, likely = policies.model(state) if by_policy else state.averaged_model(), None, list[str]()
    if isinstance(model, ReplicatedSoftmax):
        given = documents.counts(named, words, model)
        likely = documents.next_words(model, given, words) if named else []
        model = documents.conditional(model, given, asked.length)
    subject = _subject(trained, of_label(model, asked.label), asked, config, rows=1)
    if state.weighted is not None and asked.start == "noise" and subject.sampler.replicas == 1:
        log.warning("%s", _OF_WEIGHTS)
    taken = auto_steps.taken(subject, asked.steps, asked.start, asked.max_steps or auto_steps.MOST)
    x, scale = _drawn(taken.subject, asked, taken.steps)
    x = (x if given is None else x + given).cpu()
    return Drawn(x, scale | taken.found, _way(subject, asked.start, taken), words, given, likely)


def _fill(trained: Trained, home: Run, asked: Settings, path: str, config: Mapping[str, Any]) -> int:
    """What `given=FILE` lacks drawn by n chains for each row; the exit code."""
    given_rows.keys_apart(path, asked.start, asked.length, asked.label)
    model = trained.state.averaged_model()
    rows = given_rows.read(trained, model, trained.parts.components.sampler, path, asked.array)
    found = filled(trained, model, rows, asked, config)
    finishing()
    files = given_rows.written(home, found, asked.format, sequences.letters(trained))
    texts = sequences.of_filled(trained, found)
    home.write_all("", {}, texts)
    output.print(given_rows.said(found, asked.n), highlight=False, soft_wrap=True)
    for name, what in files.items():
        output.print(f"{what}: {home.path / name}", soft_wrap=True)
    for name in texts:
        output.print(f"sequences: {home.path / name}", soft_wrap=True)
    return 0


def _between(trained: Trained, home: Run, asked: Settings, ends: str, config: Mapping[str, Any]) -> int:
    """From code to code of pairs of rows, those that `ends` names; the exit code."""
    model = between.of_codes(trained.state.averaged_model(), ends)
    if ends == between.SAMPLES:
        rows = drawn(trained, replace(asked, n=2 * asked.n), [], config).x
    else:
        rows = between.rows(trained, ends, asked.array, asked.n, asked.seed)
    found = between.course(model, rows, _asked_between(asked))
    finishing()
    file, images = between.written(home, trained.parts.data.space, found)
    output.print(between.said(found), highlight=False, soft_wrap=True)
    _show(f"{_count(len(found.rows), 'pair')} of rows", file, images, {})
    output.print(f"energies: {file.with_name('between.csv')}", soft_wrap=True)
    return 0


def filled(
    trained: Trained, model: EnergyModel, rows: given_rows.Asked, asked: Drawing, config: Mapping[str, Any]
) -> Filled:
    """What rows lack drawn by n chains for each; `config` has the group `device`."""
    if asked.steps is None:
        raise UserError(
            "steps = auto: measures chains of whole configurations, what each given row lacks mixes in a time of its "
            "own; give a number, and look at R-hat"
        )
    kind = _type(model.space)
    given_rows.check_memory(rows, asked.n, kind)
    subject = _subject(trained, model, asked, config, rows=len(rows.known))
    for remark in remarks_on(subject.sampler, model):
        log.warning("%s", remark)
    return given_rows.drawn(subject, rows, asked.n, asked.steps, kind)


def _pictures(trained: Trained, x: Tensor) -> dict[str, Picture]:
    """A grid of samples x (n, *shape), or what they are beside the data of the run, if these can be read."""
    space = trained.parts.data.space
    if not shown_by_statistics(space):
        return {"grid": picture.grid(space, x)} if space.pictured else {}
    try:
        data = its_data(trained)
        scattered = {} if data.truth.plane is None else {"points": points(data, x)}
        return {**scattered, "statistics": Against(data).picture(x)}
    except (UserError, RunError) as error:
        log.warning("no picture of samples against the data: %s", error)
        return {}


def _words(trained: Trained, given: list[str]) -> tuple[str, ...]:
    """The run's vocabulary; none where its data are no words, or with a warning where it cannot be read."""
    space = trained.parts.data.space
    if not isinstance(space, Words | Counts):
        return ()
    try:
        return documents.vocabulary(trained.run, space)
    except UserError as error:
        if given:
            raise
        log.warning("%s; samples are written as numbers alone", error)
        return ()


def _texts(space: Space, found: Drawn) -> dict[str, str]:
    """The samples as lines of text, by the name of the file."""
    lines = documents.lines(space, found.x, found.words, None if found.given is None else found.given.cpu())
    return {_TEXTS[space.name]: "\n".join(lines) + "\n"} if lines else {}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _way(subject: Subject, start: str, taken: auto_steps.Taken) -> str:
    """How the samples were drawn, in words."""
    if sampled_exactly(subject, start) is not None:
        policy = isinstance(subject.model, PolicyModel)
        return ", independent draws of the policy" if policy else ", drawn exactly, without steps"
    return f" after {_count(taken.steps, 'step')}{taken.why}"


def _subject(trained: Trained, model: EnergyModel, asked: Drawing, config: Mapping[str, Any], *, rows: int) -> Subject:
    """What is sampled, by which sampler, from which key, by n chains for each of so many rows."""
    sampler, key = documents.moving(trained.parts.components.sampler), stream(asked.seed, "sample", trained.state.step)
    subject = Subject(model, trained.parts.data, "test", sampler, trained.state.chains(), key)
    if asked.steps is None:
        auto_steps.check(subject, asked.start)
    steps = asked.steps or auto_steps.USUAL
    parts, _, said = accelerated(
        trained.parts, trained.state, config, [Work(rows * asked.n * steps, steps)], evaluating=True
    )
    subject = _along(trained, replace(subject, data=parts.data, device=parts.device))
    log.info("%s at step %d; %s", trained.run.path, trained.state.step, said)
    return subject


def _along(trained: Trained, subject: Subject) -> Subject:
    """With its checkpoints as rungs, where the sampler exchanges along them."""
    if not isinstance(subject.sampler, TrajectoryTempering):
        return subject
    about = replace(subject, data=its_data(trained), passed=partial(passed.models, trained.run, trained.state))
    return replace(subject, sampler=laid(subject.sampler, about))


def _drawn(subject: Subject, asked: Drawing, steps: int) -> tuple[Tensor, dict[str, float]]:
    """Where chains are after their steps, (n, *shape), and the step size that was found. Raises RunError if lost."""
    sampler = subject.sampler
    if sampled_exactly(subject, asked.start) is None:
        _doubt_start(subject, asked, steps)
    hurried = sampler.hurried(steps) if isinstance(sampler, Laid) else None
    if hurried:
        log.warning("%s", hurried)
    x, scale = draw(subject, asked.n, steps, asked.start)
    away = lost(x)
    if away:
        raise RunError(f"{away}; nothing was written")
    for sentence in stuck(scale, sampler):
        log.warning("%s", sentence)
    scale.pop("acceptance", None)
    for name, value in scale.items():
        log.info("sampler.%s = %.4g, found in the first half of the steps", name, value)
    if scale and asked.steps is not None and steps < _FEW:
        log.warning("steps = %d: the first half of them is too short to find that; take %d or more", steps, _FEW)
    return x, scale


def _doubt_start(subject: Subject, asked: Drawing, steps: int) -> None:
    """Warn of chains that the run does not keep, and of what its sampler has to remark."""
    kept = len(subject.store)
    if asked.start == "chains" and kept < asked.n:
        others = f"the other {asked.n - kept}" if kept else f"all {asked.n}"
        log.warning("the run keeps %s chains; %s start from noise", kept or "no", others)
    for remark in remarks_on(subject.sampler, subject.model):
        log.warning("%s", remark)
    short = subject.sampler.too_few(subject.model, steps)
    if short:
        log.warning("steps = %d: %s", steps, short)


def _show(said: str, file: Path, images: list[str], texts: Mapping[str, str]) -> None:
    """What there is, where to look, and of samples that are words the first ones."""
    output.print(f"{said}: {file}", soft_wrap=True)
    for name in images:
        output.print(f"picture: {file.with_name(f'{name}.png')}", soft_wrap=True)
    for name, text in texts.items():
        output.print(f"text: {file.with_name(name)}", soft_wrap=True)
        for line in text.splitlines()[:_SHOWN]:
            short = line if len(line) <= _WIDTH else line[: line.rindex(" ", 0, _WIDTH)] + " ..."
            output.print(f"  {short}", highlight=False, soft_wrap=True)


def as_data(space: Space, x: Tensor) -> NDArray[Any]:
    """Samples x (n, *shape) as the data of the run are written, (n, *site_shape)."""
    values: NDArray[Any] = space.as_data(x).numpy().astype(_type(space))
    return values


def _type(space: Space) -> type:
    """What values are written as: a byte where their numbers fit into it."""
    large = isinstance(space, Categorical) and space.values > _BYTE
    return np.int32 if large else _TYPES.get(space.name, np.float32)


def _as_table(home: Run, space: Space, x: Tensor, columns: Columns, form: tables.Format) -> list[str]:
    """Where the samples are with the names and types of the columns that the run was trained on, in a line."""
    values = as_data(space, x).reshape(len(x), -1)
    return [f"table: {tables.written(home, 'samples', tables.frame(values, columns), form)}"]


def _written(home: Run, space: Space, found: Drawn) -> Path:
    """samples.npz."""
    return home.write_npz("samples.npz", {"samples": as_data(space, found.x), **found.scale})
