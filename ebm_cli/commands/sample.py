"""`ebm sample`: draw from a trained model."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from ebm_cli import picture
from ebm_cli.checkpoint import write_synced
from ebm_cli.commands.parts import accelerated, checked
from ebm_cli.commands.trained import Wanted, open_trained
from ebm_cli.engine import Work
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.samples import draw
from ebm_cli.rng import stream
from ebm_cli.run import Run
from ebm_cli.space import Categorical, Space
from ebm_cli.terminal import log, logging_to, output

_TYPES: dict[str, type] = {
    "binary": np.uint8,
    "spin": np.int8,
    "categorical": np.uint8,
    "words": np.int32,
}  # written, by the space


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of `ebm sample` beside its groups."""

    run: Annotated[str, Field(min_length=1)]
    checkpoint: str  # last, best or a step
    n: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    start: Literal["noise", "chains"]
    seed: Annotated[int, Field(ge=0)]
    plugins: list[str]


def sample(config: Mapping[str, Any]) -> int:
    """Run n chains, write `samples/<time>/{samples.npz, grid.png}`; the exit code."""
    groups = ("sampler", "device")
    settings = {key: value for key, value in config.items() if key not in groups}
    asked = checked(Settings, settings | {"checkpoint": str(config["checkpoint"])})
    with logging_to(None):
        wanted = Wanted(Path(asked.run), asked.checkpoint, config["device"], config.get("sampler"), asked.plugins)
        trained = open_trained(wanted, with_data=False)
        parts, state = trained.parts, trained.state
        work = Work(asked.n * asked.steps, asked.steps)
        parts, _, said = accelerated(parts, state, config, [work], evaluating=True)
        log.info("%s at step %d; %s", asked.run, state.step, said)
        subject = Subject(
            state.averaged_model(), parts.data, "test", parts.components.sampler, state.chains(),
            stream(asked.seed, "sample", state.step), parts.device,
        )  # fmt: skip
        if asked.start == "chains" and len(state.store) < asked.n:
            log.warning("the run keeps %d chains; the other %d start from noise", len(state.store),
                        asked.n - len(state.store))  # fmt: skip
        remark = parts.components.sampler.remark()
        if remark:
            log.warning("%s", remark)
        x, scale = draw(subject, asked.n, asked.steps, asked.start)
        for name, value in scale.items():
            log.info("sampler.%s = %.4g, found in the first half of the steps", name, value)
        x = x.cpu()
    file = _written(trained.run, parts.data.space, x, scale)
    output.print(f"{asked.n} samples after {asked.steps} steps: {file}", soft_wrap=True)
    if parts.data.space.pictured:
        output.print(f"picture: {file.with_name('grid.png')}", soft_wrap=True)
    return 0


def _written(run: Run, space: Space, x: Tensor, scale: Mapping[str, float]) -> Path:
    """samples.npz in a new folder, a picture beside it where there is anything to see."""
    folder, buffer = run.new_folder("samples"), io.BytesIO()
    values = space.decode(x) if isinstance(space, Categorical) else x
    arrays: dict[str, Any] = {"samples": values.numpy().astype(_TYPES.get(space.name, np.float32)), **scale}
    np.savez_compressed(buffer, **arrays)
    write_synced(folder / "samples.npz", buffer.getvalue())
    if space.pictured:
        run.write_image(str(folder.relative_to(run.path) / "grid.png"), picture.grid(space, x))
    return folder / "samples.npz"
