"""Objectives that fit an RBM of bits, rows of its data, and the gradient they should have."""

import torch

from ebm_cli.model.rbm import RBM
from ebm_cli.objective.likelihood import Likelihood
from ebm_cli.space import Binary
from helpers.components import component, shipped
from helpers.data import small_data
from helpers.models import double_states


def fits_bits(objective):
    """What an objective declares, asked of target("rbm-binary")."""
    return Binary in objective.spaces and all(issubclass(RBM, need) for need in objective.needs)


OBJECTIVES = [
    name
    for name in shipped("objective")
    if fits_bits(component("objective", name)) and name != "softmax"  # pseudo_likelihood, said of words
]
LIKELIHOOD = [name for name in OBJECTIVES if isinstance(component("objective", name), Likelihood)]
WITH_CHAINS = [name for name in LIKELIHOOD if component("objective", name).negatives]


def data_rows(model, n=6):
    return small_data(model.space, n).train.all().double()


def likelihood_gradient(model, x):
    """Of -mean log p(x), by autograd through the sum over all states."""
    loss = model.energy(x).mean() + (-model.energy(double_states(model))).logsumexp(0)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)), loss.item()


def plainly(name):
    """The keys by which a likelihood takes the gradient in the model's own parameters."""
    return {"centered": False} if name in LIKELIHOOD else {}
