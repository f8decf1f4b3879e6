"""Single sites of a Potts model in the middle of a sweep."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model import one_hot
from ebm_cli.model.base import CategoricalSites, Site, put_site
from ebm_cli.model.potts_fields import Fields

_LOG2_E = math.log2(math.e)


class PottsSites(CategoricalSites):
    """logits p(x_i = k | rest) = (J x)_ik + h_ik: x_i itself does not enter.

    Every field is summed up anew from the values that the other sites have then, so none carries rounding on.
    """

    def __init__(self, fields: Fields, h: Tensor, x: Tensor) -> None:
        self.fields, self.h = fields, h
        self.x = x.clone()
        self.places = one_hot.places(x)

    @override
    def logits(self, site: Site) -> Tensor:
        """(J x)_i + h_i, (chains, K)."""
        return self.fields.at(self.places, site) + self.h[site]

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        super().assign(site, value)
        self._put(site, value.argmax(1))

    def _put(self, site: Site, number: Tensor) -> None:
        put_site(self.places, site, number + self.h.shape[1] * site)

    @torch.no_grad()
    @override
    def sweep(self, order: Sequence[Site], u: Tensor) -> None:
        """The same as in general, by the values alone: x is written down once, at the end."""
        weight = self.h.new_empty(self.h.shape[1], len(self.x))
        for site, level in zip(order, u.T.contiguous().unbind(), strict=True):
            self._weigh(site, weight)
            self._put(site, rng.reached(weight, level))
        one_hot.write(self.places, self.x)

    def _weigh(self, site: Site, out: Tensor) -> None:
        """exp(logits - max), (K, chains): operations on rows are fast, and so is torch's exp2 beside its exp."""
        h = self.h[site]
        torch.add(self.fields.at(self.places, site).T, h.T if h.dim() > 1 else h[:, None], out=out)
        out.sub_(out.amax(0)).mul_(_LOG2_E).exp2_()
