"""Which data `ebm evaluate` judges a run by: its own, wherever they lie now, or others of the same kind."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ebm_cli import registry
from ebm_cli.commands.places import of_dataset, rooted, without
from ebm_cli.dataset.base import Data, Split
from ebm_cli.errors import UserError
from ebm_cli.record.checkpoint import Checkpoint
from ebm_cli.record.checkpoint_space import in_words
from ebm_cli.record.run import VOCABULARY, Run
from ebm_cli.space import Counts, Space
from ebm_cli.training.restore import other_data

OTHER = "other"
"""Stands in the keys of results on data that the run was not trained on: `exact/other/log_likelihood` of their test
split, `exact/other/train/log_likelihood` of another."""


def as_trained(data: Data, saved: Checkpoint, trained: Space, found: Run) -> Data:
    """The data in the space that the model was trained in. Raises UserError if they are of another kind."""
    here, words = data.space, found.words()
    if isinstance(here, Counts) and isinstance(trained, Counts) and other_data(saved, data):
        here = replace(here, length=trained.length)  # other documents are longer or shorter
    if here != trained:
        raise UserError(
            f"dataset: reads {in_words(here)} rows, the model of {saved.path} takes {in_words(trained)}; name "
            "data of such rows, dataset.path=FILE"
        )
    if data.words and words is not None and data.words != words:
        raise UserError(
            f"dataset: its words are not those of {found.path / VOCABULARY}, which the model knows; use data with the "
            "same vocabulary"
        )
    return data if here == data.space else _in_space(data, here)


def other_than_trained(
    saved: Checkpoint, data: Data, own: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Which data these are, if not those of the run: other rows, or its rows read with other keys."""
    same = without(config)["dataset"] == without(rooted(own))["dataset"]
    if same and not other_data(saved, data):
        return None
    dataset = config["dataset"]
    return {
        "dataset": dataset["name"],
        **of_dataset(dataset),
        "hash": data.fingerprint,
        "trained_on": saved.numbers.get("data"),
    }


def said(split: str, data: Data, others: Mapping[str, Any] | None, step: int) -> str:
    """The split that is judged, in words, with which data it is of, which at step 0 no model was trained on here."""
    part: Split = getattr(data, split)
    rows = f"{split} split, {len(part)} rows"
    if others is None:
        return rows
    if step and others["hash"] == others["trained_on"]:
        return f"{rows}, of the data it was trained on, read with other keys"
    place = next((str(others[key]) for key in registry.FILE_KEYS if key in others), others["dataset"])
    which = "other data than it was trained on" if step else "the data that were named"
    return f"{rows}, of {which}: {place} (hash {others['hash'][:12]})"


def _in_space(data: Data, space: Space) -> Data:
    valid = None if data.valid is None else replace(data.valid, space=space)
    return replace(
        data, space=space, train=replace(data.train, space=space), valid=valid, test=replace(data.test, space=space)
    )
