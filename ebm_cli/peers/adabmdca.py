"""Parameters of adabmDCA (params.dat): lines `J i j A B value` and `h i A value`.

E(x) = -sum_i h_i(x_i) - sum_{i<j} J_ij(x_i, x_j). Positions count from 0. States are letters or, in its old format,
numbers. Couplings that are not there are 0.
"""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ebm_cli.device import memory
from ebm_cli.errors import UserError
from ebm_cli.peers.foreign import Array, Foreign, Source, check_finite, others_that_hold, single
from ebm_cli.space import Categorical

ALPHABETS = ("-ACDEFGHIKLMNPQRSTVWY", "-ACGU", "-ACGT")
"""Of protein, RNA and DNA, in the order in which adabmDCA numbers their letters."""

_FIELDS = {"J": 6, "h": 4}
_WAY = "write J i j A B value and h i A value, positions from 0, as adabmDCA does"


@dataclass
class _Records:
    """Positions, states and values of all lines of one kind."""

    positions: "array[int]" = field(default_factory=lambda: array("q"))
    states: list[str] = field(default_factory=list)
    values: "array[float]" = field(default_factory=lambda: array("d"))


def read(source: Source, letters: str | None) -> Foreign:
    """The Potts model of a file; `letters` are its alphabet in its order (None: as the file has it).

    Raises UserError with the line of the first thing wrong.
    """
    if source.checkpoint is not None:
        raise UserError(f"checkpoint = {source.checkpoint}: {source.said} holds one model; leave it out")
    found = {"J": _Records(), "h": _Records()}
    for number, kind, words in _lines(source):
        _take(found[kind], words, source.said, number)
    if not found["h"].values:
        raise UserError(f"{source.said}: has no line h i A value, so the number of sites is not known; {_WAY}")
    alphabet = _alphabet(found, letters, source.said)
    sites, values = _sites(found, source.said), len(alphabet)
    pairs = sites * (sites - 1) // 2
    memory.check_room(4 * 8 * (pairs + sites) * values**2, source.said)
    J, both = _couplings(found["J"], sites, alphabet, source.said)
    fields = _fields(found["h"], sites, alphabet)
    check_finite(source.said, J=J, h=fields)
    remarks = _remarks(J, both, source.said)
    known = "" if alphabet[0] == "0" and alphabet[-1] == str(values - 1) else "".join(alphabet)
    weights = {"J": single(J), "h": single(fields)}
    about = {"format": "adabmdca"}
    model = {"name": "potts", "graph": "complete"}
    return Foreign(model, weights, Categorical((sites, values)), about, letters=known, remarks=remarks)


def _lines(source: Source) -> Iterator[tuple[int, str, list[str]]]:
    """Number, kind and words of every line that says anything."""
    try:
        with source.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                words = line.split()
                if not words or words[0].startswith("#"):
                    continue
                if len(words) != _FIELDS.get(words[0], 0):
                    shown = line.strip()[:40]
                    raise UserError(f"{source.said}, line {number}: {shown!r} is no line of parameters; {_WAY}")
                yield number, words[0], words[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source.said}: cannot be read as text ({error}); {_WAY}") from error


def _take(records: _Records, words: list[str], said: str, line: int) -> None:
    count = (len(words) - 1) // 2
    places = [_position(word, said, line) for word in words[:count]]
    if count > 1 and places[0] == places[1]:
        raise UserError(f"{said}, line {line}: couples site {places[0]} to itself; write it as a field, h i A value")
    records.positions.extend(places)
    records.states.extend(words[count:-1])
    records.values.append(_value(words[-1], said, line))


def _position(word: str, said: str, line: int) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        raise UserError(f"{said}, line {line}: {word!r} is no position; they are whole numbers from 0")
    return int(word)


def _value(word: str, said: str, line: int) -> float:
    try:
        value = float(word.replace("_", "?"))
    except ValueError as error:
        way = "write decimals with a point" if "," in word else "write a number"
        raise UserError(f"{said}, line {line}: {word!r} is no number; {way}") from error
    if not math.isfinite(value):
        raise UserError(f"{said}, line {line}: {word} is not finite; train it again, or take an earlier checkpoint")
    return value


