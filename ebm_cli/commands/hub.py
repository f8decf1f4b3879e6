"""What of a run goes into a folder for the Hugging Face hub."""

import re
from typing import Any

import safetensors.torch

from ebm_cli.commands import card, places
from ebm_cli.commands.trained import Trained
from ebm_cli.comparison import facts
from ebm_cli.record import files, hub, plain_json
from ebm_cli.record.checkpoint_space import described
from ebm_cli.record.run import VOCABULARY, Run

_PICTURES = re.compile(r"(samples|statistics|grid)\.png")


def content(trained: Trained, title: str) -> dict[str, bytes]:
    """Files by their names: weights as `ebm evaluate` takes them, config.json, README.md, pictures and figures."""
    model, known = trained.state.averaged_model(), facts.read(trained.run.path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    found = {"samples.png": _samples(trained.run), "curves.png": card.drawn(known)}
    pictures = {name: data for name, data in found.items() if data is not None}
    step = trained.state.step
    figures = {name: value for name, value in known.metrics.items() if "/" in name}
    about: dict[str, Any] = {
        "model_type": "ebm",
        "architectures": [type(model).__name__],
        "step": step,
        "space": described(model.space),
        "data": trained.saved.numbers.get("data"),
        "configuration": _published(trained),
    }
    texts = {
        hub.CONFIG: hub.config(about, weights),
        hub.CARD: card.text(known, model, sorted(pictures), title),
        "summary.json": plain_json.dumps({"steps": step, "judged_step": step, **figures}, indent=1) + "\n",
    }
    words = trained.run.words()
    texts |= {VOCABULARY: "\n".join(words) + "\n"} if words else {}
    return {hub.WEIGHTS: weights, **pictures, **{name: text.encode() for name, text in texts.items()}}


def _published(trained: Trained) -> dict[str, Any]:
    """The configuration without folders of this machine, trackers and addresses."""
    config = places.bare(trained.config)
    return {**config, "tracker": {"name": "none"}, "notify": {"url": None}, "resume": None}


def _samples(run: Run) -> bytes | None:
    """The final picture of samples, else that of the newest `ebm sample`."""
    names = [f"samples/{name}" for name in files.names(run.path, "samples") if _PICTURES.fullmatch(name)]
    for folder in [] if names else reversed(files.names(run.path, "samples")):
        if (run.path / "samples" / folder).is_dir():
            names += [
                f"samples/{folder}/{n}" for n in files.names(run.path, f"samples/{folder}") if _PICTURES.fullmatch(n)
            ]
    return files.read(run.path, names[0]) if names else None
