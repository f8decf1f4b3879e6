"""A trained run as an object: what `ebm score`, `ebm transform` and `ebm sample` do, on arrays."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from ebm_cli.api import frames, rows
from ebm_cli.api.pictures import Pictures, pictures_of
from ebm_cli.api.process import computing
from ebm_cli.api.table import metrics
from ebm_cli.commands import between, given_rows, own, report, tables, transform
from ebm_cli.commands.between import Way
from ebm_cli.commands.configuration import checked
from ebm_cli.commands.given_rows import Filled
from ebm_cli.commands.sample import Drawing, as_data, drawn, filled
from ebm_cli.commands.score import LogLikelihood, Scoring, scoring
from ebm_cli.commands.trained import Trained
from ebm_cli.dataset.base import Split
from ebm_cli.dataset.table_rows import TableRows
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Imputed:
    """Rows with what was missing drawn.

    `filled` (rows, *shape) has one value for each, the mode of sites with finitely many values, else the mean;
    `samples` (rows, n, *shape) is where each chain ended; `missing` (rows, *shape) says which values were drawn, and
    `cells` has a line on each of them: row and value, from 1, mean, mode, quantiles and R-hat. Of a run on a table
    `filled` and `cells` are data frames, in which categories have their names; in `samples` they are numbers from 0 in
    the order of columns.json.
    """

    filled: Any
    samples: Any
    missing: NDArray[np.bool_]
    cells: Any

    @override
    def __repr__(self) -> str:
        """How much was drawn, and how well."""
        r_hat = np.asarray(self.cells["r_hat"], np.float64)
        worst = np.nanmax(r_hat) if np.isfinite(r_hat).any() else float("nan")
        return f"Imputed({len(self.cells)} values of {len(self.missing)} rows, R-hat at most {worst:.3f})"


class Between(NamedTuple):
    """Ways from code to code: what codes decode to, `samples` (pairs, frames, *shape), in the units of the data, E of
    each code in nats, `energy` (pairs, frames), and the `codes` (pairs, frames, dim)."""

    samples: Any
    energy: Any
    codes: Any


class TrainedRun:
    """A run with the weights of one of its checkpoints.

    Rows x are numpy arrays, tensors, data frames or lists (n, *shape), or the path of a file that `ebm score` takes; of
    runs on a table data frames go by the names of their columns, and samples are data frames.
    They are read, checked and scaled as the run's own data were, so they are in the units of the data. What comes back
    is a tensor where x is one, else a numpy array; energies and log-likelihoods are float64, in nats.
    """

    def __init__(self, trained: Trained, device: Mapping[str, Any]) -> None:
        self._trained = trained
        self._device = device
        self._by: Scoring | None = None
        model = trained.state.averaged_model()
        self.model: EnergyModel = model.requires_grad_(requires_grad=False)
        """The torch module: `model.W` is a parameter, `model.energy(run.rows(x))` differentiable in the rows."""

    @property
    def path(self) -> Path:
        """Its directory."""
        return self._trained.run.path

    @property
    def step(self) -> int:
        """That of the checkpoint."""
        return self._trained.state.step

    @property
    def config(self) -> dict[str, Any]:
        """Every key, as in config.yaml."""
        return dict(self._trained.config)

    @property
    def summary(self) -> dict[str, Any]:
        """What was measured at the end, by name, as in summary.json; empty before."""
        return self._trained.run.read_json("summary.json")

    def rows(self, x: Any) -> Tensor:
        """x as the model takes it, (n, *model.space.shape) on its device."""
        with self._computing():
            return self._split(x).all()

    def energy(self, x: Any) -> Any:
        """E(x), (n,): p(x) = exp(-E(x)) / Z; of models with hidden units the free energy."""
        with self._computing():
            return rows.like(x, self._scoring().energy(self._split(x)))

    def log_likelihood(self, x: Any) -> LogLikelihood:
        """log p(x) = -E(x) - log Z of each row: `value`, `low` and `high` (n,), `exact`, and `said`, what it rests on.

        Where log Z is a sum of few terms, or known, it is exact and the ends are the value. Else log Z and its ends
        are those of the newest evaluation of the run at this step. Raises UserError where there is none:
        `ebm.evaluate(run, ["ais"])` makes one.
        """
        with self._computing():
            by = self._scoring()
            found = by.log_likelihood(self._split(x))
        if found is None:
            raise UserError(f'{by.no_log_z()}; from Python: ebm.evaluate(run, ["ais"])')
        value = rows.like(x, found.value)
        if found.exact:
            return LogLikelihood(value, value, value, found.said, exact=True)
        return found._replace(value=value, low=rows.like(x, found.low), high=rows.like(x, found.high))

    def pseudo_log_likelihood(self, x: Any) -> Any:
        """sum_i log p(x_i | the others), (n,), of sites with finitely many values. Raises UserError for others."""
        with self._computing():
            found = self._scoring().log_pseudo_likelihood(self._split(x))
        if found is None:
            raise UserError(
                f"pseudo_log_likelihood: is of sites with finitely many values, those of {self.path} are "
                f"{self.model.space.name}; energy(x) and log_likelihood(x) are of any"
            )
        return rows.like(x, found)

    def features(self, x: Any, name: str | None = None) -> Any:
        """What the model makes of x on the way to its energy, (n, numbers): hidden activities, penultimate layers.

        Of models with several kinds of them all side by side, or the one that is named (docs/rows.md lists them).
        Raises UserError for a model without.
        """
        with self._computing(), torch.no_grad():
            transform.check_features(self.model, self._trained)
            found = transform.features(self.model, self._split(x))
        if name is not None and name not in found:
            raise UserError(f"name = {name}: this model has {', '.join(found)}")
        return rows.like(x, np.concatenate([*found.values()], 1) if name is None else found[name])

    def sample(  # noqa: PLR0913 (one for each key of the command)
        self,
        n: int = 64,
        steps: int | Literal["auto"] = 1000,
        given: Any = None,
        *,
        max_steps: int = 10_000,
        seed: int = 0,
        start: Literal["noise", "chains"] = "noise",
        length: int | None = None,
        label: int | None = None,
    ) -> Any:
        """n samples (n, *shape) in the units of the data, as `ebm sample` draws them: equal for equal arguments.

        With steps="auto" they take twice the mixing time of the model and sampler, which is measured first and looked
        for up to `max_steps`; a warning says so where chains do not mix in these.

        With rows `given`, what they lack (NaN, -1 among whole numbers from 0, masked) is drawn by n chains for each:
        (rows, n, *shape). Of models of documents `given` may be a list of words, and `length` says how many they have.
        Of models of rows and their classes all samples are of the class `label`.
        """
        words = given if isinstance(given, list) and given and all(isinstance(one, str) for one in given) else []
        if given is not None and not words:
            given_rows.keys_apart("rows", start, length, label)
            return self._imputed(given, n, steps, seed).samples
        named = {"given": words, "start": start, "length": length, "label": label}
        asked = _asked(n=n, steps=steps, max_steps=max_steps, seed=seed, **named)
        with self._computing():
            found = drawn(self._trained, asked, words, {"device": self._device})
            values = as_data(self._trained.parts.data.space, found.x)
            columns = tables.columns_of(self._trained)
        return values if columns is None else frames.like(None, tables.frame(values.reshape(len(values), -1), columns))

    def impute(self, x: Any, n: int = 64, steps: int = 1000, *, seed: int = 0) -> Imputed:
        """What rows lack (NaN, -1 among whole numbers from 0, masked) drawn from p(missing | the rest) by n chains."""
        return self._imputed(x, n, steps, seed)

    def _imputed(self, x: Any, n: int, steps: int | Literal["auto"], seed: int) -> Imputed:
        asked = _asked(n=n, steps=steps, max_steps=1, start="noise", length=None, label=None, given=[], seed=seed)
        with self._computing():
            lacking = given_rows.taken(self._trained, rows.read(self._trained, x, gaps=True), rows.SAID)
            found = filled(self._trained, self.model, lacking, asked, {"device": self._device})
            given_rows.said(found, n)
        samples, missing = rows.like(x, found.samples), found.own.missing
        if isinstance(found.own, TableRows):
            whole, cells = _tables_of(x, found.own, found)
            return Imputed(whole, samples, missing, cells)
        return Imputed(rows.like(x, found.filled), samples, missing, given_rows.lines(found))

    def between(self, x: Any, frames: int = 11, way: Way = "straight") -> Between:
        """From the code of each first of two rows x (2 pairs, *shape) to that of the second, of models with codes.

        `way` straight is a line, string goes through codes of low energy; `frames` count both ends. Raises UserError.
        """
        own = between.of_codes(self.model, rows.SAID)
        if frames < 2:
            raise UserError(f"frames = {frames}: must be 2 at least, for both ends count")
        if way not in get_args(Way):
            raise UserError(f"way = {way}: must be {' or '.join(get_args(Way))}")
        with self._computing():
            pairs = self._split(x).all()
            if len(pairs) % 2:
                raise UserError(f"{rows.SAID}: has {len(pairs)} rows, which go in pairs; add one, or leave one out")
            found = between.course(own, pairs, between.Asked(rows.SAID, frames, way))
            values = self._trained.parts.data.space.as_data(found.decoded.flatten(0, 1)).unflatten(0, (-1, frames))
        return Between(*(rows.like(x, part.numpy()) for part in (values, found.energy, found.codes)))

    def metrics(self) -> "pd.DataFrame":
        """What was logged while it trained: a line for each step, a column for each metric."""
        return metrics(self._trained.run)

    def pictures(self) -> Pictures:
        """The pictures of the run by name, as arrays; a notebook shows them."""
        return pictures_of(self._trained.run)

    def _computing(self) -> Any:
        """Within, this process has the run's own number of threads and its arithmetic."""
        return computing(self._trained.parts.device)

    def _scoring(self) -> Scoring:
        self._by = self._by or scoring(self._trained)
        return self._by

    def _split(self, x: Any) -> Split:
        """x, of which nothing may be missing."""
        own_rows, (split, _) = rows.read(self._trained, x, gaps=False)
        own.check_all_there(own_rows, rows.SAID, "run.impute(x)")
        return split.to(self._trained.parts.device.torch)

    @override
    def __repr__(self) -> str:
        """Where it is, what it is and how far it is trained."""
        choice = self._trained.choice
        return f"TrainedRun({str(self.path)!r}: {choice['model']} on {choice['dataset']}, step {self.step})"

    def _repr_html_(self) -> str:
        """What a notebook shows: what was measured, and its last pictures."""
        said = report.rows(self.summary, "test") if self.summary else {}
        lines = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in said.items())
        return f"<p><code>{html.escape(repr(self))}</code></p><table>{lines}</table>{self.pictures()._repr_html_()}"


def _tables_of(x: Any, own: TableRows, found: Filled) -> tuple[Any, Any]:
    """The table with its gaps filled, all other columns and the index as they are, and a line on each gap."""
    filled = tables.filled(own, found.filled.reshape(len(found.filled), -1))
    return frames.filled(x, filled), frames.like(x, given_rows.described(own, found))


def _asked(**keys: Any) -> Drawing:
    """The arguments, checked as the command's keys are."""
    return checked(Drawing, {key: _plain(value) for key, value in keys.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
