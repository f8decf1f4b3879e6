"""Samples of one class: the model of `ebm sample label=Y`."""

from ebm_cli.errors import UserError
from ebm_cli.model.base import Classifier, EnergyModel


def of_label(model: EnergyModel, label: int | None) -> EnergyModel:
    """p(x | y = label), or the model as it is without one. Raises UserError if it has no such class."""
    if label is None:
        return model
    if not isinstance(model, Classifier):
        raise UserError(
            f"label = {label}: this model has no classes; leave it out, or train one that has (model=class_rbm, jem, "
            "leveled_jem)"
        )
    if label >= model.classes:
        raise UserError(f"label = {label}: the classes of the model are 0 to {model.classes - 1}")
    return model.of_class(label)
