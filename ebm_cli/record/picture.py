"""Pictures of configurations, as uint8 arrays."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.space import Real, Space

_TILE, _FRAME = 56, 96  # pixels a small image is enlarged to; brightness between images
_WIDEST = 2048  # pixels of a picture of many, beyond which none is enlarged


def of_plane(space: Space) -> bool:
    """Whether configurations are points of the plane."""
    return type(space) is Real and space.shape == (2,)


def grid(space: Space, x: Tensor, columns: int | None = None) -> NDArray[np.uint8]:
    """x (n, *shape) as one picture (height, width) or (height, width, 3), small images enlarged to be seen.

    Points of the plane are drawn as such. (torchvision's `make_grid` does the tiling too, but importing it takes longer
    than a small run.)
    """
    if of_plane(space):
        return points({"samples": x})
    tiles = space.pixels(x).numpy()
    n, channels, height, width = tiles.shape
    strips = height == 1 < width  # sequences, one under the other
    columns = columns or (1 if strips else max(1, round(n**0.5)))
    rows = -(-n // columns)
    padded = np.full((rows * columns, channels, height + 1, width + 1), _FRAME, np.uint8)
    padded[:n, :, 1:, 1:] = tiles
    picture = padded.reshape(rows, columns, channels, height + 1, width + 1).transpose(0, 3, 1, 4, 2)
    framed = np.pad(
        picture.reshape(rows * (height + 1), -1, channels), ((0, 1), (0, 1), (0, 0)), constant_values=_FRAME
    )
    large = round((4 if strips else 1) * _TILE / max(height, width))
    factor = max(1, min(large, _WIDEST // max(framed.shape[:2])))
    enlarged = framed.repeat(factor, 0).repeat(factor, 1)
    return enlarged if channels == 3 else enlarged[:, :, 0]


def beside(space: Space, x: Tensor, y: Tensor, pairs: int) -> NDArray[np.uint8]:
    """The first `pairs` rows of x, each with its row of y under it."""
    if of_plane(space):
        return points({"nearest training rows": y, "samples": x})
    n = min(pairs, len(x))
    if space.pixels(x[:1]).shape[2] == 1:
        return grid(space, torch.stack([x[:n], y[:n]], 1).flatten(0, 1), columns=1)
    return grid(space, torch.cat([x[:n], y[:n]]), columns=n)


def points(sets: dict[str, Tensor]) -> NDArray[np.uint8]:
    """Points (n, 2) of the plane, by what they are."""
    with axes(1, 1) as drawing:
        axis = drawing.at[0][0]
        for name, x in sets.items():
            axis.scatter(*x.cpu().numpy().T, s=4, label=name)
        axis.set_aspect("equal")
        axis.legend(fontsize=8)
    return drawing.pixels


class Drawing:
    """Axes by row and column, and once they are left the picture."""

    def __init__(self, at: Any) -> None:
        self.at = at
        self.pixels: NDArray[np.uint8]

    def legend_beside(self) -> None:
        """That of the first axes, to the right of all, where it covers nothing."""
        handles, labels = self.at[0][0].get_legend_handles_labels()
        self.at[0][0].figure.legend(handles, labels, loc="outside right upper", fontsize=8)


@contextmanager
def axes(rows: int, columns: int, layout: Literal["constrained"] | None = "constrained") -> Iterator[Drawing]:
    """Empty axes of matplotlib, which is imported here since it takes half a second; no display is touched.

    Where the layout is None the caller sets the margins: to find them takes twice as long as to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * columns, 3.5 * rows), layout=layout)
    drawing = Drawing(figure.subplots(rows, columns, squeeze=False))
    yield drawing
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawing.pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
