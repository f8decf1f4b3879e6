"""The term of the chains' own distribution that contrastive divergence leaves out (Du et al. 2021, sec. 3.1)."""

import torch
from torch import Tensor
from torch.func import functional_call

from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.objective.base import Metrics, Tail, slopes

_TINY = 1e-12  # added to a squared distance, so that the gradient at distance 0 is 0 and not undefined


def kl_gradient(model: EnergyModel, tail: Tail, entropy: float) -> tuple[Gradients, Metrics]:
    """The gradient of KL(q || p) with p held fixed, up to constants: of L_opt + entropy L_ent; and both.

    q is the distribution of the ends of the chains, which depends on the parameters through their last transitions.
    L_opt = mean E(x), E with parameters that are constants; L_ent = -mean log NN(x), NN the distance to the nearest
    other sample (Beirlant et al. 1997), which lacks the dimension as a factor (Du et al. 2021, eq. 8 and 9).
    """
    parameters = dict(model.named_parameters())
    with torch.enable_grad():
        ends = tail.ends(model)
        opt = functional_call(model, {name: p.detach() for name, p in parameters.items()}, (ends,)).mean()
        ent = -log_nearest(ends, tail.others).mean()
        found = slopes(opt + entropy * ent, parameters)
    metrics = {"kl_energy": opt.detach(), "kl_log_distance": -ent.detach()}
    return found, metrics


def log_nearest(x: Tensor, others: Tensor) -> Tensor:
    """log of the Euclidean distance of each row of x to the nearest of `others`, (batch,), differentiable in x.

    Without others: to the nearest other row of x.
    """
    flat = x.flatten(1)
    rows = others.flatten(1) if len(others) else flat.detach()
    with torch.no_grad():
        distance = torch.cdist(flat, rows)
        if not len(others):
            distance.fill_diagonal_(torch.inf)
        nearest = distance.argmin(1)
    return 0.5 * ((flat - rows[nearest]).square().sum(1) + _TINY).log()
