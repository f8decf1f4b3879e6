"""The oracle itself: log Z three ways, its gradient, chunks, refusals, and samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.components import component
from helpers.models import DISCRETE, PAIRS, double_states, exact_p, names_of, small_model, target
from helpers.samplers import KNOWN
from helpers.statistics import assert_close, assert_distributed, known_log_p
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from ebm_cli.log_z import enumeration
from ebm_cli.model.base import Bipartite
from ebm_cli.model.boltzmann import Boltzmann
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Real

models = pytest.mark.parametrize("name", KNOWN)
discrete_models = pytest.mark.parametrize("name", DISCRETE)


@discrete_models
def test_log_z_is_the_sum_over_all_states(name):
    model = target(name)
    terms = [math.exp(-energy) for energy in model.energy(double_states(model)).tolist()]
    assert enumeration.log_z(model).item() == pytest.approx(math.log(sum(terms)), rel=1e-13)


@pytest.mark.parametrize("hidden", [1, 3, 4, 6])
def test_either_side_of_a_bipartite_model_gives_the_joint_sum(hidden):
    """Fewer, as many and more hidden than the four visible units: the smaller side is summed over."""
    model = small_model("rbm", Binary((2, 2)), hidden=hidden)
    v, h = double_states(model).flatten(1), Binary((hidden,)).enumerate().double()
    joint = (v @ model.b)[:, None] + h @ model.c + v @ model.W @ h.T
    assert enumeration.log_z(model).item() == pytest.approx(joint.flatten().logsumexp(0).item(), rel=1e-13)


@pytest.mark.parametrize(
    "name", [name for name in names_of(Bipartite) if name != "conv_rbm-binary"]
)  # a map is an image
def test_the_hidden_side_is_used_only_where_it_is_smaller(name, monkeypatch):
    """A model of 30 visible units and few hidden ones would otherwise be out of reach."""
    model = small_model(PAIRS[name][0], Binary((5, 6)))
    seen = []
    enumerate_ = Binary.enumerate
    monkeypatch.setattr(Binary, "enumerate", lambda s, *a: seen.append(s.sites) or enumerate_(s, *a))
    assert enumeration.log_z(model).isfinite()
    assert seen == [model.hidden]


@models
@pytest.mark.parametrize("elements", [1, 12, 40])
def test_chunks_change_nothing(name, elements, monkeypatch):
    """One state at a time, three, ten (which does not divide the number of states); rounding alone may differ."""
    whole = enumeration.log_z(target(name))
    monkeypatch.setattr(enumeration, "_CHUNK_ELEMENTS", elements)
    assert_close(enumeration.log_z(target(name)), whole, rtol=1e-14, atol=2e-15)  # some log Z are near 0


@discrete_models
def test_gradient_of_log_z_is_minus_the_mean_gradient_of_the_energy(name):
    """d log Z = -E_p[dE], with the mean taken state by state."""
    model = target(name)
    parameters = list(model.parameters())
    found = torch.autograd.grad(enumeration.log_z(model), parameters, allow_unused=True)
    p = exact_p(model)
    expected = [torch.zeros_like(q) for q in parameters]
    for weight, x in zip(p, double_states(model), strict=True):
        for total, gradient in zip(expected, torch.autograd.grad(model.energy(x[None]).sum(), parameters), strict=True):
            total -= weight * gradient
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=1e-12, atol=1e-14)


@discrete_models
def test_probabilities(name):
    """Positive, summing to 1, in the order of enumeration, and proportional to exp(-E)."""
    model = target(name)
    p = enumeration.probabilities(model)
    assert p.sum().item() == pytest.approx(1, abs=1e-14)
    assert_close(p.log(), enumeration.log_likelihood(model, double_states(model)), rtol=1e-12, atol=1e-12)


@models
def test_samples_follow_the_model(name):
    model = target(name)
    x = enumeration.sample(model, 100_000, stream(0, "exact"))
    assert x.shape == (100_000, *model.space.shape)
    assert x.dtype == torch.float64
    assert_distributed(model, x)
    assert torch.equal(x[:50], enumeration.sample(model, 100_000, stream(0, "exact"))[:50])


@models
def test_the_likelihood_needs_no_normalisation_of_the_energy(name):
    """log p(x) = -E(x) - log Z integrates or sums to one, so log Z is that of this very energy."""
    model = target(name)
    x = double_states(model) if name in DISCRETE else enumeration.sample(model, 5, stream(1, "x"))
    log_p = enumeration.log_likelihood(model, x)
    assert log_p.shape == (len(x),)
    if name in DISCRETE:
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-13)
    else:
        assert_close(log_p.detach(), known_log_p(model, x), rtol=1e-12, atol=1e-12)


def test_what_is_too_large_is_refused_with_its_size():
    def build(choice, space, **changes):
        return component("model", choice, **changes).build(space, torch.full(space.shape, 0.5), stream(0, "model"))

    big = Binary((30,))
    assert enumeration.refusal(build("rbm", big, hidden=20)) is None
    assert enumeration.refusal(build("rbm", big, hidden=21)) == "the smaller side has 21 units, enumeration goes to 20"
    assert enumeration.refusal(build("rbm", Binary((20,)), hidden=500)) is None
    assert enumeration.refusal(build("boltzmann", Binary((20,)))) is None
    assert enumeration.refusal(build("boltzmann", big)) == "30 sites, enumeration goes to 20"
    assert enumeration.refusal(build("exponential_family", big)) is None
    assert enumeration.refusal(build("exponential_family", Real((3,)))) is None
    with pytest.raises(ValueError, match="30 sites, enumeration goes to 20"):
        enumeration.log_z(build("boltzmann", big))
    model = Boltzmann(Binary((4,)), 0.1, torch.full((4,), 0.5), stream(0, "model"))
    model.space = Real((4,))
    assert enumeration.refusal(model) == "a real space cannot be enumerated"


def test_bars_and_stripes_cannot_be_learned_better_than_this():
    """The sum over the 30 distinct 4 x 4 images of log p is at most -102.5858: two of them have p = 2/32."""
    x = component("dataset", "bars_and_stripes", side=4).load((Binary,)).train.all()
    assert len(x) == 32
    images, count = np.unique(x.flatten(1).numpy(), axis=0, return_counts=True)
    assert len(images) == 30
    assert np.log(count / 32).sum() == pytest.approx(-102.5858, abs=5e-5)


def test_no_model_beats_the_entropy_of_bars_and_stripes():
    """Jensen: mean log p over the 32 rows is below that of the empirical distribution for any parameters."""
    x = component("dataset", "bars_and_stripes", side=4).load((Binary,)).train.all().double()
    bound = -(30 * math.log(32) + 2 * math.log(16)) / 32
    for seed, hidden in itertools.product(range(5), (3, 12)):
        model = small_model("rbm", Binary((4, 4)), seed, hidden=hidden)
        assert enumeration.log_likelihood(model, x).mean().item() < bound


WIDE = {
    "hidden side": ("rbm", Binary((40,)), 6),
    "visible side": ("rbm", Binary((6,)), 40),
    "Gaussian": ("gaussian_rbm", Real((40,)), 6),
}


@pytest.mark.parametrize("name", WIDE)
def test_enumeration_takes_no_more_at_once_than_fits_on_either_side(name, monkeypatch):
    """Nothing is larger than a chunk, with gradients too, and the sum is that of one chunk."""
    kind, space, hidden = WIDE[name]
    model = small_model(kind, space, hidden=hidden)
    whole = enumeration.log_z(model)
    slopes = torch.autograd.grad(whole, list(model.parameters()))
    monkeypatch.setattr(enumeration, "_CHUNK_ELEMENTS", 200)
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            found = function(*arguments, **(keywords or {}))
            if isinstance(found, torch.Tensor):
                sizes.append(found.numel())
            return found

    kept = []
    with Watch(), saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        parts = enumeration.log_z(model)
        again = torch.autograd.grad(parts, list(model.parameters()))
    assert max(sizes) <= 6 * 40
    assert sum(kept) < 2**6 * 40
    assert_close(parts, whole, rtol=1e-12, atol=0)
    for one, other in zip(again, slopes, strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-12)
