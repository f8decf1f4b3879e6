"""In which arithmetic a model's products are formed."""

from ebm_cli.device.base import Device
from ebm_cli.model.base import EnergyModel

_DIGITS = {"fixed16": 2, "fixed24": 3}


def arithmetic(model: EnergyModel, device: Device) -> EnergyModel:
    """The model with its products as the device's precision asks, for training; good until its weights change."""
    return _in_digits(model, device, _DIGITS.get(device.precision))


def full_arithmetic(model: EnergyModel, device: Device) -> EnergyModel:
    """The same for evaluation: nothing coarser than float32."""
    return _in_digits(model, device, 3 if device.precision in _DIGITS else None)


def _in_digits(model: EnergyModel, device: Device, digits: int | None) -> EnergyModel:
    found = model.in_fixed_point(digits, device.engine) if digits else None
    return found or model