def _alphabet(found: dict[str, _Records], letters: str | None, said: str) -> list[str]:
    """States in the order of their numbers. Raises UserError for one that the alphabet lacks."""
    there = dict.fromkeys([*found["h"].states, *found["J"].states])
    if letters is not None:
        strange = next((state for state in there if state not in [*letters]), None)
        if strange is not None:
            raise UserError(f"dataset.alphabet = {letters}: {said} has the state {strange!r}; give all its letters")
        return [*letters]
    if all(state.isascii() and state.isdigit() for state in there):
        top = max(map(int, there))
        if top >= 256 or len(there) < 2:
            raise UserError(f"{said}: has states from 0 to {top}; there are 2 to 256, numbered from 0")
        return [*map(str, range(top + 1))]
    long = next((state for state in there if len(state) > 1), None)
    if long is not None or len(there) < 2:
        raise UserError(
            f"{said}: {long or next(iter(there))!r} is no state among others; states are single letters, or numbers"
        )
    return next(([*known] for known in ALPHABETS if {*known} == {*there}), [*there])


def _sites(found: dict[str, _Records], said: str) -> int:
    """Their number. Raises UserError for a site without a field, so that a file is as large as its model has sites."""
    named = np.unique(np.array(found["h"].positions))
    top = max(int(named[-1]), max(found["J"].positions, default=0))
    if len(named) <= top:
        lost = int(np.setdiff1d(np.arange(len(named) + 1), named)[0])
        raise UserError(f"{said}: site {lost} has no line h {lost} A value, and {top} is the last site; {_WAY}")
    if top < 1:
        raise UserError(f"{said}: has one site alone; couplings need two at least")
    return top + 1


def _couplings(records: _Records, sites: int, alphabet: list[str], said: str) -> tuple[Array, bool]:
    """J_ij of every pair i < j, (pairs, K, K), and whether both J i j and J j i of a pair are there.

    Of a record that is there twice the last counts; those of i < j and j < i add up. So does adabmDCA.
    """
    number, K = {state: i for i, state in enumerate(alphabet)}, len(alphabet)
    i, j = np.array(records.positions, np.int64).reshape(-1, 2).T
    a, b = np.array([number[state] for state in records.states], np.int64).reshape(-1, 2).T
    found = np.zeros((2, sites * (sites - 1) // 2, K, K))
    swapped = i > j
    low, high = np.minimum(i, j), np.maximum(i, j)
    pair = low * sites - low * (low + 1) // 2 + high - low - 1
    first, second = np.where(swapped, b, a), np.where(swapped, a, b)
    found[swapped.astype(np.int64), pair, first, second] = np.array(records.values)
    return found.sum(0), bool(swapped.any() and not swapped.all())


def _fields(records: _Records, sites: int, alphabet: list[str]) -> Array:
    number = {state: i for i, state in enumerate(alphabet)}
    found = np.zeros((sites, len(alphabet)))
    states = [number[state] for state in records.states]
    found[np.array(records.positions), np.array(states)] = np.array(records.values)
    return found


def _remarks(J: Array, both: bool, said: str) -> tuple[str, ...]:
    empty = int((J == 0).all((1, 2)).sum())
    remarks = [f"{said}: {empty} of {len(J)} pairs have no coupling; theirs are 0"] if empty else []
    if both:
        remarks.append(f"{said}: has J i j as well as J j i; adabmDCA adds them up, and so it is here")
    return tuple(remarks)


def content(model: Foreign) -> bytes:
    """params.dat of a Potts model; pairs whose couplings are all 0 are left out. Raises UserError for another model."""
    if model.model["name"] != "potts":
        name, way = model.model["name"], others_that_hold(model)
        raise UserError(f"format = adabmdca: holds Potts models, and no {name}; {way}")
    check_letters(model, "adabmdca")
    lines, letters = list[str](), model.letters
    for (i, j), block in zip(model.weights["edges"].tolist(), model.weights["J"].numpy(), strict=True):
        if block.any():
            rows = zip(letters, block, strict=True)
            lines += [f"J {i} {j} {a} {b} {value!s}" for a, row in rows for b, value in zip(letters, row, strict=True)]
    for i, row in enumerate(model.weights["h"].numpy()):
        lines += [f"h {i} {a} {value!s}" for a, value in zip(letters, row, strict=True)]
    return ("\n".join(lines) + "\n").encode()


def check_letters(model: Foreign, form: str) -> None:
    """Raise UserError where categories are not written as letters."""
    if not isinstance(model.space, Categorical):
        rows, way = model.space.name, others_that_hold(model)
        raise UserError(f"format = {form}: is for categories, the model takes {rows} rows; {way}")
    if len(model.letters) != model.space.values or len({*model.letters}) != model.space.values:
        raise UserError(
            f"format = {form}: the run's {model.space.values} categories have the letters "
            f"{model.letters or 'none'}; give one for each, in their order, letters=STRING"
        )
