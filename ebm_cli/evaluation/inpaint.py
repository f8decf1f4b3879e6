"""Images of which a part is hidden, filled in by the run's own sampler."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.dataset.base import Data
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.evaluation.denoise import psnr
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler, engine_for, shown, transitions
from ebm_cli.space import Box, Categorical, Discrete, Space, TwoValued

_SHOWN = 16
Region = Literal["lower", "upper", "left", "right", "centre"]


@register("evaluation", "inpaint")
class Inpaint(Evaluation):
    """Held-out images, at most `rows`, whose `region` is hidden: a half of them, or half their height and width.

    Hidden sites start from noise. After each of `steps` transitions of the run's sampler, which moves all sites, the
    known ones are set back. That leaves p(hidden | known) as invariant as the sampler leaves p where it moves sites
    independently of each other given the state before, or of hidden units (langevin, block_gibbs of an RBM); for
    others it is an approximation. Caches are made anew each time, so a schedule of step sizes does not advance.

    Over the hidden sites, and in `of_mean` for the mean of the training rows (of bits and categories the most frequent
    value) in their place: of images in a box `psnr`, dB (see `psnr` of denoise), of others `right`, the share of sites
    with the right value. One draw is judged, so even the true p(hidden | known) may fall short of the mean.
    """

    while_training: bool
    rows: Annotated[int, Field(ge=1)]
    region: Region
    steps: Annotated[int, Field(ge=1)]

    asks_for_energy = False

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Images of two pixels a side at least, whose values have bounds."""
        shape = model.space.site_shape
        if len(shape) not in (2, 3) or min(shape[-2:]) < 2:
            return f"only images have a {self.region} part, the data have shape {'x'.join(map(str, shape))}"
        fits = isinstance(model.space, Box | Discrete)
        return None if fits else f"errors are measured by the width of a box, a {model.space.name} space has none"

    @property
    @override
    def work(self) -> Work:
        return Work(self.rows * self.steps, self.steps)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`inpaint/psnr` or `inpaint/right`, and a picture: images, what is known of them and how they are filled."""
        space, key = subject.model.space, subject.key
        x = subject.some_rows(self.rows)
        hidden = hidden_sites(space, self.region).to(x.device)
        start = torch.where(of_sites(space, hidden), space.noise(len(x), key.fold("noise"), x.device), x)
        found = self._filled(subject, start, x, of_sites(space, hidden))
        usual = usual_values(subject.data).to(x).expand_as(x)
        metrics = agreement("", found, x, hidden, space) | agreement("_of_mean", usual, x, hidden, space)
        n = min(_SHOWN, len(x))
        rows = torch.cat([part[:n] for part in (x, start, found)])
        by_row = right_by_row(found, x, hidden, space)
        index = {name: subject.which_rows(self.rows) for name in by_row}
        images = {"inpaint": picture.grid(space, rows, columns=n)} if space.is_image else {}
        return Result(metrics, images, by_row=by_row, index=index)

    def _filled(self, subject: Subject, start: Tensor, known: Tensor, hidden: Tensor) -> Tensor:
        """Where the chains end; of a sampler with replicas, the known sites of each are set back."""
        sampler, model, x = subject.sampler, full_arithmetic(subject.model, subject.device), start
        engine, key = engine_for(sampler, model, subject.device.engine), subject.key.fold("steps")
        keys: list[Key] = [key.fold(i) for i in range(self.steps)]
        for one in engine.keys(keys, x.device):
            end, _ = transitions(sampler, model, x, [one], engine)
            x = torch.where(hidden, end, known if end.dim() == known.dim() else known[:, None])
        return shown(x, model.space)


def hidden_sites(space: Space, region: Region) -> Tensor:
    """Which sites are hidden, bool (*site_shape): of the last two dimensions, height and width."""
    height, width = space.site_shape[-2:]
    parts: dict[Region, tuple[slice, slice]] = {
        "lower": (slice(height // 2, height), slice(None)),
        "upper": (slice(0, height // 2), slice(None)),
        "left": (slice(None), slice(0, width // 2)),
        "right": (slice(None), slice(width // 2, width)),
        "centre": (slice(height // 4, height // 4 + height // 2), slice(width // 4, width // 4 + width // 2)),
    }
    found = torch.zeros(space.site_shape, dtype=torch.bool)
    found[(..., *parts[region])] = True
    return found


def of_sites(space: Space, chosen: Tensor) -> Tensor:
    """A choice of sites as one of coordinates of x, to be broadcast."""
    return chosen[..., None] if isinstance(space, Categorical) else chosen


def usual_values(data: Data) -> Tensor:
    """Mean of the training rows, (*shape); of bits and categories the most frequent value of each site."""
    mean, space = data.train.mean(), data.space
    if isinstance(space, Categorical):
        return space.encode(mean.argmax(-1))
    return space.of_bits((mean > 0.5).float()) if isinstance(space, TwoValued) else mean


def right_by_row(x: Tensor, truth: Tensor, hidden: Tensor, space: Space) -> dict[str, Tensor]:
    """`inpaint/right` of each row, (rows,); nothing in a box, where `psnr` is of all values together."""
    if not isinstance(space, Discrete):
        return {}
    return {"inpaint/right": _right(x, truth, hidden, space).mean(1)}


def _right(x: Tensor, truth: Tensor, hidden: Tensor, space: Discrete) -> Tensor:
    """1 where a hidden site has the right value, else 0, (rows, hidden sites)."""
    return (space.decode(x) == space.decode(truth))[:, hidden].double()


def agreement(suffix: str, x: Tensor, truth: Tensor, hidden: Tensor, space: Space) -> dict[str, float]:
    """`inpaint/psnr<suffix>` or `inpaint/right<suffix>` over the hidden sites."""
    if isinstance(space, Discrete):
        return {f"inpaint/right{suffix}": _right(x, truth, hidden, space).mean().item()}
    assert isinstance(space, Box)
    return psnr(f"inpaint/psnr{suffix}", x[:, hidden], truth[:, hidden], space)
