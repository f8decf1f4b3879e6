"""A small classifier of labelled data, by which samples are judged where no likelihood can be had."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import optimizer, rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.errors import UserError
from ebm_cli.rng import Key
from ebm_cli.space import Categorical, Space

_UPDATES, _BATCH = 1000, 100
_ADAM = optimizer.Adam(
    lr=2e-3, schedule="linear", final_lr=0.0, warmup=0, clip=None, ema=0.0, ema_start=0.0, rates=[],
    betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
)  # fmt: skip
_FEATURES = 64
RIGHT = 0.7  # accuracy below which a classifier says little of samples
_ROWS_AT_ONCE = 2000


class FeatureClassifier(nn.Module):
    """Two 3 x 3 convolutions with pooling on images, two wide layers on anything else; then `features`, then logits.

    Values are seen relative to the mean of all values of the training rows, in units of their standard deviation.
    """

    def __init__(self, space: Space, classes: int, rows: Tensor, key: Key) -> None:
        super().__init__()
        self.image = _image(space)
        self.center, self.scale = rows.mean().item(), max(rows.std().item(), 1e-6)
        if self.image is None:
            body = [nn.Flatten(), nn.Linear(math.prod(space.shape), 128), nn.SiLU(), nn.Linear(128, _FEATURES)]
        else:
            first, second = nn.Conv2d(self.image[0], 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
            pool = nn.AdaptiveAvgPool2d(4)
            body = [first, nn.SiLU(), nn.AvgPool2d(2), second, nn.SiLU(), pool, nn.Flatten(), nn.Linear(512, _FEATURES)]
        self.body = nn.Sequential(*body)
        self.last = nn.Linear(_FEATURES, classes)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                bound = math.sqrt(3 / max(1, parameter[0].numel()))
                draw = 2 * rng.uniform(parameter.shape, key.fold(name)) - 1
                parameter.copy_(bound * draw if parameter.dim() > 1 else torch.zeros_like(draw))

    def features(self, x: Tensor) -> Tensor:
        """(batch, 64) of x (batch, *shape)."""
        v = (x - self.center) / self.scale
        return F.silu(self.body(v.reshape(-1, *self.image) if self.image else v))

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        return self.last(self.features(x))


class Judge(NamedTuple):
    """A trained classifier, its accuracy on rows it has not seen, and how much of what is no image it takes for one."""

    model: FeatureClassifier
    accuracy: float
    mistaken: float
    classes: int

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """p(class | x), (batch, classes); what is missing to 1 is that x is no image of any class."""
        return _in_parts(self.model, x).softmax(1)[:, :-1]

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The layer below the logits, (batch, 64)."""
        return torch.cat([self.model.features(part) for part in x.split(_ROWS_AT_ONCE)])


def judge(data: Data, held_out: Split, key: Key) -> Judge:
    """A classifier trained on the training rows: 1000 steps of Adam, batches of 100, the rate linear from 0.002 to 0.

    Beside each batch stand as many rows of a last class that are no images, of `nothing`: else it would find a class
    with high probability in noise. Raises UserError if there are no labels.
    """
    if data.train.labels is None or held_out.labels is None:
        raise UserError("the data have no labels to train a classifier of samples by")
    labels, device = data.train.labels, data.train.stored.device
    classes = int(labels.max()) + 1
    model = FeatureClassifier(data.space, classes + 1, data.train.all(), key.fold("weights")).to(device)
    weights = dict(model.named_parameters())
    moments = _ADAM.init(weights)
    for step in range(_UPDATES):
        index = rng.integers(len(labels), (_BATCH,), key.fold("batch", step)).to(device)
        x = data.train.rows(index, key.fold("rows", step))
        rows = torch.cat([x, nothing(data.space, x, key.fold("nothing", step))])
        target = torch.cat([labels[index], torch.full_like(index, classes)])
        with torch.enable_grad():
            loss = F.cross_entropy(model(rows), target)
            found = torch.autograd.grad(loss, [*weights.values()])
        grads = dict(zip(weights, found, strict=True))
        optimizer.apply(_ADAM, weights, grads, moments, optimizer.At(step, _ADAM.rate(step, _UPDATES), 0.0))
    with torch.no_grad():
        rows = held_out.all()
        right = _in_parts(model, rows).argmax(1) == held_out.labels
        taken = _in_parts(model, nothing(data.space, rows, key.fold("nothing"))).argmax(1) < classes
    return Judge(model, right.double().mean().item(), taken.double().mean().item(), classes)


def unsure(accuracy: float) -> str:
    """What to say of a classifier that is not right often enough."""
    return f"the classifier that judges is right about {accuracy:.0%} of held-out rows alone, so what it says is little"


def nothing(space: Space, x: Tensor, key: Key) -> Tensor:
    """As many rows as x (n, *shape) that are no images: noise, rows with their sites in any order, rows half noise.

    A third each. In the last every site is that of noise with a probability of its row's own between 0.3 and 1.
    """
    sites = x.reshape(len(x), space.sites, -1)
    noise = space.noise(len(x), key.fold("noise"), x.device).to(x.dtype).reshape(sites.shape)
    order = rng.uniform(sites.shape[:2], key.fold("order"), x.device).argsort(1)
    shuffled = sites.gather(1, order[:, :, None].expand_as(sites))
    share = 0.3 + 0.7 * rng.uniform((len(x), 1), key.fold("share"), x.device)
    lost = rng.uniform(sites.shape[:2], key.fold("lost"), x.device) < share
    mixed = torch.where(lost[:, :, None], noise, sites)
    kind = torch.arange(len(x), device=x.device)[:, None, None] % 3
    return torch.where(kind == 0, noise, torch.where(kind == 1, shuffled, mixed)).reshape(x.shape)


def _image(space: Space) -> Sequence[int] | None:
    """Channels, height and width of images large enough for two poolings, None of anything else."""
    shape = space.site_shape
    if isinstance(space, Categorical) or len(shape) not in (2, 3) or min(shape[-2:]) < 4:
        return None
    return (1, *shape) if len(shape) == 2 else shape


def _in_parts(model: FeatureClassifier, x: Tensor) -> Tensor:
    return torch.cat([model(part) for part in x.split(_ROWS_AT_ONCE)])
