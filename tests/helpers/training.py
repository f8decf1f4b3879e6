"""A small run, its gradients and batches."""

import torch

from ebm_cli.dataset.base import Data, batch_index
from ebm_cli.device.base import Device
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.objective.base import Batch
from ebm_cli.rng import stream
from ebm_cli.training import state
from helpers.components import INTERPOLATED, component, shipped
from helpers.data import small_data


def gradients(objective, model, x, x_neg, beside=None):
    """Gradients of an objective by name, and its metrics; `beside` is its auxiliary, or one as it begins."""
    beside = auxiliary(objective, model) if beside is None else beside
    found = objective.gradient(model, Batch(x, x_neg, auxiliary=beside), stream(0, "objective"))
    return objective.finish(model, found), found.metrics


def auxiliary(objective, model, noise: str = "fitted", **changes):
    """What the objective trains beside the model as it begins, in float64, with a noise of `small_data`."""
    key = stream(0, "auxiliary")
    contrasts = objective.contrasts != "nothing"
    law = component("noise", noise, **changes).build(small_data(model.space), key).double() if contrasts else None
    found = objective.auxiliary(model, law, key)
    return None if found is None else found.double()


def batch(data: Data, step: int, size: int, seed: int) -> torch.Tensor:
    """Training batch number `step`."""
    return data.train.rows(batch_index(data.train, step, size, seed), stream(seed, "binarize", step))


def small_run(engine: Engine = EAGER, where: str = "cpu", **changes):
    """Parts and state of a small RBM on 2 x 2 bars and stripes."""
    config = {
        "dataset": shipped("dataset")["bars_and_stripes"] | {"side": 2},
        "model": shipped("model")["rbm"] | {"hidden": 3},
        "sampler": shipped("sampler")["block_gibbs"],
        "chains": shipped("chains")["persistent"],
        "noise": shipped("noise")["fitted"],
        "objective": shipped("objective")["pcd"],
        "optimizer": shipped("optimizer")["sgd"],
    }
    choice = {group: values["name"] for group, values in config.items()}
    components = state.build_components(config | changes, choice)
    device = Device(torch.device(where), where, "fp32", engine)
    loop = state.Loop(steps=50, batch_size=INTERPOLATED["${batch_size}"], seed=0)
    return state.assemble(components, loop, device, state.load_data(components, device), choice)
