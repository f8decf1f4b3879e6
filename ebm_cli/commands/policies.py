"""Draws of the policy that a run has trained beside its model."""

from collections.abc import Mapping
from typing import Any

from ebm_cli.errors import UserError
from ebm_cli.model.policy import PolicyModel
from ebm_cli.objective.gflownet import Beside
from ebm_cli.training.state import TrainState

_NAME = "gflownet"


def asked_for(config: Mapping[str, Any], given: list[str] | str) -> bool:
    """Whether sampler=gflownet is, which draws from the policy. Raises UserError beside given rows or words."""
    if (config.get("sampler") or {}).get("name") != _NAME:
        return False
    if given:
        raise UserError(f"sampler={_NAME}: draws whole configurations; leave out given, or take another sampler")
    return True


def model(state: TrainState) -> PolicyModel:
    """The law of the policy's draws. Raises UserError if the run has none."""
    if not isinstance(state.auxiliary, Beside):
        raise UserError(
            f"sampler={_NAME}: this run has no policy; train one by objective={_NAME}, or take another sampler"
        )
    return PolicyModel(state.auxiliary.policy)
