"""What is to be said of samples before they are drawn."""

from typing import Any

from ebm_cli.model.base import EnergyModel
from ebm_cli.model.levels import Leveled
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.predictor_corrector import PredictorCorrector


def remarks_on(sampler: Sampler[Any, Any], model: EnergyModel) -> list[str]:
    """Warnings about samples that a sampler draws of a model, one sentence each."""
    return [remark for remark in (sampler.remark(), _one_level(sampler, model), _of_noise(sampler, model)) if remark]


def _one_level(sampler: Sampler[Any, Any], model: EnergyModel) -> str | None:
    """That a sampler which knows nothing of levels stays at the first of them, or None."""
    if not isinstance(model, Leveled) or Leveled in sampler.needs:
        return None
    return (
        "this sampler moves at the first level of noise alone, where chains from noise are lost and others stay in "
        "their mode; take sampler=predictor_corrector, which walks down all levels, or sampler=level_exchange"
    )


def _of_noise(sampler: Sampler[Any, Any], model: EnergyModel) -> str | None:
    """That levels are taken for those of noisy data which they are not, or None."""
    if not isinstance(model, Leveled) or model.of_noise or not isinstance(sampler, PredictorCorrector):
        return None
    if sampler.predictor == "none":
        return None
    return (
        f"sampler.predictor = {sampler.predictor}: takes the levels for those of noisy draws, which those of a product "
        "are not; take sampler.predictor=none with more sampler.transitions, or sampler=level_exchange"
    )
