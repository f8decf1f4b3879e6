"""Restricted Boltzmann machine of rows and their classes (Larochelle & Bengio 2008)."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import softplus_sum
from ebm_cli.model import visible_units
from ebm_cli.model.base import Classifier, Gradients, ModelSpec, Pullback, WithHidden, put_free
from ebm_cli.model.harmonium import DiscreteHarmonium
from ebm_cli.model.hidden_units import BinaryHidden
from ebm_cli.model.rbm import RBM
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Categorical, Discrete, Space, Spin


class ClassRBM(Classifier, WithHidden):
    """E(v, y, h) = -b.v - d_y - c.h - v.W h - U_y.h, h bits, y one of the classes (their eq. 1, where v are bits).

    v are bits, spins or one-hot categories.

    With h summed out f(v)[y] = b.v + d_y + sum_j softplus(c_j + U_yj + (v W)_j), so that p(y | v) = softmax_y f(v)[y]
    is exact (their eq. 2), and E(v) = -log sum_y exp(f(v)[y]) has the class summed out. Given a class it is an RBM with
    hidden biases c + U_y. W (units of v, hidden), U (classes, hidden).
    """

    called = "class RBM"
    energy_is = "free_energy"
    compiles = True
    couplings = ("W", "U")
    tempers = False
    sweeps_given = True
    space: Discrete

    def __init__(self, space: Discrete, hidden: int, classes: int, weight_std: float, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space, self.hidden, self.classes = space, hidden, classes
        self.W = nn.Parameter(weight_std * rng.normal((mean.numel(), hidden), key.fold("W")))
        self.U = nn.Parameter(weight_std * rng.normal((classes, hidden), key.fold("U")))
        self.b = nn.Parameter(visible_units.fields_of_mean(space, mean).flatten())
        self.c = nn.Parameter(torch.zeros(hidden))
        self.d = nn.Parameter(torch.zeros(classes))

    @property
    @override
    def drawn(self) -> int:
        """The class too."""
        return super().drawn + 1

    def inputs(self, v: Tensor) -> Tensor:
        """c + v W, those of the hidden units without a class, (batch, hidden)."""
        return torch.addmm(self.c, v.flatten(1), self.W)

    def of_classes(self, inputs: Tensor) -> Tensor:
        """Those with each of the classes, (batch, classes, hidden)."""
        return inputs[:, None] + self.U

    def bias_given(self, y: int) -> Tensor:
        """c + U_y, the hidden biases of a class, (hidden,)."""
        return (self.c + self.U[y]).detach()

    def _logits(self, v: Tensor, hidden_logits: Tensor) -> Tensor:
        return (v.flatten(1) @ self.b)[:, None] + self.d + softplus_sum(hidden_logits)

    @override
    def logits(self, x: Tensor) -> Tensor:
        return self._logits(x, self.of_classes(self.inputs(x)))

    @torch.no_grad()
    @override
    def logits_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """With s = sigmoid(c + U_y + v W): df_y/dW = v s^T, df_y/dU_y = df_y/dc = s, df_y/db = v, df_y/dd_y = 1."""
        logits = self.of_classes(self.inputs(x))
        active, v = logits.sigmoid(), x.flatten(1)

        def pull(weight: Tensor) -> Gradients:
            each = weight[:, :, None] * active
            own, rows = each.sum(1), weight.sum(1)
            return {"W": v.T @ own, "U": each.sum(0), "b": rows @ v, "c": own.sum(0), "d": weight.sum(0)}

        return self._logits(x, logits), pull

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """dE = -sum_y p(y | v) df_y."""
        logits, pull = self.logits_vjp(x)
        p = logits.softmax(1)
        return -logits.logsumexp(1), lambda weight: pull(-weight[:, None] * p)

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dv = -b - E[h | v] W^T."""
        hidden_logits = self.of_classes(self.inputs(x))
        logits = self._logits(x, hidden_logits)
        mean = (logits.softmax(1)[:, :, None] * hidden_logits.sigmoid()).sum(1)
        return -logits.logsumexp(1), torch.addmm(-self.b, mean, self.W.T, alpha=-1).reshape(x.shape)

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """y ~ p(y | v), h ~ p(h | v, y), which is (y, h) ~ p(y, h | v), then v ~ p(v | h): reversible on v."""
        inputs = self.inputs(x)
        y = rng.categorical(self._logits(x, self.of_classes(inputs)), key.fold("label"))
        h = rng.bernoulli(inputs + self.U[y], key.fold("hidden"))
        return visible_units.draw(self.space, torch.addmm(self.b, h, self.W.T), key.fold("visible"))

    @override
    def sweep_given(self, x: Tensor, free: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Visible units are independent given h, so that those which are not free need only stay."""
        return put_free(x, free, self.sweep(x, key, backwards=backwards))

    @override
    def log_marginal(self, h: Tensor) -> Tensor:
        """c.h + log sum_v exp(v.(b + W h)) + log sum_y exp(d_y + U_y.h), (batch,)."""
        of_visible = visible_units.log_sum(self.space, torch.addmm(self.b, h, self.W.T))
        return h @ self.c + of_visible + torch.addmm(self.d, h, self.U.T).logsumexp(1)

    @override
    def activities(self, x: Tensor) -> list[Tensor]:
        """p(h_j = 1 | v), whatever the class."""
        hidden_logits = self.of_classes(self.inputs(x))
        p = self._logits(x, hidden_logits).softmax(1)
        return [(p[:, :, None] * hidden_logits.sigmoid()).sum(1)]

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`hidden`, and `class`: p(y | v) of each class y."""
        return {**super().features(x), "class": self.logits(x).softmax(1)}

    @override
    def of_class(self, y: int) -> "ClassOfRBM | ClassOfHarmonium":
        return (ClassOfRBM if isinstance(self.space, Binary) else ClassOfHarmonium)(self, y)


class ClassOfRBM(RBM):
    """p(v | y) of a class RBM: the RBM with hidden biases c + U_y."""

    has_fixed_point = False

    def __init__(self, model: ClassRBM, y: int) -> None:
        nn.Module.__init__(self)
        self.space, self.hidden = model.space, model.hidden
        self.W, self.b = model.W, model.b
        self.c = nn.Parameter(model.bias_given(y))


class ClassOfHarmonium(DiscreteHarmonium):
    """The same of spins or categories."""

    def __init__(self, model: ClassRBM, y: int) -> None:
        nn.Module.__init__(self)
        self.space, self.units, self.hidden = model.space, BinaryHidden(), model.hidden
        self.W, self.b = model.W, model.b
        self.c = nn.Parameter(model.bias_given(y))


@register("model", "class_rbm")
class ClassRBMSpec(ModelSpec):
    """Restricted Boltzmann machine of rows and their classes; visible biases start at the mean of the data."""

    hidden: Annotated[int, Field(ge=1)]
    classes: Annotated[int, Field(ge=2)]
    weight_std: Annotated[float, Field(ge=0)]

    builds = ClassRBM
    spaces = (Binary, Spin, Categorical)

    @override
    def parameters(self, space: Space) -> int:
        return (math.prod(space.shape) + self.classes + 1) * (self.hidden + 1) - 1

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> ClassRBM:
        """W, U ~ N(0, weight_std^2), b = logit(mean), half of that of spins, or log(mean), c = 0, d = 0."""
        assert isinstance(space, Discrete)
        return ClassRBM(space, self.hidden, self.classes, self.weight_std, mean, key)
