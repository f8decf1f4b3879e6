"""The path that AIS, RAISE and bridge go along: from independent units, whose log Z is known, to a model.

The units have the support of the model's space: a Gaussian of the data's means and standard deviations on R^D, one cut
off at the walls in a box. All distributions in between have it too, for samplers move within the space.
"""

from typing import Any

import torch
from torch import Tensor

from ebm_cli import registry
from ebm_cli.acceleration import full_arithmetic
from ebm_cli.dataset.base import Data
from ebm_cli.dataset.moments import moments
from ebm_cli.errors import RunError
from ebm_cli.evaluation.base import Subject
from ebm_cli.log_z.class_path import ClassPath
from ebm_cli.log_z.harmonium_path import HarmoniumPath
from ebm_cli.log_z.level_path import LevelPath
from ebm_cli.log_z.paths import BipartitePath, GeometricPath, MixtureRBMPath, Path
from ebm_cli.model.base import Bipartite, EnergyModel, MixtureRBM, Normalised
from ebm_cli.model.class_rbm import ClassRBM
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct, product
from ebm_cli.model.harmonium import Harmonium
from ebm_cli.model.levels import Leveled
from ebm_cli.sampler.block_gibbs import BlockGibbs
from ebm_cli.sampler.gibbs_langevin import GibbsLangevin
from ebm_cli.space import Box, Discrete, Mixed

_LEAST = 0.1  # of the median standard deviation, for coordinates that hardly vary in the data


def annealing_path(subject: Subject, base_mix: float) -> Path[Any]:
    """From `independent_units`; RBM-like models move by block Gibbs, others by the run's sampler.

    Where its chains have replicas, that is what moves each of them. Raises RunError if the model has no likelihood.
    """
    why = subject.model.improper()
    if why:
        raise RunError(why)
    model = full_arithmetic(subject.model, subject.device)
    if isinstance(model, Leveled):
        return LevelPath(model, subject.sampler.inner)
    base = independent_units(subject.data, model, base_mix).to(next(subject.model.parameters()))
    if isinstance(subject.sampler.inner, BlockGibbs) and isinstance(model, Bipartite):
        assert isinstance(base, BernoulliProduct | CategoricalProduct)
        return BipartitePath(base, model)
    if isinstance(subject.sampler.inner, BlockGibbs) and isinstance(model, Harmonium):
        return HarmoniumPath(base, model)
    if isinstance(subject.sampler.inner, BlockGibbs) and isinstance(model, ClassRBM):
        assert isinstance(base, BernoulliProduct | CategoricalProduct)
        return ClassPath(base, model)
    if isinstance(model, MixtureRBM) and isinstance(subject.sampler.inner, BlockGibbs | GibbsLangevin):
        return MixtureRBMPath(base, model, subject.sampler.inner)
    return GeometricPath(base, subject.model, subject.sampler.inner)


def without_part(subject: Subject) -> tuple[str, ...]:
    """A sentence where the sampler is more than the kernel that the path is moved by."""
    sampler = subject.sampler
    if sampler.inner is sampler:
        return ()
    named = registry.components("sampler").items()
    whole, kernel = (next(name for name, cls in named if isinstance(part, cls)) for part in (sampler, sampler.inner))
    return (
        f"sampler={whole} has no part in annealing, whose chains are moved by its kernel {kernel} alone: a path needs "
        "moves that leave each of its densities invariant",
    )


def independent_units(data: Data, model: EnergyModel, base_mix: float) -> Normalised:
    """Units near the training data, the share `base_mix` of them uniform where the space has an end.

    Of bits and categories means (1 - base_mix) * data mean + base_mix / K. In a box the means and standard deviations
    of that mixture of data and uniform rows, before the walls; on R^D those of the data. Of mixed sites each so.
    """
    space = data.space
    if isinstance(space, Mixed):
        return of_columns(data, space, model, base_mix)
    if isinstance(space, Discrete):
        mean = data.smoothed_mean()
        return product(space, torch.lerp(mean, torch.full_like(mean, 1 / space.values), base_mix))
    mean, std = mixed(space, *moments(data.train), base_mix) if isinstance(space, Box) else on_line(data, model)
    return product(space, mean.float(), std.float())


def mixed(space: Box, mean: Tensor, std: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of (1 - share) of a law with those given, and `share` of the uniform one."""
    centre, width = (space.low + space.high) / 2, space.high - space.low
    apart = share * (1 - share) * (mean - centre).square()
    variance = (1 - share) * std.square() + share * width**2 / 12 + apart
    least = (_LEAST * width) ** 2 / 12
    return torch.lerp(mean, torch.full_like(mean, centre), share), variance.clamp_min(least).sqrt()


def of_columns(data: Data, space: Mixed, model: EnergyModel, base_mix: float) -> Normalised:
    """Units of the columns of a table near the training data."""
    mean, std = data.smoothed_mean(), widened(moments(data.train)[1][[*space.reals]], model)
    site, _ = space.places
    count = torch.tensor(space.values)[site].to(mean.device)
    mixed = torch.lerp(mean, 1 / count, base_mix)
    return product(space, torch.where(count > 0, mixed, mean), std.float())


def on_line(data: Data, model: EnergyModel) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of real training rows, (sites,)."""
    mean, std = moments(data.train)
    return mean, widened(std, model)


def widened(std: Tensor, model: EnergyModel) -> Tensor:
    """Standard deviations of data (sites,) of which none is narrower than a visible unit of the model.

    Where data hardly vary the model need not be as narrow, and a path that begins within one point never leaves it.
    """
    varied = std[std > 0]
    std = std.clamp_min(_LEAST * varied.median().item() if len(varied) else 1.0)
    narrowest = model.narrowest()
    return std if narrowest is None else torch.maximum(std, narrowest.double().cpu())
