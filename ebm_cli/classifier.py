"""A small classifier of labelled data, by which samples are judged where no likelihood can be had."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_cli import optimizer, rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.errors import UserError
from ebm_cli.rng import Key
from ebm_cli.space import Categorical, Space

_UPDATES, _BATCH = 1000, 100
_ADAM = optimizer.Adam(
    lr=2e-3, schedule="linear", final_lr=0.0, warmup=0, clip=None, ema=0.0, ema_start=0.0,
    betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
)  # fmt: skip
_FEATURES = 64
_ROWS_AT_ONCE = 2000


class Classifier(nn.Module):
    """Two 3 x 3 convolutions with pooling on images, two wide layers on anything else; then `features`, then logits."""

    def __init__(self, space: Space, classes: int, key: Key) -> None:
        super().__init__()
        self.space = space
        self.image = _image(space)
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
        v = self.space.brightness(x) if self.image else x
        return F.silu(self.body(v.reshape(-1, *self.image) if self.image else v))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        return self.last(self.features(x))


class Judge(NamedTuple):
    """A trained classifier and its accuracy on rows it has not seen."""

    model: Classifier
    accuracy: float
    classes: int

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """p(class | x), (batch, classes)."""
        return _in_parts(self.model, x).softmax(1)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The layer below the logits, (batch, 64)."""
        return torch.cat([self.model.features(part) for part in x.split(_ROWS_AT_ONCE)])


def judge(data: Data, held_out: Split, key: Key) -> Judge:
    """A classifier trained on the training rows: 1000 steps of Adam, batches of 100, the rate linear from 0.002 to 0.

    Raises UserError if there are no labels.
    """
    if data.train.labels is None or held_out.labels is None:
        raise UserError("the data have no labels to train a classifier of samples by")
    labels, device = data.train.labels, data.train.grey.device
    classes = int(labels.max()) + 1
    model = Classifier(data.space, classes, key.fold("weights")).to(device)
    weights = dict(model.named_parameters())
    slots = _ADAM.init(weights)
    for step in range(_UPDATES):
        index = rng.integers(len(labels), (_BATCH,), key.fold("batch", step)).to(device)
        x = data.train.rows(index, key.fold("rows", step))
        with torch.enable_grad():
            loss = F.cross_entropy(model(x), labels[index])
            found = torch.autograd.grad(loss, [*weights.values()])
        grads = dict(zip(weights, found, strict=True))
        optimizer.apply(_ADAM, weights, grads, slots, optimizer.At(step, _ADAM.rate(step, _UPDATES), 0.0))
    with torch.no_grad():
        right = _in_parts(model, held_out.all()).argmax(1) == held_out.labels
    return Judge(model, right.double().mean().item(), classes)


def _image(space: Space) -> Sequence[int] | None:
    """Channels, height and width of images large enough for two poolings, None of anything else."""
    shape = space.site_shape
    if isinstance(space, Categorical) or len(shape) not in (2, 3) or min(shape[-2:]) < 4:
        return None
    return (1, *shape) if len(shape) == 2 else shape


def _in_parts(model: Classifier, x: Tensor) -> Tensor:
    return torch.cat([model(part) for part in x.split(_ROWS_AT_ONCE)])
