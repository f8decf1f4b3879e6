"""Exact answers by enumeration: the oracle of the tests, of `evaluation=exact` and of `objective=exact`."""

import math
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.log_z import transfer
from ebm_cli.model.base import EnergyModel, MixtureRBM, Normalised, WithHidden
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Categorical, Counts, Discrete, Space

LOG2_LIMIT = 20
"""Sums of at most 2^20 terms are attempted."""

_CHUNK_ELEMENTS = 2**22


def has_sum(model: type[EnergyModel], spaces: Collection[type[Space]]) -> bool:
    """Whether log Z of such models on one of these spaces is known or a sum over states, however many."""
    return issubclass(model, Normalised | WithHidden) or any(issubclass(space, Discrete) for space in spaces)


def refusal(model: EnergyModel) -> str | None:
    """Why log Z of this model cannot be enumerated, or None if it can."""
    if isinstance(model, Normalised) or _bits(model) <= LOG2_LIMIT:
        return None
    hidden = model.hidden_states()
    if hidden is not None and not isinstance(model.space, Discrete):
        return f"{hidden.sites} hidden units, enumeration goes to {LOG2_LIMIT}"
    if not isinstance(model.space, Discrete):
        return f"a {model.space.name} space cannot be enumerated"
    if isinstance(model.space, Categorical) and hidden is None:
        sites, values = model.space.sites, model.space.values
        return f"{values}^{sites} states, enumeration goes to 2^{LOG2_LIMIT}"
    width, sites = transfer.narrow_side(model), model.space.sites
    if width is not None and 2 * width < sites:
        return (
            f"log Z of a lattice of {sites} sites is summed row by row, 4^{width} terms each as its shorter side has "
            f"{width} sites, and enumeration goes to 2^{LOG2_LIMIT} = 4^{LOG2_LIMIT // 2}"
        )
    bits = f"{_bits(model):.0f}"
    side = f"{bits} sites" if hidden is None else f"the smaller side has {bits} units"
    return f"{side}, enumeration goes to {LOG2_LIMIT}"


def _bits(model: EnergyModel) -> float:
    """log2 of the number of terms of the sum."""
    hidden = model.hidden_states()
    if not isinstance(model.space, Discrete):
        return float("inf") if hidden is None else hidden.sites
    side, bits = transfer.narrow_side(model), model.space.sites * math.log2(model.space.values)
    if side is not None:
        return min(bits, 2 * side)
    return bits if hidden is None else min(bits, hidden.sites)


def log_z(model: EnergyModel) -> Tensor:
    """log Z in nats, differentiable in the parameters; a bipartite model is summed over its smaller side.

    Given h, the sum over v factorises: sum_v exp(-E(v, h)) = exp(-E(0, h)) sum_v exp(v.visible_logits(h)); of Gaussian
    visible units it is an integral.
    Raises ValueError where `refusal` says why, and for a model of documents, which has one for each length.
    """
    why = refusal(model)
    if why:
        raise ValueError(why)
    if isinstance(model.space, Counts):
        raise ValueError("a model of documents has a partition function for each length")
    if isinstance(model, Normalised):
        return model.log_z()
    states = model.space.states if isinstance(model.space, Discrete) else math.inf
    hidden = model.hidden_states()
    if hidden is not None and hidden.states < states:
        return _log_sum(hidden, model.log_marginal, model)
    assert isinstance(model.space, Discrete)
    lattice = transfer.lattice(model)
    if lattice is not None and 2 * min(lattice.space.shape) < model.space.sites:
        return transfer.log_z(lattice)
    return _log_sum(model.space, lambda x: -model.energy(x), model)


def log_z_of_rows(model: EnergyModel, x: Tensor) -> Tensor:
    """log Z of what each row of x is one configuration of, (batch,): of documents those of the same length."""
    if not isinstance(model.space, Counts):
        return log_z(model).expand(len(x))
    assert isinstance(model, WithHidden)
    lengths, which = x.sum(1).unique(return_inverse=True)
    return log_z_of_lengths(model, lengths)[which]


