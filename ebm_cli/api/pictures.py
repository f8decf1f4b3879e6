"""The pictures of a run, which a notebook shows."""

import html
import io
from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.record import files
from ebm_cli.record.run import Run, png

_FOLDER, _ENDING, _WHILE_TRAINING = "samples", ".png", "step-"


class Pictures(dict[str, NDArray[np.uint8]]):
    """Arrays (height, width) or (height, width, 3) by name, such as `samples`; those made while training come first."""

    def _repr_html_(self) -> str:
        """Those of the last evaluation, or of the last step that has one."""
        last = [name for name in self if not name.startswith(_WHILE_TRAINING)] or [*self][-1:]
        return "".join(_shown(name, self[name]) for name in last)


def pictures_of(run: Run) -> Pictures:
    """What lies in its folder `samples`; nothing where there is none."""
    from PIL import Image

    there = [name for name in files.names(run.path, _FOLDER) if name.endswith(_ENDING)]
    order = sorted(there, key=lambda name: (not name.startswith(_WHILE_TRAINING), name))
    found: Any = {}
    for name in order:
        with Image.open(io.BytesIO(files.read(run.path, f"{_FOLDER}/{name}"))) as image:
            found[name.removesuffix(_ENDING)] = np.asarray(image)
    return Pictures(found)


def _shown(name: str, image: NDArray[np.uint8]) -> str:
    data, said = b64encode(png(image)).decode(), html.escape(name)
    return f'<figure><img alt="{said}" src="data:image/png;base64,{data}"><figcaption>{said}</figcaption></figure>'
