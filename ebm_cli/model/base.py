"""Energy-based models: p(x) = exp(-E(x)) / Z, energies in nats."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.device.engine import Engine
from ebm_cli.functional import softplus_sum
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Categorical, Discrete, Space, TwoValued, Words

Site = int | Tensor  # one site for all chains, or (chains,) int64 with one for each
Gradients = dict[str, Tensor]  # by the name of the parameter
Pullback = Callable[[Tensor], Gradients]


class EnergyModel(nn.Module, ABC):
    """E: space -> R with its parameters. Low energy is high probability."""

    space: Space
    called: ClassVar[str] = "energy"
    """What a model is that has this class's capability, in a word for messages."""
    energy_is: ClassVar[str] = "energy"
    """What E(x) is called: of models whose hidden units are summed out the free energy."""
    compiles: ClassVar[bool] = False
    """Whether its methods are tensor operations that `torch.compile` can trace, its gradients in closed form."""
    no_conditionals: ClassVar[str | None] = None
    """Why no chain draws some of its sites given the others, in words, or None."""
    couplings: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters that couple sites, which a penalty on couplings is for."""
    has_fixed_point: ClassVar[bool] = False
    """Whether `in_fixed_point` gives a model."""
    own_scale: ClassVar[bool] = False
    """Whether it begins at the mean and standard deviation of the data, whatever these are."""
    takes_sparse: ClassVar[bool] = False
    """Whether `energy_vjp` and `sweep` take `functional.sparse_rows`, and a sweep gives such."""
    convolves: ClassVar[bool] = False
    """Whether convolutions are most of the work of its energy."""

    @property
    def drawn(self) -> int:
        """Numbers that one transition of one chain draws: a site or a unit each."""
        return self.space.sites

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """E(x), (batch,) for x (batch, *space.shape)."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x)

    def improper(self) -> str | None:
        """Why exp(-E) has no finite integral with the parameters as they are, or None if nothing is known of that."""
        return None

    def narrowest(self) -> Tensor | None:
        """Standard deviations of real sites given all else, (sites,), where the model has such parameters."""
        return None

    def measure(self, rows: Callable[[], Tensor]) -> None:
        """Take up moments of training rows, (rows, sites) float64, where they are asked for: nothing here."""

    def mixed(self, base: "EnergyModel", share: float | Tensor, beta: float | Tensor) -> "EnergyModel | None":
        """share E_base + beta E up to a constant, as a model of its own kind; None where there is none."""
        return None

    def mixed_sites(
        self, base: "EnergyModel", share: float | Tensor, beta: float | Tensor, x: Tensor
    ) -> "Sites | None":
        """`sites(x)` at share E_base + beta E by a form of its own; None where there is none."""
        return None

    def in_fixed_point(self, digits: int, engine: Engine) -> "EnergyModel | None":
        """The model as it is now with its products in fixed point (`fixed_point.py`), or None if it has none.

        It shares the other tensors, and holds until the weights change.
        """
        return None

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E(x) (batch,) and dE/dx (batch, *shape), detached; gradients of the parameters stay as they are."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.energy(x)
            (grad,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), grad

    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """E(x) (batch,), detached, and the map from weights w (batch,) to sum_n w_n dE(x_n)/dtheta.

        Here by automatic differentiation; a closed form spares one pass.
        """
        return self.differentiated(self.energy, x)

    def differentiated(self, f: Callable[..., Tensor], *x: Tensor) -> tuple[Tensor, Pullback]:
        """f(x), detached, and the map from weights w of its shape to sum w df(x)/dtheta, by automatic
        differentiation."""
        parameters = dict(self.named_parameters())
        with torch.enable_grad():
            value = f(*x)

        def pull(weight: Tensor) -> Gradients:
            found = torch.autograd.grad(value, [*parameters.values()], weight, materialize_grads=True)
            return dict(zip(parameters, found, strict=True))

        return value.detach(), pull

    def log_conditionals(self, x: Tensor, sites: Tensor) -> Tensor:
        """log p(x_i | rest) for some sites i, (batch, len(sites)), differentiable in the parameters (discrete spaces).

        Here by one energy for each value of each site: sum over values k of exp(E(x) - E(x with x_i = k)), inverted.
        """
        space = cast(Discrete, self.space)
        values, energy, found = space.decode(x).flatten(1), self.energy(x), []
        for site in sites.tolist():
            others = values.repeat(space.values, 1, 1)
            others[:, :, site] = torch.arange(space.values, device=x.device)[:, None].to(values.dtype)
            rows = space.encode(others.reshape(-1, *space.site_shape)).to(x.dtype)
            energies = self.energy(rows).reshape(space.values, len(x))
            found.append(-(energy - energies).logsumexp(0))
        return torch.stack(found, 1)

    def hidden_states(self) -> Discrete | None:
        """States of the hidden units that the visible ones can be summed out given (`log_marginal`), or None."""
        return None

    def log_marginal(self, h: Tensor) -> Tensor:
        """log sum_v exp(-E(v, h)), (batch,), an integral where v is real; of documents that of one word.

        Raises TypeError where there is none.
        """
        raise TypeError(f"{type(self).__name__} has no joint energy of visible and hidden units")

    def activities(self, x: Tensor) -> list[Tensor]:
        """p(h_j = 1 | x) of binary hidden units, (batch, units) for each layer of them; none here."""
        return []

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """What the model makes of x (batch, *shape) on the way to its energy, (batch, numbers) by name.

        Here the activities of hidden units, `hidden`, or `hidden_1`, `hidden_2` ... of several layers; nothing of a
        model that has none.
        """
        layers = self.activities(x)
        return {"hidden": layers[0]} if len(layers) == 1 else {f"hidden_{i}": p for i, p in enumerate(layers, 1)}

    def of_rows(self, rows: slice | Tensor) -> "EnergyModel":
        """The model of some chains alone, a slice of them or (chains,) bool: itself, unless each chain has a density of
        its own (`model/given.py`, `model/scaled.py`)."""
        return self

    def sites(self, x: Tensor) -> "Sites":
        """Chains at positions x, ready to be updated site by site (discrete spaces)."""
        return CategoricalEnergySites(self, x) if isinstance(self.space, Categorical) else EnergySites(self, x)