def log_z_of_lengths(model: WithHidden, lengths: Tensor) -> Tensor:
    """log Z_D = log sum_h exp(D s(h)) for each D of `lengths`, (lengths,), summed over all sequences of D words.

    Differentiable in the parameters. Raises ValueError where `refusal` says why.
    """
    why = refusal(model)
    if why:
        raise ValueError(why)
    length = lengths.to(next(model.parameters()))[:, None]

    def log_term(h: Tensor) -> Tensor:
        return length * model.log_marginal(h)

    return _log_sum(Binary((model.hidden,)), log_term, model, len(lengths))


def _log_sum(space: Discrete, log_term: Callable[[Tensor], Tensor], model: EnergyModel, wide: int = 1) -> Tensor:
    """log sum over all states of exp(log_term(state)), (...) of terms (..., states), in chunks that bound the memory.

    `wide` is how many terms there are of each state. Where the graph of gradients is kept, that of one chunk at a time
    is in memory: it is made again when its turn comes.
    """

    def part(first: int, last: int) -> Tensor:
        return log_term(_states(space, first, last, model)).logsumexp(-1)

    chunks = list(_chunks(space, model, wide))
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.stack([part(first, last) for first, last in chunks]).logsumexp(0)
    from torch.utils.checkpoint import checkpoint

    parts = [checkpoint(part, first, last, use_reentrant=False, preserve_rng_state=False) for first, last in chunks]
    return torch.stack(parts).logsumexp(0)


def _chunks(space: Discrete, model: EnergyModel, wide: int = 1) -> Iterator[tuple[int, int]]:
    """First state and the one after the last, of so many as are few enough numbers on every side of the model."""
    sites = math.prod(model.space.shape)
    layers = [len(p) * (sites if p.dim() == 4 else 1) for p in model.parameters() if p.dim() > 1]  # 4: convolutions
    width = max(math.prod(space.shape), sites, getattr(model, "hidden", 1), wide, *layers)
    chunk = max(1, _CHUNK_ELEMENTS // width)
    return ((first, min(first + chunk, space.states)) for first in range(0, space.states, chunk))


def _states(space: Discrete, first: int, last: int, model: EnergyModel) -> Tensor:
    return space.enumerate(first, last).to(next(model.parameters()))


def _of_all(space: Discrete, value: Callable[[Tensor], Tensor], model: EnergyModel) -> Tensor:
    """value(states), (batch,) of (batch, *shape), of all of them in their order, in chunks."""
    return torch.cat([value(_states(space, first, last, model)) for first, last in _chunks(space, model)])


def probabilities(model: EnergyModel) -> Tensor:
    """p(x) of every state of a small discrete space, in the order of its `enumerate`."""
    assert isinstance(model.space, Discrete)
    return _of_all(model.space, lambda x: -model.energy(x), model).softmax(0)


def total(model: EnergyModel, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of value(x), (batch,) of x (batch, *shape), over all states of the model's space."""
    assert isinstance(model.space, Discrete)
    return _of_all(model.space, value, model).sum()


def sample(model: EnergyModel, n: int, key: Key) -> Tensor:
    """n independent draws from p(x), for spaces small enough to enumerate (or models that sample themselves)."""
    if isinstance(model, Normalised):
        return model.sample(n, key)
    if isinstance(model, MixtureRBM):
        hidden = Binary((model.hidden,))
        chosen = _drawn(_of_all(hidden, model.log_marginal, model).softmax(0), n, key.fold("hidden"))
        h = hidden.enumerate().to(next(model.parameters()))
        return model.sample_visible(h[chosen], key.fold("visible")).detach()
    assert isinstance(model.space, Discrete)
    p = probabilities(model)
    return model.space.enumerate().to(p)[_drawn(p, n, key)]


def _drawn(p: Tensor, n: int, key: Key) -> Tensor:
    """n independent numbers of states with these probabilities."""
    p = p.detach().double()
    u = rng.uniform((n,), key, p.device, torch.float64)
    return torch.searchsorted(p.cumsum(0), u).clamp_max(len(p) - 1)


def log_likelihood(model: EnergyModel, x: Tensor) -> Tensor:
    """log p(x) = -E(x) - log Z in nats, (batch,); of a document given its length, for its words in their order."""
    return -model.energy(x) - log_z_of_rows(model, x)
