"""Flow contrastive estimation: noise-contrastive estimation against a flow that learns to be mistaken for the data."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel
from ebm_cli.noise.base import Noise
from ebm_cli.noise.flow import Flowing
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Objective, slopes
from ebm_cli.objective.nce import Contrast, begun, told_apart
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Real


@register("objective", "flow_contrastive")
class FlowContrastive(Objective):
    """min over the flow q, max over the model and c of V = E_data log sigmoid(G(x)) + E_q log sigmoid(-G(y)).

    G(x) = -E(x) - c - log q(x): noise-contrastive estimation with k = 1 against a flow (Gao et al. 2020, sect.
    3). If the flow has the density of the data, V is at most -2 log 2, which it is where exp(-E - c) is that density
    too. Both are updated at once, the flow through its draws as well as through its density, but for the model (and c)
    only while the share of rows it tells apart is at most `model_below`, for the flow only while it is at least
    `flow_above`: gradients of the other are 0 in that update (there, each is updated until the share has crossed one
    half). `likelihood` adds -likelihood E_data log q(x) to what the flow minimises, which keeps it over the data.
    """

    model_below: Annotated[float, Field(gt=0, le=1)]
    flow_above: Annotated[float, Field(ge=0, lt=1)]
    likelihood: Annotated[float, Field(ge=0)]

    spaces = (Real,)

    @property
    @override
    def places(self) -> int:
        """The row, and a draw of the flow."""
        return 2

    @property
    @override
    def contrasts(self) -> Literal["nothing", "samples", "density"]:
        return "density"

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Auxiliary:
        """The flow, and c. Raises UserError if the noise is another."""
        if not isinstance(noise, Flowing):
            raise UserError("objective=flow_contrastive: needs a noise that learns by its draws; use noise=flow")
        return Contrast(noise, 1, begun(model, noise, key, known=True))

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """One graph for both: dV of the flow, -dV of the model and c."""
        contrast = batch.auxiliary
        assert isinstance(contrast, Contrast)
        assert isinstance(contrast.noise, Flowing)
        x, n, noise = batch.x, len(batch.x), contrast.noise
        model_names, flow_names = _names(model, contrast)
        with torch.enable_grad():
            rows = torch.cat([x, noise.push(n, key.after(batch.first).fold("noise")).to(x.dtype)])
            logits = contrast.logits(model.energy(rows), rows)
            value = F.logsigmoid(logits[:n]).mean() + F.logsigmoid(-logits[n:]).mean()
            flow_loss = value - self.likelihood * noise.log_prob(x).mean() if self.likelihood else value
            of_flow = slopes(flow_loss, flow_names, retain=True)
            of_model = slopes(-value, model_names)
        metrics = told_apart(logits[:n].detach(), logits[n:].detach(), 1)
        found = _gated(of_model, metrics["accuracy"] <= self.model_below)
        found |= _gated(of_flow, metrics["accuracy"] >= self.flow_above)
        return Gradient(found, {**metrics, "value": value.detach(), "c": contrast.c.detach()}, {})


def _names(model: EnergyModel, contrast: Contrast) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters of the model and c, and of the flow, by the names of their gradients."""
    mine: dict[str, torch.Tensor] = {**dict(model.named_parameters()), "auxiliary.shift": contrast.shift}
    return mine, {f"auxiliary.noise.{name}": p for name, p in contrast.noise.named_parameters()}


def _gated(gradients: dict[str, torch.Tensor], wanted: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients, or zeros, without asking the device which."""
    return {name: torch.where(wanted, grad, torch.zeros_like(grad)) for name, grad in gradients.items()}
