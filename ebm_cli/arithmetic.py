"""In which arithmetic a model's products are formed."""

from ebm_cli.device import Device
from ebm_cli.model.base import EnergyModel


def arithmetic(model: EnergyModel, device: Device) -> EnergyModel:
    """The model with its products as the device's precision asks; good until its weights change."""
    found = model.in_fixed_point(device.engine) if device.precision == "fixed" else None
    return found or model
