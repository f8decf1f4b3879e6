"""Other data against held-out rows: does the model tell them apart?"""

import math
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Annotated, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import registry, rng
from ebm_cli.dataset.base import Data
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Evaluation, Result, Subject, some_rows
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Box, Real, Space

MADE = ("noise", "shuffled", "constant")
_ROWS_AT_ONCE = 1000

Scores = dict[str, Tensor]  # (rows,) by name, each high for what the model takes for data


@register("evaluation", "ood")
class OutOfDistribution(Evaluation):
    """P(score of a held-out row > score of another row), ties counted half: the area under the ROC curve, AUROC.

    0.5 is guessing, 1 perfect, below 0.5 the others look more like data than the data. Scores: `energy`, -E(x), the
    log-density up to a constant, -inf where there is no density; of real values also `gradient`, -|dE/dx| (Grathwohl
    et al. 2020, sect. 5.3), high where the density is flat, unless rows of either side have no density.

    `datasets`: noise, as chains without a past start; shuffled, the held-out rows with their sites in one random order;
    constant, rows with one value at all sites, the value drawn as noise is; and names of shipped data sets with their
    default keys, their values brought to the model's space as the run's own are, which must have the same shape. At
    most `rows` of the held-out rows and of the test rows of each. They are read from `root` (null: as dataset.root).
    """

    while_training: bool
    datasets: Annotated[list[str], Field(min_length=1)]
    root: str | None
    rows: Annotated[int, Field(ge=1)]

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Each data set must be there, with rows that the model takes."""
        for name in self.datasets:
            if name in MADE:
                continue
            try:
                self._load(name, model.space, {})
            except UserError as error:
                return f"datasets has {name}: {str(error).replace('dataset.root', 'evaluation.ood.root')}"
        return None

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`ood/<dataset>/energy`, `ood/<dataset>/gradient`, and the distributions of the energies."""
        own = subject.some_rows(self.rows)
        found = {"held-out rows": scores(subject.model, own)}
        metrics = {}
        for name in self.datasets:
            other = self._rows(name, subject, own)
            found[name] = scores(subject.model, other)
            for score in comparable(found["held-out rows"], found[name]):
                metrics[f"ood/{name}/{score}"] = auroc(found["held-out rows"][score], found[name][score])
        energies = {name: -values["energy"] for name, values in found.items()}
        return Result(metrics, {"ood": figure(energies)}, tuple(impossible(energies)))

    def _rows(self, name: str, subject: Subject, own: Tensor) -> Tensor:
        """What the held-out rows `own` are compared with, (n, *shape)."""
        space, key = subject.model.space, subject.key.fold("other", name)
        if name in MADE:
            return made(name, space, own, key)
        data = subject.data
        alike: dict[str, Any] = {"dequantise": data.train.levels > 0, "noise": data.train.noise}
        if data.method in ("threshold", "stochastic"):
            alike["binarize"] = data.method
        return some_rows(self._load(name, space, alike).test, self.rows, key).to(own.device)

    def _load(self, name: str, space: Space, alike: Mapping[str, Any]) -> Data:
        """A shipped data set with those keys of `alike` that it has. Raises UserError if it cannot be compared."""
        settings = shipped(name)
        box = "symmetric" if isinstance(space, Box) and space.low < 0 else "unit"
        root = {"root": self.root} if self.root else {}
        changes = {key: value for key, value in ({**alike, "box": box} | root).items() if key in settings}
        data: Data = registry.build("dataset", settings | changes).load((type(space),))
        if data.space != space:
            raise UserError(f"its rows are {said(data.space)}, those of the model {said(space)}")
        return data


def shipped(name: str) -> dict[str, Any]:
    """The keys of a shipped data set. Raises UserError with the names there are if it is none of them."""
    folder = resources.files("ebm_cli.conf") / "dataset"
    names = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))
    if name not in names:
        raise UserError(f"there is no such data set; there are {', '.join((*MADE, *names))}")
    found: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text())
    return found


def said(space: Space) -> str:
    """A space in words."""
    bounds = f" in [{space.low:g}, {space.high:g}]" if isinstance(space, Box) else ""
    return f"{'x'.join(map(str, space.shape))} {space.name}{bounds}"


def made(name: str, space: Space, own: Tensor, key: Key) -> Tensor:
    """As many rows as `own` (n, *shape), of noise, of its own sites in another order, or of one value at all sites."""
    rows = own if name == "shuffled" else space.noise(len(own), key, own.device)
    sites = rows.reshape(len(own), space.sites, -1)  # of categories the K numbers of a site stay together
    if name == "shuffled":
        sites = sites[:, rng.permutation(space.sites, key).to(own.device)]
    elif name == "constant":
        sites = sites[:, :1].expand_as(sites)
    return sites.reshape(own.shape)


def scores(model: EnergyModel, x: Tensor) -> Scores:
    """-E(x) and, of real values, -|dE/dx|, (n,) each, float64."""
    parts = x.split(_ROWS_AT_ONCE)
    if not isinstance(model.space, Real):
        return {"energy": -torch.cat([model.energy(part) for part in parts]).double()}
    energies, gradients = zip(*(model.energy_and_grad(part) for part in parts), strict=True)
    norms = torch.linalg.vector_norm(torch.cat(gradients).flatten(1).double(), dim=1)
    return {"energy": -torch.cat(energies).double(), "gradient": -norms}


def comparable(data: Scores, other: Scores) -> list[str]:
    """Names of the scores that all rows have: a row without density has no gradient of it."""
    dense = all(part["energy"].isfinite().all() for part in (data, other))
    return [name for name in data if dense or name == "energy"]


def impossible(energies: Mapping[str, Tensor]) -> Iterator[str]:
    """A sentence on each set of rows of which some have no density."""
    for name, values in energies.items():
        if count := int((values == torch.inf).sum()):
            yield (
                f"{count} of {len(values)} rows ({name}) have an infinite energy: to the model they are impossible, "
                "which counts as the lowest score; their gradients are not compared"
            )


def auroc(data: Tensor, other: Tensor) -> float:
    """P(a score of `data` > one of `other`), ties counted half, by their ranks; nan where a score is nan."""
    from scipy.stats import rankdata  # slow to import, and few runs need them
    from sklearn.metrics import roc_auc_score

    both = torch.cat([data, other])
    if both.isnan().any():
        return math.nan
    truth = np.repeat([1, 0], [len(data), len(other)])
    return float(roc_auc_score(truth, rankdata(both.cpu().numpy())))


def figure(energies: Mapping[str, Tensor]) -> NDArray[np.uint8]:
    """The share of rows with at most an energy, over that energy, a step for each row, by the name of the data."""
    with picture.axes(1, 1) as drawing:
        axis = drawing.at[0][0]
        for name, values in energies.items():
            finite = values[values.isfinite()].sort().values.cpu().numpy()
            share = np.arange(len(finite) + 1) / max(1, len(values))
            axis.step([*finite[:1], *finite], share[: len(finite) + 1 if len(finite) else 0], where="post", label=name)
        axis.set(xlabel="energy [nats]", ylabel="share of rows with at most this energy", ylim=(0, 1))
        axis.legend(fontsize=8)
    return drawing.pixels
