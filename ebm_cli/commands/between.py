"""`ebm sample between=...`: from the code of one row to that of another, decoded on the way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.commands import own, ways
from ebm_cli.commands.trained import Trained, its_data
from ebm_cli.errors import RunError, UserError
from ebm_cli.evaluation.base import Picture, some_rows
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.latent_ebm import LatentEBM
from ebm_cli.record import picture
from ebm_cli.record.run import Run
from ebm_cli.rng import stream
from ebm_cli.space import Space

Way = Literal["straight", "string"]
SAMPLES, _HELD_OUT = "samples", "test"  # what between names beside files
_FRAMES = 11
_SHOWN = 64  # strips of the picture


class Course(NamedTuple):
    """Ways from code to code, of pairs of rows.

    `codes` (pairs, frames, dim), `energy` (pairs, frames), E of each in nats, what they decode to, `decoded` (pairs,
    frames, *shape), and the `rows` themselves, (pairs, 2, *shape).
    """

    codes: Tensor
    energy: Tensor
    decoded: Tensor
    rows: Tensor


class Asked(NamedTuple):
    """`between`, and the keys that say something beside it alone."""

    ends: str | None
    frames: int | None
    way: Way | None

    def check(self, others: Mapping[str, bool]) -> None:
        """Raise UserError for a way without ends, and for any of the `others` that is used beside it."""
        if self.ends is None:
            lost = {"frames": self.frames, "way": self.way}
            for key, value in lost.items():
                if value is not None:
                    raise UserError(
                        f"{key} = {value}: has no effect without between; add between=test, or leave it out"
                    )
            return
        for key, used in others.items():
            if used:
                raise UserError(f"{key}: says nothing of the way between codes (between = {self.ends}); leave it out")


def of_codes(model: EnergyModel, ends: str) -> LatentEBM:
    """The model, if it has codes of rows. Raises UserError."""
    if not isinstance(model, LatentEBM):
        raise UserError(
            f"between = {ends}: this model has no codes of rows; leave it out, or train one that has (model=latent_ebm)"
        )
    return model


def rows(trained: Trained, ends: str, array: str | None, n: int, seed: int) -> Tensor:
    """Rows (2 pairs, *shape), the first of which goes with the second, and so on: all of a file, or of the test split
    2 n that the seed chooses. Raises UserError."""
    return _held_out(trained, n, seed) if ends == _HELD_OUT else _of_file(trained, f"between = {ends}", ends, array)


def _held_out(trained: Trained, n: int, seed: int) -> Tensor:
    test = its_data(trained).test
    if 2 * n > len(test):
        raise UserError(f"n = {n}: so many pairs are {2 * n} rows, the test split has {len(test)}; take a lower n")
    return some_rows(test, 2 * n, stream(seed, "pairs"))


def _of_file(trained: Trained, said: str, path: str, array: str | None) -> Tensor:
    found, (split, _) = own.read(trained, "between", path, array)
    own.check_all_there(found, said, f"ebm sample given={path}")
    if len(split) % 2:
        raise UserError(f"{said}: has {own.counted(found)}, which go in pairs; add one, or leave one out")
    return split.all()


@torch.no_grad()
def course(model: LatentEBM, rows: Tensor, asked: Asked) -> Course:
    """From the mean of q(z | x) of every other row (2 pairs, *shape) to that of the one after it. Raises RunError."""
    here = next(model.parameters())
    of_rows = model.recognise(rows.to(here)).mean
    z = ways.straight(of_rows[::2], of_rows[1::2], asked.frames or _FRAMES)
    z = ways.string(model.prior, z) if asked.way == "string" else z
    flat = z.flatten(0, 1)
    energy, x = model.prior.energy(flat), model.decoded(flat)
    if not (energy.isfinite().all() and x.isfinite().all()):
        raise RunError("energies of codes, or what they decode to, are not finite; nothing was written")
    shape = z.shape[:2]
    found = (z, energy.reshape(shape), x.unflatten(0, shape), rows.unflatten(0, (-1, 2)))
    return Course(*(tensor.cpu() for tensor in found))


def written(home: Run, space: Space, found: Course) -> tuple[Path, list[str]]:
    """samples.npz and between.csv, of images with between.png; the path of the first, and the names of the others."""
    values: NDArray[Any] = space.as_data(found.decoded.flatten(0, 1)).numpy().astype(np.float32)
    ends: NDArray[Any] = space.as_data(found.rows.flatten(0, 1)).numpy().astype(np.float32)
    pairs, frames = found.energy.shape
    arrays = {
        "samples": values.reshape(pairs, frames, *values.shape[1:]),
        "rows": ends.reshape(pairs, 2, *ends.shape[1:]),
        "codes": found.codes.numpy(),
        "energy": found.energy.numpy(),
    }
    images = _pictures(space, found)
    home.write_all("", images, {})
    own.written(home, "between", _lines(found), "csv")
    return home.write_npz("samples.npz", arrays), [*images]


def _lines(found: Course) -> own.Columns:
    """A line for each frame: pairs and frames from 1, the share of the way, E in nats, and the norm of the code."""
    pairs, frames = found.energy.shape
    return {
        "pair": np.repeat(np.arange(1, pairs + 1), frames),
        "frame": np.tile(np.arange(1, frames + 1), pairs),
        "way": np.tile(np.linspace(0, 1, frames), pairs),
        "energy": found.energy.double().flatten().numpy(),
        "norm": found.codes.double().norm(dim=2).flatten().numpy(),
    }


def _pictures(space: Space, found: Course) -> dict[str, Picture]:
    """A strip for each pair, of images alone: the one row, what is decoded on the way, the other row."""
    if not space.is_image:
        return {}
    strips = torch.cat([found.rows[:, :1], found.decoded, found.rows[:, 1:]], 1)[:_SHOWN]
    return {"between": picture.grid(space, strips.flatten(0, 1), columns=strips.shape[1])}


def said(found: Course) -> str:
    """Energies at the ends and between, means over the pairs."""
    ends, between = found.energy[:, [0, -1]].mean().item(), found.energy[:, 1:-1]
    said = f"energy of codes: {ends:.4g} nats at the ends"
    if not between.shape[1]:
        return f"{said} (mean)"
    return f"{said}, {between.amax(1).mean().item():.4g} at the highest frame between those of a pair (means)"
