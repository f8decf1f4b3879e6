"""Weights of the kept checkpoints: filters of a restricted Boltzmann machine, and how weights are spread over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ebm_cli.page.chart import Chart, Line
from ebm_cli.page.pictures import address
from ebm_cli.record import files
from ebm_cli.record.run import Run, png

_TENSORS = "state.safetensors"
_LARGEST = 1 << 25  # bytes of a checkpoint that is looked at
_MOST_CHECKPOINTS = 6
_MOST_TENSORS = 3
_BINS = 60
_ENOUGH = 100_000
_MOST_FILTERS = 64
_ZOOM = 400  # pixels that the picture is at least wide
_SMALL = 64  # rows and columns of a matrix that is drawn whole


class Weights(NamedTuple):
    """What there is to see: histograms, a picture of filters and what it shows; `note` says what is left out."""

    charts: Sequence[Chart] = ()
    filters: str = ""
    caption: str = ""
    note: str = ""


def of_run(path: Path) -> Weights:
    """From the newest checkpoints that can be read and are not too large; nothing where there are none."""
    try:
        names = [name for name in files.names(path, "checkpoints") if name.startswith("step-")]
        names = [name for name in names if name[5:].isdigit()]
        chosen = _spread(names)
        sizes = [files.size(path, f"checkpoints/{name}/{_TENSORS}") or 0 for name in chosen]
    except OSError:
        return Weights()
    if not chosen:
        return Weights()
    if max(sizes) > _LARGEST:
        return Weights(note=f"weights are not drawn: a checkpoint has {max(sizes)} bytes, more than {_LARGEST}")
    read = {int(name[5:]): found for name in chosen if (found := _matrices(path, f"checkpoints/{name}"))}
    if not read:
        return Weights()
    filters, caption = _filters(path, f"checkpoints/{chosen[-1]}", read[max(read)])
    return Weights(_histograms(read), filters, caption)


def _spread(names: Sequence[str]) -> list[str]:
    last = len(names) - 1
    places = [round(last * i / (_MOST_CHECKPOINTS - 1)) for i in range(_MOST_CHECKPOINTS)] if names else []
    return [names[i] for i in dict.fromkeys(places)]


def _matrices(path: Path, folder: str) -> dict[str, Any]:
    """Weights of two dimensions or more, by their names in the model; averaged ones where there are such."""
    import numpy as np
    import safetensors.numpy

    try:
        found = safetensors.numpy.load(files.read(path, f"{folder}/{_TENSORS}"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError):
        return {}
    kept = {}
    for name, tensor in found.items():
        if name.startswith("model.") and tensor.ndim > 1 and tensor.dtype.kind == "f" and np.isfinite(tensor).all():
            kept[name.removeprefix("model.")] = tensor
    return kept


def _histograms(read: Mapping[int, Mapping[str, Any]]) -> list[Chart]:
    """Of each of the largest tensors one, with a line for each checkpoint."""
    import numpy as np

    newest = read[max(read)]
    names = sorted(newest, key=lambda name: -newest[name].size)[:_MOST_TENSORS]
    made = []
    for name in names:
        several = {step: _some(tensors[name].ravel()) for step, tensors in sorted(read.items()) if name in tensors}
        ends = [float(f([f(values) for values in several.values()])) for f in (np.min, np.max)]
        if not ends[0] < ends[1]:
            continue
        edges = np.linspace(ends[0], ends[1], _BINS + 1)
        middle = ((edges[1:] + edges[:-1]) / 2).tolist()
        lines = [
            Line(f"step {step}", middle, (np.histogram(values, edges)[0] / values.size).tolist(), number)
            for number, (step, values) in enumerate(several.items())
        ]
        made.append(
            Chart(f"weights {name}", lines, x="weight", note="share of the weights in each of 60 bins", shades=True)
        )
    return made


def _some(values: Any) -> Any:
    """Enough of them to see how all are spread."""
    return values[:: 1 + values.size // _ENOUGH]


def _filters(path: Path, folder: str, tensors: Mapping[str, Any]) -> tuple[str, str]:
    """What each hidden unit looks for: a picture of its weights, those of the largest length first."""
    weight = tensors.get("W")
    if weight is None or weight.ndim != 2:
        return "", ""
    shape = _shape(path, folder)
    if len(shape) == 2 and shape[0] * shape[1] == len(weight) and min(shape) > 1:
        return _tiles(weight.T.reshape(-1, *shape))
    if max(weight.shape) <= _SMALL:
        return _drawn(
            weight
        ), "weights: a row for each visible unit, a column for each hidden one; red above 0, blue below"
    return "", ""


def _shape(path: Path, folder: str) -> tuple[int, ...]:
    space = Run(path).read_json(f"{folder}/state.json").get("space")
    shape = space.get("shape") if isinstance(space, dict) else None
    return tuple(shape) if isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape) else ()


def _tiles(filters: Any) -> tuple[str, str]:
    import numpy as np

    length = np.sqrt((filters.astype(np.float64) ** 2).sum((1, 2)))
    chosen = filters[np.argsort(-length, kind="stable")[:_MOST_FILTERS]]
    across = int(np.ceil(np.sqrt(len(chosen))))
    down = -(-len(chosen) // across)
    height, width = chosen.shape[1:]
    grid = np.full((down * (height + 1) - 1, across * (width + 1) - 1), np.nan)
    for number, tile in enumerate(chosen):
        row, column = number // across * (height + 1), number % across * (width + 1)
        grid[row : row + height, column : column + width] = tile
    which = "all" if len(chosen) == len(filters) else f"{len(chosen)} of {len(filters)}"
    return _drawn(grid), f"filters of {which} hidden units, the longest first; red above 0, blue below"


def _drawn(values: Any) -> str:
    """Red above 0, blue below, white at 0, grey where there is nothing; each value several pixels wide."""
    import numpy as np

    empty = np.isnan(values)
    scale = np.abs(np.where(empty, 0, values)).max() or 1.0
    share = np.clip(np.where(empty, 0, values) / scale, -1, 1)[..., None]
    red, blue = np.array([178, 24, 43.0]), np.array([33, 102, 172.0])
    colour = 255 + np.where(share > 0, share * (red - 255), -share * (blue - 255))
    colour = np.where(empty[..., None], 128, colour).astype(np.uint8)
    zoom = max(1, _ZOOM // values.shape[1])
    return address(png(colour.repeat(zoom, 0).repeat(zoom, 1)))