class Intractable(EnergyModel):
    """A model with no unnormalised p(x) that could be computed: it can be sampled, and its likelihood be bounded.

    What asks a model for its energy is refused (`training/checks.py`), unless such a model is among what it needs.
    """

    called = "intractable"

    @override
    def energy(self, x: Tensor) -> Tensor:
        """There is none. Raises TypeError."""
        raise TypeError(f"{type(self).__name__} has no energy of x")


class Normalised(EnergyModel):
    """A model whose partition function is known and that can be sampled exactly."""

    independent: ClassVar[bool] = False
    """Whether sites are independent, so that exact draws of some are draws given the others."""

    @abstractmethod
    def log_z(self) -> Tensor:
        """log Z, a scalar in nats."""

    @abstractmethod
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """n independent draws, (n, *shape)."""


class Classifier(EnergyModel):
    """Logits f(x)[y] for each class y, of which p(x, y) is proportional to exp(f(x)[y]) (Grathwohl et al. 2020, eq. 5).

    E(x) = -log sum_y exp(f(x)[y]), their eq. 7, and p(y | x) = softmax_y f(x)[y].
    """

    called = "classifying"
    classes: int

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """f(x), (batch, classes)."""

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-log sum_y exp(f(x)[y])."""
        return -self.logits(x).logsumexp(1)

    def logits_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """f(x), detached, and the map from weights w (batch, classes) to sum_ny w_ny df(x_n)[y]/dtheta.

        Here by automatic differentiation.
        """
        return self.differentiated(self.logits, x)

    def of_class(self, y: int) -> EnergyModel:
        """p(x | y), proportional to exp(f(x)[y])."""
        return OneClass(self, y)


class OneClass(EnergyModel):
    """The rows of one class y of a classifier: E(x) = -f(x)[y]."""

    def __init__(self, model: Classifier, y: int) -> None:
        super().__init__()
        self.space, self.model, self.y = model.space, model, y

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-f(x)[y], (batch,)."""
        return -self.model.logits(x)[:, self.y]


