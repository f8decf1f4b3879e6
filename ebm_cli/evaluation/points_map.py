"""Models of bits that stand for points of the plane, as a map: their energies at the row of each cell, and chains."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.dataset.gray_code import GrayCode
from ebm_cli.evaluation.base import Subject
from ebm_cli.record import picture
from ebm_cli.space import Binary

_ROWS_AT_ONCE = 50_000
_SHOWN = 2000  # points


def maps_rows(subject: Subject) -> bool:
    """Whether rows of the subject are bits that stand for points."""
    return isinstance(subject.model.space, Binary) and subject.data.truth.plane is not None


def rows_map(subject: Subject, centres: Tensor, reach: float) -> NDArray[np.uint8]:
    """exp(-E) of the rows of `centres` (side^2, 2) relative to its sum, chains if there are, held-out rows, and -E.

    A row stands for its cell, as in the papers: rows of a cell differ in bits that hardly matter to a model that has
    learned the points, so this is a picture and no figure is made from it.
    """
    code = subject.data.truth.plane
    assert code is not None
    f = torch.cat([-subject.model.energy(code.rows(part)).double() for part in centres.split(_ROWS_AT_ONCE)])
    f, side = f.cpu(), round(len(f) ** 0.5)
    with picture.axes(1, 3) as drawing:
        model, data, log = drawing.at[0]
        for axis, values, least in ((model, f.softmax(0), 0.0), (log, f - f.max(), -15.0)):
            extent = (-reach, reach, -reach, reach)
            top = values.max().item()
            shown = axis.imshow(
                values.reshape(side, side).numpy(), origin="lower", extent=extent, vmin=least, vmax=top, aspect="equal"
            )
        log.figure.colorbar(shown, ax=log, label="nats below the top")
        model.set(title="model and chains" if len(subject.store) else "model")
        data.set(title="held-out rows", aspect="equal")
        log.set(title="log-density of the model")
        model.scatter(*_placed(code, subject.store), s=1, c="white", alpha=0.5)
        data.scatter(*_placed(code, subject.held_out.all()), s=1)
        for axis in (model, data):
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach))
    return drawing.pixels


def _placed(code: GrayCode, rows: Tensor) -> NDArray[np.float32]:
    """The last of the rows as points, (2, n)."""
    found: NDArray[np.float32] = code.points(rows.reshape(-1, code.bits)[-_SHOWN:]).cpu().numpy().T
    return found
