"""Another data set as noise."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli import registry, rng
from ebm_cli.dataset.base import Data, Dataset, Split
from ebm_cli.dataset.stored import tensors
from ebm_cli.errors import UserError
from ebm_cli.noise.base import Noise, NoiseSpec
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Box, Categorical, Real, Spin

CHOOSE = "dataset@noise.source=NAME"
_AT = "noise.source"


def _source(settings: Mapping[str, Any] | Dataset) -> Dataset:
    """Raises UserError naming the key, which lies below noise.source."""
    if isinstance(settings, Dataset):
        return settings
    if not isinstance(settings, Mapping):
        raise UserError(f"noise.source = {settings}: must be a data set and its keys; choose it by {CHOOSE}")
    found: Dataset = registry.build("dataset", settings, at=_AT)
    return found


class Rows(Noise):
    """Rows of a split, each as likely as any other."""

    stored: Tensor

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.split = split
        (stored,) = tensors(split.stored)  # of documents, which no model is contrasted with, there would be more
        self.register_buffer("stored", stored, persistent=False)  # it moves with the rest, and is no result

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """With repetition; what is random about a row is drawn anew."""
        index = rng.integers(len(self.stored), (n, 1), key.fold("rows"), self.stored.device).squeeze(1)
        if self.split.stored.device != self.stored.device:
            self.split = self.split.to(self.stored.device)
        return self.split.rows(index, key.fold("binarize"))

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError("a data set has no density")


@register("noise", "dataset")
class DatasetNoise(NoiseSpec):
    """Training rows of another data set, `source`, with the values that the model takes. It has no density."""

    source: Annotated[Any, PlainValidator(_source), registry.Nested("dataset")]

    spaces = (Binary, Spin, Categorical, Real, Box)
    has_density = False

    @override
    def build(self, data: Data, key: Key) -> Noise:
        """Raises UserError unless its rows lie in the space of the data."""
        try:
            other = self.source.load((type(data.space),))
        except UserError as error:
            raise UserError(f"{_AT}: {registry.placed(str(error), 'dataset', _AT)}") from error
        if other.space != data.space:
            raise UserError(
                f"noise.source: holds {other.space.name} rows of shape {'x'.join(map(str, other.space.site_shape))}, "
                f"the data are {data.space.name} of shape {'x'.join(map(str, data.space.site_shape))}; choose another "
                f"by {CHOOSE}"
            )
        return Rows(other.train.to(torch.device("cpu")))
