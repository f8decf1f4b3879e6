"""What a person probably meant by a word that this command line does not know: names that other tools use."""

import os
from collections.abc import Sequence

from ebm_cli.cli.listing import group_of
from ebm_cli.errors import install, nearest

_SAME = {
    "k": "chains.steps", "cd_k": "chains.steps", "n_gibbs": "chains.steps", "gibbs_steps": "chains.steps",
    "n_chains": "chains.count", "num_chains": "chains.count", "hidden": "model.hidden", "nhidden": "model.hidden",
    "n_hidden": "model.hidden", "num_hidden": "model.hidden", "hidden_units": "model.hidden",
    "n_components": "model.hidden", "lr": "optimizer.lr", "learning_rate": "optimizer.lr",
    "batch": "batch_size", "batchsize": "batch_size", "num_steps": "steps", "n_steps": "steps", "n_iter": "steps",
    "iterations": "steps", "max_steps": "steps", "random_state": "seed", "gpu": "device=cuda", "cuda": "device=cuda",
    "cpu": "device=cpu", "threads": "device.threads", "output": "hydra.run.dir", "output_dir": "hydra.run.dir",
}  # fmt: skip
_HOW_MANY = ("chains", "samples", "count")
_OF_ANOTHER = {("train", "run"): "resume", ("tune", "run"): "resume", ("sample", "data"): "given"}
"""Keys that other commands take, and what is meant by them here."""
_EPOCHS = ("epochs", "n_epochs", "num_epochs", "max_epochs", "epoch")
_EXTRAS = {
    "hydra/launcher": {"joblib": "joblib", "submitit_slurm": "slurm", "ray": "ray"},
    "hydra/sweeper": {},
}  # choices that come with an extra


def key_meant(name: str, command: str) -> str | None:
    """What another command's, or another tool's, name of a key is called here, in words, or None."""
    if (command, name) in _OF_ANOTHER:
        return f"did you mean {_OF_ANOTHER[command, name]}?"
    if command not in ("train", "tune"):
        return None
    if name in _EPOCHS:
        return "training is counted in steps, one update of the weights each: steps=N"
    return f"did you mean {_SAME[name]}?" if name in _SAME else None


def as_typed(message: str, words: Sequence[str]) -> str:
    """A sentence on the number that a key has, with the number as it was typed."""
    key, _, rest = message.partition(" = ")
    read, _, wrong = rest.partition(": ")
    typed = next((value for name, _, value in (word.partition("=") for word in reversed(words)) if name == key), read)
    try:
        same = float(typed) == float(read)
    except ValueError:
        return message
    return f"{key} = {typed}: {wrong}" if same else message


def beside(name: str, words: list[str]) -> str | None:
    """What the number of chains is called among the keys next to one that is not there, or None."""
    place, _, key = name.rpartition(".")
    found = [f"{place}.{other}" for other in _HOW_MANY if key in _HOW_MANY and f"{place}.{other}" in words]
    return f"did you mean {found[0]}?" if found else None


def word_meant(word: str, command: str) -> str | None:
    """What a word without "=" was perhaps meant to be: a run, or the choice of a group; or None."""
    if os.path.isdir(word):
        key = "resume" if command in ("train", "tune") else "run"
        return f"{key}={word}" if os.path.isfile(os.path.join(word, "config.yaml")) else None
    group = group_of(word) if command in ("train", "tune") else None
    return f"{group}={word}" if group else None


def not_installed(group: str, name: str) -> str | None:
    """That a launcher comes with an extra, or that there is no such thing; None where the group is one of ours."""
    if group not in _EXTRAS:
        return None
    known = _EXTRAS[group]
    if name in known:
        return f"{group}={name} is not installed; it comes with an extra, {install(known[name])}"
    there = ["basic", "stacked", *known] if known else ["basic"]
    return f"no {group} named {name}{nearest(name, there)} (one of: {', '.join(there)})"
