"""State spaces: what one configuration x is. x is always a float tensor of shape (batch, *shape)."""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.rng import AnyKey

_FEW = 200  # one number in so many may lie outside what a picture shows


@dataclass(frozen=True)
class Space(ABC):
    """A set of configurations with a fixed shape, and the support of every density over it.

    Z of a model, whoever computes, estimates or learns it, is the sum of exp(-E(x)) over the configurations, or the
    integral where they are real numbers: over R^D, in a box between its walls alone. Noise, bases of annealed paths and
    maps are normalised over the same.
    """

    shape: tuple[int, ...]
    name: ClassVar[str]
    pictured: ClassVar[bool] = True
    """Whether there is anything to see in a picture of configurations or of their statistics."""

    @property
    def site_shape(self) -> tuple[int, ...]:
        """How the variables of one configuration are arranged."""
        return self.shape

    @property
    def sites(self) -> int:
        """Number of variables D in one configuration."""
        return math.prod(self.site_shape)

    @property
    def is_image(self) -> bool:
        """Whether sites have a height and a width of two at least: (height, width), or with 1 or 3 channels first."""
        *channels, height, width = (0, 0, *self.site_shape)[-max(2, len(self.site_shape)) :]
        return min(height, width) > 1 and channels in ([], [1], [3])

    def encode(self, values: Tensor) -> Tensor:
        """x (n, *shape) from the values of the sites as data files hold them, (n, *site_shape)."""
        return values

    def as_data(self, x: Tensor) -> Tensor:
        """x (n, *shape) as data files hold it, (n, *site_shape): the inverse of what became of them on the way here."""
        return x

    @property
    def log_volume(self) -> float:
        """log of the volume in units of the data that volume 1 of this space has: log p(data) = log p(x) - this."""
        return 0.0

    @abstractmethod
    def noise(self, n: int, key: AnyKey, device: rng.Device = "cpu") -> Tensor:
        """n maximally uninformed configurations, (n, *shape): where chains without a past start."""

    @abstractmethod
    def contains(self, x: Tensor) -> bool:
        """Whether every row of x (batch, *shape) is a configuration of this space."""

    def allowed(self, log_ratio: Tensor, x: Tensor) -> Tensor:
        """log p(x') - log p(x) as it is for proposals x' within the space, -inf for those beyond; (batch,)."""
        return log_ratio

    def conformed(self, x: Tensor, like: Tensor, key: AnyKey) -> Tensor:
        """Chains x (chains, *shape) whose energies may be compared with those of the data rows `like` (batch, *shape).

        Only counts of words need a change: their log Z depends on the length, so chains get the lengths of the data.
        """
        return x

    @abstractmethod
    def brightness(self, x: Tensor) -> Tensor:
        """x mapped to [0, 1] for display, (batch, *site_shape)."""

    def pixels(self, x: Tensor) -> Tensor:
        """x (n, *shape) as uint8 images (n, channels, height, width); vectors become a square or one row."""
        grey = (self.brightness(x).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        return grey.reshape(len(x), *_image_shape(self.site_shape))


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 3 and shape[0] in (1, 3):
        return (shape[0], shape[1], shape[2])
    if len(shape) == 2:
        return (1, shape[0], shape[1])
    sites = math.prod(shape)
    side = math.isqrt(sites)
    return (1, side, side) if side * side == sites else (1, 1, sites)


class Discrete(Space):
    """Every site has one of finitely many values."""

    @property
    @abstractmethod
    def values(self) -> int:
        """How many values a site can have."""

    @property
    def states(self) -> int:
        """Number of configurations, values^D."""
        return self.values**self.sites

    def enumerate(self, first: int = 0, last: int | None = None) -> Tensor:
        """Configurations first, ..., last - 1 in counting order (site 0 is the lowest digit), (count, *shape)."""
        number = torch.arange(first, self.states if last is None else last)
        digits = number[:, None] // self._places() % self.values
        return self.encode(digits.float().reshape(-1, *self.site_shape))

    def code(self, x: Tensor) -> Tensor:
        """The number of each row of x in `enumerate`'s order, (batch,) int64."""
        return (self.decode(x).flatten(1).long() * self._places().to(x.device)).sum(1)

    def _places(self) -> Tensor:
        return self.values ** torch.arange(self.sites)

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """The number of each site's value, (batch, *site_shape): the inverse of `encode`."""


@dataclass(frozen=True)
class TwoValued(Discrete):
    """x in {low, high}^shape."""

    low: ClassVar[float]
    high: ClassVar[float]

    def bits(self, x: Tensor) -> Tensor:
        """x with 0 for low and 1 for high, same shape and type."""
        return x if (self.low, self.high) == (0, 1) else (x - self.low) / (self.high - self.low)

    def of_bits(self, bits: Tensor) -> Tensor:
        """The inverse of `bits`."""
        return bits if (self.low, self.high) == (0, 1) else self.low + (self.high - self.low) * bits

    def flipped(self, x: Tensor) -> Tensor:
        """Every site at its other value: low + high - x."""
        return self.low + self.high - x

    @override
    def noise(self, n: int, key: AnyKey, device: rng.Device = "cpu") -> Tensor:
        return self.of_bits((rng.uniform((n, *self.shape), key, device) < 0.5).float())

    @override
    def contains(self, x: Tensor) -> bool:
        return x.shape[1:] == self.shape and bool(((x == self.low) | (x == self.high)).all())

    @override
    def brightness(self, x: Tensor) -> Tensor:
        return self.bits(x)

    @property
    @override
    def values(self) -> int:
        return 2

    @override
    def encode(self, values: Tensor) -> Tensor:
        return self.of_bits(values)

    @override
    def decode(self, x: Tensor) -> Tensor:
        return self.bits(x)


@dataclass(frozen=True)
class Binary(TwoValued):
    """x in {0, 1}^shape."""

    name = "binary"
    low, high = 0.0, 1.0


@dataclass(frozen=True)
class Spin(TwoValued):
    """x in {-1, +1}^shape."""

    name = "spin"
    low, high = -1.0, 1.0


@dataclass(frozen=True)
class Categorical(Discrete):
    """D sites with one of K values each, one-hot: x in {0, 1}^(*site_shape, K) with sum_k x_ik = 1; shape ends in K."""

    name = "categorical"

    @property
    @override
    def site_shape(self) -> tuple[int, ...]:
        return self.shape[:-1]

    @property
    @override
    def values(self) -> int:
        return self.shape[-1]

    @override
    def encode(self, values: Tensor) -> Tensor:
        """One-hot rows from numbers 0, ..., K - 1, (*values.shape, K); float32."""
        return self._one_hot(values, torch.float32)

    def one_hot(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """x (n, *shape) of the numbers of its values, n D of them in any shape; nothing else of its size is made."""
        return self._one_hot(values, dtype).reshape(len(values), *self.shape)

    def _one_hot(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        x = torch.zeros(*values.shape, self.values, dtype=dtype, device=values.device)
        x.view(-1, self.values).scatter_(1, values.reshape(-1, 1).long(), 1)
        return x

    @override
    def decode(self, x: Tensor) -> Tensor:
        """The number of each site's value, (n, *site_shape) int64."""
        return x.argmax(-1)

    def numbers(self, x: Tensor) -> Tensor:
        """Of the values that the sites have, (batch, D) int64: by a product with 0, 1, 2 ..., faster than argmax."""
        table = self.table(x)
        return (table @ torch.arange(self.values, dtype=x.dtype, device=x.device)).round().long()

    @override
    def as_data(self, x: Tensor) -> Tensor:
        return self.decode(x)

    def table(self, x: Tensor) -> Tensor:
        """x, or anything of its shape, as (batch, D, K)."""
        return x.reshape(-1, self.sites, self.values)

    @override
    def noise(self, n: int, key: AnyKey, device: rng.Device = "cpu") -> Tensor:
        """Every value of every site equally likely."""
        return self.encode(rng.integers(self.values, (n, *self.site_shape), key, device))

    @override
    def contains(self, x: Tensor) -> bool:
        """One 1 at every site, and zeros."""
        return x.shape[1:] == self.shape and bool(((x == 0) | (x == 1)).all() and (x.sum(-1) == 1).all())

    @override
    def brightness(self, x: Tensor) -> Tensor:
        """From the first value, black, to the last one, white."""
        return self.decode(x) / max(1, self.values - 1)


@dataclass(frozen=True)
class Units:
    """Of real numbers: the value of site i in the data is mean_i + deviation_i x_i, the sites in their order."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Measured(Space):
    """Some sites are real numbers; `units` say what x is in the data where that is another number."""

    units: Units | None = field(default=None, kw_only=True)

    @override
    def as_data(self, x: Tensor) -> Tensor:
        """mean + deviation x of each site, float64."""
        return x if self.units is None else in_units(x, self.units)

    @property
    @override
    def log_volume(self) -> float:
        """sum_i log deviation_i."""
        return 0.0 if self.units is None else sum(map(math.log, self.units.deviation))


@dataclass(frozen=True)
class Real(Measured):
    """x in R^shape."""

    name = "real"

    @override
    def noise(self, n: int, key: AnyKey, device: rng.Device = "cpu") -> Tensor:
        return rng.normal((n, *self.shape), key, device)

    @override
    def contains(self, x: Tensor) -> bool:
        return x.shape[1:] == self.shape and bool(x.isfinite().all())

    @override
    def brightness(self, x: Tensor) -> Tensor:
        """Values of the data in [0, 1] as they are; otherwise their range stretched to [0, 1]. Of all but one in 200 at
        either end, which may lie anywhere: one number far out would leave a picture grey."""
        x = self.as_data(x)
        few, flat = x.numel() // _FEW, x.flatten()
        low, high = flat.kthvalue(few + 1).values, flat.kthvalue(x.numel() - few).values
        return x if low >= 0 and high <= 1 else (x - low) / (high - low).clamp_min(1e-12)

    def nearest(self, x: Tensor) -> Tensor:
        """The point of the space closest to each row of x."""
        return x

    def reflected(self, x: Tensor) -> Tensor:
        """Where straight lines to the rows of x end if they are reflected at the ends of the space."""
        return x


@dataclass(frozen=True)
class Box(Real):
    """x in [low, high]^shape, as images are. Beyond the walls the density is 0, whatever a model's energy is there."""

    name = "boxed"
    low: float = 0.0
    high: float = 1.0

    @override
    def noise(self, n: int, key: AnyKey, device: rng.Device = "cpu") -> Tensor:
        return self.of_unit(rng.uniform((n, *self.shape), key, device))

    @override
    def contains(self, x: Tensor) -> bool:
        """Between the bounds, these included."""
        return x.shape[1:] == self.shape and bool(((x >= self.low) & (x <= self.high)).all())

    @override
    def brightness(self, x: Tensor) -> Tensor:
        """The lower bound is black, the upper one white."""
        return (x - self.low) / (self.high - self.low)

    def of_unit(self, x: Tensor) -> Tensor:
        """From [0, 1]."""
        return x if (self.low, self.high) == (0, 1) else self.low + (self.high - self.low) * x

    @override
    def nearest(self, x: Tensor) -> Tensor:
        """Every coordinate brought to the bound that it is beyond."""
        return x.clamp(self.low, self.high)

    @override
    def reflected(self, x: Tensor) -> Tensor:
        """Every coordinate folded at the bounds, so that symmetric noise stays symmetric: q(y | x) = q(x | y)."""
        return self.of_unit(1 - (1 - (x - self.low) / (self.high - self.low) % 2).abs())

    @override
    def allowed(self, log_ratio: Tensor, x: Tensor) -> Tensor:
        """The density is 0 beyond the bounds."""
        inside = ((x >= self.low) & (x <= self.high)).flatten(1).all(1)
        return torch.where(inside, log_ratio, -torch.inf)


@dataclass(frozen=True)
class Mixed(Measured):
    """Sites of different kinds, a table's columns: x_i is one of the numbers 0, ..., K_i - 1, or real where K_i is 0.

    Densities are over the product of these sets: a sum over the numbers, an integral over the real sites. Of sites that
    are numbers `units` have mean 0 and deviation 1.

    Models see units (n, units): a bit (K = 2) and a real number as they are, of K > 2 values one unit each, one-hot.
    """

    name = "mixed"
    values: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """How many units each site has."""
        return tuple(count if count > 2 else 1 for count in self.values)

    @property
    def width(self) -> int:
        """Units of all sites."""
        return sum(self.widths)

    @property
    def reals(self) -> tuple[int, ...]:
        """Numbers of the sites that are real."""
        return tuple(site for site, count in enumerate(self.values) if not count)

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Of each unit the number of its site, and the value it stands for, -1 where it is the value itself."""
        site = torch.arange(self.sites).repeat_interleave(torch.tensor(self.widths))
        value = [range(width) if width > 1 else (-1,) for width in self.widths]
        return site, torch.tensor([*itertools.chain.from_iterable(value)])

    def as_units(self, x: Tensor) -> Tensor:
        """The units of x (n, sites), (n, units)."""
        return one_for_each(x, *(part.to(x.device) for part in self.places))

    @override
    def noise(self, n: int, key: AnyKey, device: rng.Device = "cpu") -> Tensor:
        """Every number equally likely, real sites standard normal."""
        real = rng.normal((n, *self.shape), key.fold("real"), device)
        count = torch.tensor(self.values, device=device)
        chosen = (rng.uniform((n, *self.shape), key.fold("value"), device) * count).floor()
        return torch.where(count == 0, real, torch.minimum(chosen, (count - 1).clamp_min(0)))

    @override
    def contains(self, x: Tensor) -> bool:
        """Whole numbers in their ranges, and finite ones."""
        count = torch.tensor(self.values, device=x.device)
        whole = (x == x.floor()) & (x >= 0) & (x < count)
        return x.shape[1:] == self.shape and bool((x.isfinite() & (whole | (count == 0))).all())

    @override
    def brightness(self, x: Tensor) -> Tensor:
        """From the first value, black, to the last one, white; real sites within their range."""
        top = torch.tensor(self.values, device=x.device) - 1
        low, high = x.amin(0), x.amax(0)
        return torch.where(top > 0, x / top.clamp_min(1), (x - low) / (high - low).clamp_min(1e-12))


def one_for_each(x: Tensor, site: Tensor, value: Tensor) -> Tensor:
    """Of sites x (n, sites) the units (n, units) whose `Mixed.places` these are."""
    spread = x[:, site]
    return torch.where(value < 0, spread, (spread == value).to(x.dtype))


def in_units(x: Tensor, units: Units) -> Tensor:
    """mean + deviation x of each site, float64, in the shape of x (n, *shape)."""
    mean, deviation = (x.new_tensor(values, dtype=torch.float64) for values in (units.mean, units.deviation))
    return (mean + deviation * x.flatten(1)).reshape(x.shape)


@dataclass(frozen=True)
class Words(Space):
    """Numbers of words below `values`: those of the context in their order and, last, the word that follows them.

    A model of this space gives the word its probability given the context, so the word alone is a variable.
    """

    name = "words"
    pictured = False
    values: int

    @property
    @override
    def sites(self) -> int:
        return 1

    @override
    def noise(self, n: int, key: AnyKey, device: rng.Device = "cpu") -> Tensor:
        """Every word equally likely at every place."""
        return rng.integers(self.values, (n, *self.shape), key, device).float()

    @override
    def contains(self, x: Tensor) -> bool:
        """Integers from 0 to values - 1."""
        inside = (x >= 0) & (x < self.values) & (x == x.floor())
        return x.shape[1:] == self.shape and bool(inside.all())

    @override
    def brightness(self, x: Tensor) -> Tensor:
        """From the first word, black, to the last one, white."""
        return x / max(1, self.values - 1)


@dataclass(frozen=True)
class Counts(Space):
    """How often each of K words is in a document: x_k in {0, 1, ...}, of any length D = sum_k x_k >= 1; shape (K,).

    A model of this space gives probabilities to documents of the same length, p(words | D) = exp(-E(x)) / Z_D, for
    the words in their order: D! / prod_k x_k! of these sequences have the counts x. `length` is that of documents
    where none is given.
    """

    name = "counts"
    length: int

    @override
    def noise(self, n: int, key: AnyKey, device: rng.Device = "cpu") -> Tensor:
        """`length` words, every word equally likely."""
        number = torch.full((n,), self.length, device=device)
        return rng.multinomial(number, torch.zeros(n, *self.shape, device=device), key)

    @override
    def contains(self, x: Tensor) -> bool:
        """Integers from 0 on, not all of them 0."""
        whole = (x >= 0) & (x == x.floor()) & x.isfinite()
        return x.shape[1:] == self.shape and bool(whole.all() and (x.sum(1) >= 1).all())

    @override
    def brightness(self, x: Tensor) -> Tensor:
        """From no word, black, to the most frequent one, white."""
        return x / x.amax(1, keepdim=True).clamp_min(1)

    @override
    def conformed(self, x: Tensor, like: Tensor, key: AnyKey) -> Tensor:
        """Documents x of the lengths of the documents `like`, each the next of the length that comes at its rank.

        What is too long loses words at random; what is too short gets more of the words that it has, drawn with
        replacement.
        """
        if x is like:
            return x
        size, due = x.sum(1), like.sum(1).sort().values
        rank = torch.arange(len(x), device=x.device)
        number = torch.empty_like(size).scatter(
            0, size.argsort(stable=True), due[(2 * rank + 1) * len(due) // (2 * len(x))]
        )
        more = rng.weighted((number - size).clamp_min(0), x, key.fold("more"))
        return rng.thinned(x, number, key.fold("fewer")) + more

    def documents(self, length: int) -> Tensor:
        """All of this length, (C(length + K - 1, K - 1), K)."""
        bars = list(itertools.combinations(range(length + self.sites - 1), self.sites - 1))
        ends = torch.tensor(bars).reshape(-1, self.sites - 1)
        low, high = torch.full((len(ends), 1), -1), torch.full((len(ends), 1), length + self.sites - 1)
        return (torch.cat([low, ends, high], 1).diff(dim=1) - 1).float()


SPACES: dict[str, type[Space]] = {
    space.name: space for space in (Binary, Spin, Categorical, Real, Box, Mixed, Words, Counts)
}


def names(spaces: tuple[type[Space], ...]) -> str:
    """Spaces in words."""
    *first, last = (space.name for space in spaces)
    return f"{', '.join(first)} or {last}" if first else last