class Conditional(EnergyModel):
    """A model of the word that follows a context: p(w | context) = exp(-E(x)) / Z(context), w the last word of x."""

    called = "conditional"
    space: Words

    @abstractmethod
    def scores(self, context: Tensor) -> Tensor:
        """-E with each word of the vocabulary as the last, (batch, V) for context (batch, words before the last)."""

    def log_z(self, context: Tensor) -> Tensor:
        """log Z(context) = log sum_w exp(-E(context, w)), (batch,)."""
        return self.scores(context).logsumexp(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(w | context) of the last words, (batch,)."""
        log_p = self.scores(x[:, :-1]).log_softmax(1)
        return log_p.gather(1, x[:, -1:].long()).squeeze(1)

    @override
    def log_conditionals(self, x: Tensor, sites: Tensor) -> Tensor:
        """The last word is the only site, so that this is log p(w | context), (batch, len(sites))."""
        return self.log_prob(x)[:, None].expand(-1, len(sites))

    @override
    def sites(self, x: Tensor) -> "LastWord":
        """Ready to draw the last word."""
        return LastWord(self, x)


class Blocked(EnergyModel):
    """A model whose sites fall into blocks, each of sites independent of each other given the rest."""

    called = "block-structured"
    tempers: ClassVar[bool] = True
    """Whether its blocks can be drawn at other temperatures too (`model/scaled.py`)."""

    sweeps_given: ClassVar[bool] = False
    """Whether it has `sweep_given`."""

    @abstractmethod
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every block drawn once given the others, in their order or the reverse of it."""

    def sweep_given(self, x: Tensor, free: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """`sweep` in which the sites that are not `free` (batch, sites) bool stay, so that it leaves p(free | others)
        invariant. Raises TypeError where there is none."""
        raise TypeError(f"the blocks of {type(self).__name__} are not drawn in parts")


class Quadratic(EnergyModel):
    """E(x) = -x.J x / 2 - b.x on flat x, J symmetric (discrete spaces).

    `dense` says whether J is best had as a matrix; where it is not, `coupling` makes one all the same.
    """

    dense: bool = True

    @abstractmethod
    def coupling(self) -> Tensor:
        """J, (numbers of x, numbers of x)."""

    def entries(self, name: str) -> Tensor:
        """Which numbers of a parameter of `couplings` are read, bool in its shape: all of them."""
        return torch.ones_like(self.get_parameter(name), dtype=torch.bool)

    @abstractmethod
    def slopes(self, x: Tensor, coupling: Tensor | None) -> tuple[Tensor, Tensor]:
        """E(x) (batch,) and dE/dx = -(J x + b) (batch, *shape), given J where the model is dense."""

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one product of x with J."""
        return self.slopes(x, self.coupling() if self.dense else None)


class WithHidden(Blocked):
    """Binary hidden units h, given which all visible ones can be summed out."""

    energy_is = "free_energy"
    hidden: int

    @property
    @override
    def drawn(self) -> int:
        return self.space.sites + self.hidden

    @override
    def hidden_states(self) -> Discrete:
        """All bits."""
        return Binary((self.hidden,))

    @abstractmethod
    @override
    def log_marginal(self, h: Tensor) -> Tensor: ...


class TwoLayers(WithHidden):
    """Visible units, independent given the hidden ones, and hidden units, independent given the visible ones.

    p(h_j = 1 | v) = sigmoid(a_j(v)).
    """

    called = "two-layer"
    sweeps_given = True

    @abstractmethod
    def hidden_logits(self, v: Tensor) -> Tensor:
        """a(v), (batch, hidden)."""

    @abstractmethod
    def sample_visible(self, h: Tensor, key: AnyKey) -> Tensor:
        """v ~ p(v | h), (batch, *shape)."""

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """h ~ p(h | v), then v ~ p(v | h), which is reversible as a kernel on v."""
        return self.sample_visible(self.sample_hidden(x, key.fold("hidden")), key.fold("visible"))

    @override
    def sweep_given(self, x: Tensor, free: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Visible units are independent given h, so that those which are not free need only stay."""
        return put_free(x, free, self.sweep(x, key, backwards=backwards))

    @override
    def activities(self, x: Tensor) -> list[Tensor]:
        """sigmoid(a(v))."""
        return [self.hidden_logits(x).sigmoid()]

    def sample_hidden(self, v: Tensor, key: AnyKey) -> Tensor:
        """h ~ p(h | v), (batch, hidden)."""
        return rng.bernoulli(self.hidden_logits(v), key)


class MixtureRBM(TwoLayers):
    """Of the visible units some are real: a mixture of 2^H products.

    E(v, h) = E(v, 0) - h.a(v), so that E(v) = E(v, 0) - sum_j softplus(a_j(v)).
    """

    called = "real bipartite"
    tempers = False

    @abstractmethod
    def at_rest(self, v: Tensor) -> Tensor:
        """E(v, 0), (batch,)."""

    @abstractmethod
    def annealed(self, base: Normalised, beta: float | Tensor) -> "MixtureRBM":
        """E_beta(v, h) = (1 - beta) E_base(v) + beta E(v, h), but for a constant, of independent units as base."""

    @override
    def energy(self, x: Tensor) -> Tensor:
        """The free energy, hidden units summed out."""
        return self.at_rest(x) - softplus_sum(self.hidden_logits(x))


class Bipartite(TwoLayers):
    """Binary visible units v and binary hidden units h, independent given each other.

    E(v, h) = -b.v - sum_j h_j a_j(v) with hidden logits a_j affine in v, so that
    p(h_j = 1 | v) = sigmoid(a_j(v)) and E(v) = -log sum_h exp(-E(v, h)) = -b.v - sum_j softplus(a_j(v)).
    """

    called = "bipartite"

    @abstractmethod
    def visible_logits(self, h: Tensor) -> Tensor:
        """log p(v_i = 1 | h) / p(v_i = 0 | h), flat: (batch, sites)."""

    @abstractmethod
    def free_energy(self, v: Tensor, hidden_logits: Tensor) -> Tensor:
        """E(v) given a(v), (batch,)."""

    @override
    def energy(self, x: Tensor) -> Tensor:
        """The free energy, hidden units summed out."""
        return self.free_energy(x, self.hidden_logits(x))

    @override
    def sample_visible(self, h: Tensor, key: AnyKey) -> Tensor:
        """v ~ p(v | h), (batch, *shape)."""
        return self.draw_visible(self.visible_logits(h), key)

    def draw_visible(self, logits: Tensor, key: AnyKey) -> Tensor:
        """v with these logits, (batch, *shape)."""
        return rng.bernoulli(logits, key).reshape(-1, *self.space.shape)

    def visible_log_z(self, logits: Tensor) -> Tensor:
        """log sum_v exp(v.logits), (batch,)."""
        return softplus_sum(logits)

    @override
    def log_marginal(self, h: Tensor) -> Tensor:
        """-E(0, h) + log sum_v exp(v.visible_logits(h)), with E(0, h) = -h.a(0)."""
        nothing = torch.zeros(1, *self.space.shape, dtype=h.dtype, device=h.device)
        logits = self.visible_logits(h)
        return h @ self.hidden_logits(nothing).squeeze(0) + self.visible_log_z(logits)


class Support(NamedTuple):
    """Rows of a space that have a finite energy: in words, and the test of x (batch, *shape) that gives (batch,)."""

    says: str
    holds: Callable[[Tensor], Tensor]


class ModelSpec(ABC):
    """The component: hyper-parameters from which a model is built once the space of the data is known."""

    builds: ClassVar[type[EnergyModel]]
    spaces: ClassVar[tuple[type[Space], ...]]

    @property
    def support(self) -> Support | None:
        """Where its energies are finite whatever the parameters, if that is not the whole space."""
        return None

    @property
    def sparse_gradients(self) -> bool:
        """Whether `energy_vjp` gives sparse tensors, of the rows that the batch touches, for some parameters."""
        return False

    @property
    def inexact(self) -> str | None:
        """Which setting makes `energy_vjp` give something else than the energy's gradient, as key = value, or None."""
        return None

    def parameters(self, space: Space) -> int:
        """How many numbers its parameters are, for the check that they fit into memory; 0 if that is not known."""
        return 0

    @property
    def calmer(self) -> dict[str, float]:
        """Keys that say how large its couplings are as it begins, each at a thousandth of what it is."""
        sizes = {key: getattr(self, key, 0) for key in ("weight_std", "coupling")}
        return {key: value / 1000 for key, value in sizes.items() if value}

    def beside(self, space: Space) -> int:
        """Bytes that building and moving it takes beside its parameters, for the same check, such as matrices made of
        them and tables of its graph."""
        return 0

    def smaller(self) -> str:
        """What to take less of for a model that takes less memory, as "a lower model.hidden"."""
        keys = [f"model.{key}" for key in ("hidden", "layers", "widths", "width", "dim") if hasattr(self, key)]
        return f"a lower {' or '.join(keys)}" if keys else "data of fewer sites"

    @abstractmethod
    def build(self, space: Space, mean: Tensor, key: Key) -> EnergyModel:
        """A model with initial parameters; `mean` (*shape) is that of the training data, away from the bounds."""


class Sites(ABC):
    """Chains in the middle of a sweep. Subclasses keep what makes one conditional cheap.

    `x` belongs to this object: it is a copy of the positions it was made from.
    """

    x: Tensor

    @abstractmethod
    def sweep(self, order: Sequence[Site], u: Tensor) -> None:
        """x_i ~ p(x_i | rest), one site of `order` after the other; u (chains, len(order)) uniform on [0, 1)."""

    @abstractmethod
    def log_conditional(self, site: int) -> Tensor:
        """log p(x_i | rest) of the value that x_i has, (chains,)."""


class TwoValuedSites(Sites):
    """Sites of two values, `low` and 1; x is (chains, sites)."""

    low: float = 0.0

    @abstractmethod
    def logit(self, site: Site) -> Tensor:
        """log p(x_i = 1 | rest) / p(x_i = low | rest) = E(x with x_i = low) - E(x with x_i = 1), (chains,)."""

    def assign(self, site: Site, value: Tensor) -> None:
        """x_site <- value (chains,)."""
        put_site(self.x, site, value)

    @override
    def sweep(self, order: Sequence[Site], u: Tensor) -> None:
        """x_i <- 1 if logit(u_i) < logit_i else low: with probability sigmoid(logit_i)."""
        self.decide(order, u.logit())

    def decide(self, order: Sequence[Site], threshold: Tensor) -> None:
        """x_i <- 1 if threshold_i < logit_i else low, one site of `order` after the other; (chains, len(order))."""
        for site, level in zip(order, threshold.unbind(1), strict=True):
            up = (level < self.logit(site)).to(self.x.dtype)
            self.assign(site, up if self.low == 0 else self.low + (1 - self.low) * up)

    @override
    def log_conditional(self, site: int) -> Tensor:
        """log sigmoid(+-logit)."""
        logit = self.logit(site)
        return F.logsigmoid(torch.where(self.x[:, site] == 1, logit, -logit))


class CategoricalSites(Sites):
    """Sites of K values; x is (chains, sites, K), one-hot."""

    @abstractmethod
    def logits(self, site: Site) -> Tensor:
        """log p(x_i = k | rest) up to a constant of each chain, (chains, K)."""

    def assign(self, site: Site, value: Tensor) -> None:
        """x_site <- value (chains, K), one-hot."""
        if isinstance(site, int):
            self.x[:, site] = value
        else:
            self.x[torch.arange(len(self.x), device=site.device), site] = value

    @override
    def sweep(self, order: Sequence[Site], u: Tensor) -> None:
        for site, level in zip(order, u.unbind(1), strict=True):
            logits = self.logits(site)
            index = rng.inverted(logits, level.double())
            self.assign(site, F.one_hot(index, logits.shape[1]).to(self.x.dtype))

    @override
    def log_conditional(self, site: int) -> Tensor:
        """The logarithm of the softmax, at the value."""
        return (self.logits(site).log_softmax(1) * self.x[:, site]).sum(1)


class LastWord(Sites):
    """The last word of each chain, drawn given its context, which stays; x is (chains, words)."""

    def __init__(self, model: Conditional, x: Tensor) -> None:
        self.model, self.x = model, x.clone()

    @override
    def sweep(self, order: Sequence[Site], u: Tensor) -> None:
        """By inversion of the last u: the draws before it are independent of it."""
        self.x[:, -1] = rng.inverted(self.model.scores(self.x[:, :-1]), u[:, -1].double()).to(self.x.dtype)

    @override
    def log_conditional(self, site: int) -> Tensor:
        """log p(w | context)."""
        return self.model.log_prob(self.x)


def put_free(x: Tensor, free: Tensor, drawn: Tensor) -> Tensor:
    """x (batch, *shape) with its sites `free` (batch, sites), a number or more each, as they are in `drawn`."""
    old, new = (part.reshape(*free.shape, -1) for part in (x, drawn))
    return torch.where(free[:, :, None], new, old).reshape(x.shape)


def get_site(x: Tensor, site: Site) -> Tensor:
    """x at one site, (chains,)."""
    return x[:, site] if isinstance(site, int) else x.gather(1, site[:, None]).squeeze(1)


def put_site(x: Tensor, site: Site, value: Tensor) -> None:
    """x at one site <- value (chains,), in place."""
    if isinstance(site, int):
        x[:, site] = value
    else:
        x.scatter_(1, site[:, None], value[:, None])


class EnergySites(TwoValuedSites):
    """Conditionals of any model of two-valued sites by two evaluations of its energy."""

    def __init__(self, model: EnergyModel, x: Tensor) -> None:
        self.model = model
        self.low = cast(TwoValued, model.space).low
        self.x = x.flatten(1).clone()

    @override
    def logit(self, site: Site) -> Tensor:
        """E(x with x_i = low) - E(x with x_i = 1)."""
        return self._energy_with(site, self.low) - self._energy_with(site, 1.0)

    def _energy_with(self, site: Site, value: float) -> Tensor:
        y = self.x.clone()
        put_site(y, site, y.new_full((len(y),), value))
        return self.model.energy(y.reshape(-1, *self.model.space.shape))


class CategoricalEnergySites(CategoricalSites):
    """Conditionals of any model of categorical sites by one evaluation of its energy for each value."""

    def __init__(self, model: EnergyModel, x: Tensor) -> None:
        self.model = model
        self.x = cast(Categorical, model.space).table(x).clone()

    @override
    def logits(self, site: Site) -> Tensor:
        """-E(x with x_i = k)."""
        chains, _, values = self.x.shape
        y = self.x[:, None].repeat(1, values, 1, 1)
        where = site[:, None] if isinstance(site, Tensor) else site
        rows, each = (torch.arange(n, device=self.x.device) for n in (chains, values))
        y[rows[:, None], each, where] = torch.eye(values, dtype=y.dtype, device=y.device)
        energy: Tensor = self.model.energy(y.reshape(-1, *self.model.space.shape))
        return -energy.reshape(chains, values)
