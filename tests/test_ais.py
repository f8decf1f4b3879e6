"""AIS and RAISE: unbiased where they must be, in the right direction where they are bounds, exact on a tiny model."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from helpers.components import FALSE_ALARM, SIGMAS, component
from helpers.data import small_data
from helpers.keys import COUNTING, ENGINES, keys_used
from helpers.matrices import is_defined, matrix_of
from helpers.models import DISCRETE, double_states, exact_p, names_of, target
from helpers.samplers import INVARIANT, NETWORKS, SAMPLERS, first, is_slow, quick, reach
from helpers.statistics import assert_close, assert_mean, chi_square

from ebm_cli.errors import RunError
from ebm_cli.evaluation import ais
from ebm_cli.evaluation.annealing import annealing_path
from ebm_cli.evaluation.base import Subject
from ebm_cli.functional import log_mean_exp
from ebm_cli.log_z import enumeration
from ebm_cli.log_z.paths import BipartitePath, GeometricPath, Tempered, tempered
from ebm_cli.model.base import Bipartite, CategoricalSites, EnergyModel
from ebm_cli.model.boltzmann import Boltzmann, BoltzmannSites
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct, product
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Categorical, Discrete, Real, Space, TwoValued

BIPARTITE = names_of(Bipartite)
# What needs a capability of its model does not fit the tempered one: bipartite models have a path of their own.
GEOMETRIC = quick(
    [
        (s, t)
        for s, t in INVARIANT
        if (not SAMPLERS[s].needs or t == "ising-spin") and ("-" not in s or t == "rbm-binary" or t not in DISCRETE)
    ]
)
GEOMETRIC_WITH_MATRIX = [(s, t) for s, t in GEOMETRIC if t in DISCRETE and is_defined(SAMPLERS[s])]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def base_of(space: Space):
    """Independent units, none of them like the target's."""
    if isinstance(space, Categorical):
        table = torch.linspace(0.5, 1.5, math.prod(space.shape)).reshape(space.shape)
        return CategoricalProduct(space, table / table.sum(-1, keepdim=True)).double()
    if isinstance(space, TwoValued):
        return BernoulliProduct(space, torch.linspace(0.15, 0.7, space.sites)).double()
    mean, r = torch.linspace(-0.5, 1.0, space.sites), torch.linspace(-1.0, -0.5, space.sites)
    return product(space, mean, (-r / 2).exp()).double()  # wide: an importance sampler needs to cover its target


def geometric(name, model_name, strength=1.0):
    model = stronger(target(model_name), strength)
    return GeometricPath(base_of(model.space), model, SAMPLERS[name])


def bipartite(model_name, strength=1.0):
    model = stronger(target(model_name), strength)
    return BipartitePath(base_of(model.space), model)


def stronger(model, strength):
    """Every parameter times a factor: harder to anneal to."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(strength)
    return model


def log_z_of(path):
    return enumeration.log_z(path.model).item()


# Densities along the path


@pytest.mark.parametrize("model_name", BIPARTITE)
def test_bipartite_path_is_the_sum_over_hidden_units(model_name):
    """f_beta(v) = sum_h exp(-(1 - beta) E_A(v) - beta E_B(v, h)), at every v and several beta, term by term."""
    path = bipartite(model_name)
    v, h = double_states(path.model), Binary((path.model.hidden,)).enumerate().double()
    with torch.no_grad():
        joint = v.flatten(1) @ path.model.visible_logits(torch.zeros_like(h[:1])).T + path.model.hidden_logits(v) @ h.T

        def log_f(beta):
            return ((1 - beta) * -path.base.energy(v)[:, None] + beta * joint).logsumexp(1)

        state = path.observe(v)
        assert_close(path.log_base(state), log_f(0.0), **EXACT)
        assert path.log_z_base == pytest.approx(log_f(0.0).logsumexp(0).item(), rel=1e-12)
        assert_close(log_f(1.0), -path.model.energy(v), **EXACT)
        for to, origin in ((0.3, 0.0), (1.0, 0.3), (0.2, 0.9), (1.0, 0.0)):
            assert_close(path.log_ratio(state, to, origin), log_f(to) - log_f(origin), **EXACT)


@pytest.mark.parametrize(("name", "model_name"), GEOMETRIC)
def test_geometric_path_mixes_the_energies(name, model_name):
    path = geometric(name, model_name)
    x = path.model.space.noise(9, stream(0, "x")).double()
    state = path.observe(x)

    def log_f(beta):
        return -(1 - beta) * path.base.energy(x) - beta * path.model.energy(x)

    assert_close(path.log_base(state), log_f(0.0), **EXACT)
    assert_close(path.log_ratio(state, 0.7, 0.2), log_f(0.7) - log_f(0.2), **EXACT)
    assert_close(-Tempered(path.base, path.model, 0.4).energy(x), log_f(0.4), **EXACT)


@pytest.mark.parametrize("model_name", DISCRETE)
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_conditionals_of_a_tempered_model_are_its_energy_differences(model_name, beta):
    """Mixed from both ends, or those of one Boltzmann machine; beta a number or, in a region, a tensor."""
    model = target(model_name)
    mixed = Tempered(base_of(model.space), model, beta)
    x = double_states(model)
    with torch.no_grad():
        plain = EnergyModel.sites(mixed, x)
        found = [Tempered(mixed.base, model, b).sites(x) for b in (beta, torch.tensor(beta, dtype=torch.float64))]
        for site in [*range(model.space.sites), torch.arange(len(x)) % model.space.sites]:
            for sites in (plain, *found):
                if isinstance(sites, CategoricalSites):
                    assert_close(sites.logits(site).log_softmax(1), plain.logits(site).log_softmax(1), **EXACT)
                    sites.assign(site, F.one_hot(torch.arange(len(x)) % 3).double())
                else:
                    assert_close(sites.logit(site), plain.logit(site), **EXACT)
                    sites.assign(site, (torch.arange(len(x)) % 3 > 0).double())
    assert isinstance(found[0], BoltzmannSites) == isinstance(model, Boltzmann)
    assert all(torch.equal(sites.x, plain.x) for sites in found)


PATHS = {f"{s}-{t}": (lambda s=s, t=t: geometric(s, t)) for s, t in GEOMETRIC}
SLOW = {f"{s}-{t}" for s, t in GEOMETRIC if is_slow(s, t)}
ALSO = (("gibbs", "ising-spin"), ("gibbs", "boltzmann-binary"), ("bipartite", "rbm-binary"))
QUICK = {"-".join(pair) for pair in (*first(GEOMETRIC), *ALSO)}
PATHS |= {f"bipartite-{t}": (lambda t=t: bipartite(t)) for t in BIPARTITE}


def each(made):
    """Tests of these paths; other pairs of sampler and model show much the same, and are long."""
    return each_of_many_steps(made, slow=())


def each_of_many_steps(made, slow=SLOW):
    """The same where short steps are slow."""
    is_long = {name: name not in QUICK or name in slow for name in made}
    found = [pytest.param(make, id=name, marks=[pytest.mark.long] * is_long[name]) for name, make in made.items()]
    return pytest.mark.parametrize("make", found)


def is_network(name):
    """Whether the model named last, `SAMPLER-MODEL-SPACE`, is one."""
    return name.rsplit("-", 2)[-2] in NETWORKS


paths = each(PATHS)

MILD = ("ising-spin", "potts-categorical")  # strong enough as they are: the weights of stronger ones have heavy tails
EXACT_PATHS = {
    f"{s}-{t}": (lambda s=s, t=t: geometric(s, t, 1.0 if t in MILD else 2.5)) for s, t in GEOMETRIC_WITH_MATRIX
} | {"bipartite-rbm-binary": lambda: bipartite("rbm-binary", 2.5)}
exact_paths = each(EXACT_PATHS)
# Weights and ends of others are compared with matrices multiplied out; without those of thousands of temperatures.
FEW = {"gibbs-rbm-binary", "gibbs-ising-spin", "gibbs-potts-categorical", "bipartite-rbm-binary"}
SHORT = ("mala", "mala_mixed", "metropolis", "underdamped")
SLOWEST = tuple(f"{kernel}-{model}" for kernel in SHORT for model in ("exponential_family", "gaussian_rbm"))
few_paths = each_of_many_steps(
    {k: v for k, v in PATHS.items() if k in FEW or not (k in EXACT_PATHS or k.startswith(SLOWEST))}
)


# Unbiased estimates of Z


@paths
@pytest.mark.parametrize("temperatures", [1, 4])
def test_ais_weights_have_mean_z(make, temperatures):
    """E[w] = Z / Z_base at any number of temperatures; with one it is plain importance sampling."""
    path = make()
    with torch.no_grad():
        log_w, end = ais.forward(path, 40_000, temperatures, stream(0, "forward"))
    assert log_w.dtype == torch.float64
    assert path.model.space.contains(end)
    assert_mean((log_w - (log_z_of(path) - path.log_z_base)).exp(), 1.0)


@pytest.mark.quick("rbm-binary")
@pytest.mark.parametrize("model_name", BIPARTITE)
def test_ais_from_counters_has_mean_z_too(model_name):
    """What the compiled regions draw from, and temperatures as tensors; RAISE's weights likewise, at every x."""
    path, n = bipartite(model_name, 2.5), 8000
    with torch.no_grad():
        log_w, _ = ais.forward(path, 40_000, 4, stream(0, "forward"), COUNTING)
        x = double_states(path.model)
        back = ais.reverse_log_p(path, x.repeat_interleave(n, 0), 1, 3, stream(0, "reverse"), COUNTING)
    assert_mean((log_w - (log_z_of(path) - path.log_z_base)).exp(), 1.0)
    w = back.exp().reshape(len(x), n)
    assert ((w.mean(1) - annealed_p(path, 3)).abs() < SIGMAS * w.std(1) / n**0.5 + 1e-12).all()


@pytest.mark.quick("gibbs-rbm-binary", "gibbs-ising-spin", "bipartite-rbm-binary")
@few_paths
def test_more_temperatures_narrow_the_weights(make):
    """Chains that do move with the path: with 100 temperatures the weights spread far less than with 2."""
    path = make()
    with torch.no_grad():
        wide, narrow = (ais.forward(path, 2000, k, stream(0, "forward"))[0].std().item() for k in (2, 100))
    assert narrow < wide


# The distribution that AIS leaves behind, exactly


def move_matrix(path, beta):
    """Transition matrix of `path.move` at beta, from the definition of the kernel on the model p_beta."""
    if isinstance(path, GeometricPath):
        return matrix_of(path.forward, tempered(path.base, path.model, beta))
    model = copy.deepcopy(path.model)  # p_beta of an RBM is an RBM with these parameters
    with torch.no_grad():
        model.b.copy_((1 - beta) * path.base.b.flatten() + beta * path.model.b)
        model.c.copy_(beta * path.model.c)
        model.W.copy_(beta * path.model.W)
    return matrix_of(component("sampler", "block_gibbs"), model)


def annealed_p(path, temperatures):
    """p_0 T_1 ... T_K, all multiplied out."""
    p = exact_p(path.base)
    for k in range(1, temperatures + 1):
        p = p @ move_matrix(path, k / temperatures)
    return p


@exact_paths
def test_ais_ends_at_the_annealed_distribution(make):
    """Counts of the end points against p_0 T_1 ... T_K."""
    path, n = make(), 50_000
    with torch.no_grad():
        _, end = ais.forward(path, n, 3, stream(0, "forward"))
    count = torch.bincount(path.model.space.code(end), minlength=path.model.space.states)
    assert chi_square(count, n * annealed_p(path, 3)) > FALSE_ALARM


def test_a_kernel_that_leaves_nothing_invariant_is_refused():
    evaluation, model = component("evaluation", "ais"), target("rbm-binary")
    assert evaluation.refusal(model, component("sampler", "dmala")) is None
    why = evaluation.refusal(model, component("sampler", "dula"))
    fits = "acs, block_gibbs, dlmc, dmala, gibbs, gwg, metropolis, pafs"
    assert why == f"this sampler does not leave the model invariant; samplers that do and fit this model: {fits}"
    for name in fits.split(", "):
        assert evaluation.refusal(model, component("sampler", name)) is None


@exact_paths
def test_raise_weights_have_the_annealed_probability_as_mean(make):
    """E[w | x] = p_annealed(x) for every x: true only if each move is undone by its own reversal, in reverse order.

    With a systematic scan run forwards in the reverse chain this fails, and so it does with temperatures out of order.
    """
    path, n, temperatures = make(), 8000, 3
    x = double_states(path.model)
    with torch.no_grad():
        log_w = ais.reverse_log_p(path, x.repeat_interleave(n, 0), 1, temperatures, stream(0, "reverse"))
    w = log_w.exp().reshape(len(x), n)
    p, error = annealed_p(path, temperatures), w.std(1) / n**0.5
    # Where the base is the target's shape all weights are equal: rounding only.
    assert ((w.mean(1) - p).abs() < SIGMAS * error + 1e-12).all(), ((w.mean(1) - p) / error).tolist()


@pytest.mark.parametrize("model_name", ["rbm-binary", "boltzmann-binary"])
def test_the_annealed_model_is_neither_the_model_nor_that_of_the_other_order(model_name):
    """Otherwise the tests above would show nothing: 8000 weights that spread by about their mean resolve 5 percent."""
    forwards, backwards = (geometric(name, model_name, 2.5) for name in ("gibbs", "gibbs-reverse"))
    p = annealed_p(forwards, 3)
    assert ((p - exact_p(forwards.model)).abs() / p).max() > 0.1
    assert ((p - annealed_p(backwards, 3)).abs() / p).max() > 0.1


def test_raise_averages_the_weights_of_its_chains():
    """Several chains for each row: the log of the mean of their weights."""
    path, x = bipartite("rbm-binary"), double_states(target("rbm-binary"))
    with torch.no_grad():
        one = ais.reverse_log_p(path, x.repeat_interleave(5, 0), 1, 4, stream(0, "reverse"))
        five = ais.reverse_log_p(path, x, 5, 4, stream(0, "reverse"))
    assert_close(five, one.reshape(16, 5).exp().mean(1).log(), **EXACT)


# Bounds


@pytest.mark.quick("gibbs-rbm-binary", "gibbs-ising-spin")
@few_paths
def test_ais_and_raise_bracket_the_likelihood(make):
    """On average log w is below log Z, and RAISE below the annealed likelihood; with many temperatures both are near.

    "Near" is five standard errors of the means; the bias left at 300 temperatures is of their order for fast kernels,
    and half a nat for steps of 0.1 on R^2, which get more by as much as their steps are short.
    """
    path = make()
    by_steps = isinstance(path, GeometricPath) and isinstance(path.model.space, Real)
    temperatures = max(300, round(300 / reach(path.forward))) if by_steps else 300
    x = enumeration.sample(path.model, 200, stream(0, "x"))
    log_z = log_z_of(path)
    with torch.no_grad():
        coarse, _ = ais.forward(path, 2000, 3, stream(0, "coarse"))
        log_w, _ = ais.forward(path, 500, temperatures, stream(0, "fine"))
        lower = ais.reverse_log_p(path, x, 4, temperatures, stream(0, "reverse"))
        log_p = enumeration.log_likelihood(path.model, x)
    assert coarse.mean().item() + path.log_z_base < log_z
    assert abs(log_mean_exp(log_w).item() + path.log_z_base - log_z) < 0.1
    assert abs((lower - log_p).mean().item()) < 0.1 + SIGMAS * (lower - log_p).std().item() / 200**0.5


@paths
def test_annealing_reads_only_its_key(make):
    path = make()
    x = path.model.space.noise(10, stream(0, "x")).double()
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # noqa: TID251
        with torch.no_grad():
            found.append((ais.forward(path, 10, 5, stream(3))[0], ais.reverse_log_p(path, x, 2, 5, stream(4))))
    assert all(map(torch.equal, *found))


@paths
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_no_key_of_annealing_serves_two_draws(make, engine, monkeypatch):
    path = make()
    path.compiles = True  # so that an engine of counters is asked for its keys, whether or not it could compile
    used = keys_used(monkeypatch)
    with torch.no_grad():
        _, x = ais.forward(path, 5, 4, stream(3, "forward"), engine)
        ais.reverse_log_p(path, x, 2, 4, stream(3, "reverse"), engine)
    assert len(used) >= 9
    assert len(set(used)) == len(used)


# The evaluation


def subject(model_name, sampler, seed=0):
    model = target(model_name).float()
    return Subject(
        model, small_data(model.space, 60), "test", SAMPLERS[sampler], torch.empty(0), stream(seed, "subject")
    )


def evaluation(**changes):
    small = {"chains": 500, "temperatures": 200, "raise_points": 50, "raise_chains": 4, "bootstrap": 1000}
    return component("evaluation", "ais", **(small | changes))


CHEAP_AND_BOLD = ("dmala", "hmc-0.8-3", "metropolis")
CASES = {(t, next(s for s in CHEAP_AND_BOLD if (s, t) in INVARIANT)): None for _, t in INVARIANT}
ALIKE = ("exponential_family-binary", "exponential_family-spin", "exponential_family-categorical", "rbm-categorical")
CASES |= dict.fromkeys([("rbm-binary", "block_gibbs"), ("rbm-binary", "gibbs"), ("boltzmann-binary", "gibbs")])


@pytest.mark.quick("boltzmann-binary-gibbs", "rbm-binary-block_gibbs")
@pytest.mark.parametrize(
    ("model_name", "sampler"),
    [pytest.param(*case, marks=[pytest.mark.long] * (is_network(case[0]) or case[0] in ALIKE)) for case in CASES],
)
def test_the_evaluation_finds_the_exact_values(model_name, sampler):
    """Easy cases: log Z within 0.1 nat and inside its own interval, RAISE near the likelihood of its rows."""
    about = subject(model_name, sampler)
    metrics = evaluation().evaluate(about).metrics
    model, x = about.model.double(), about.held_out.all().double()
    log_z = enumeration.log_z(model).item()
    likelihood = enumeration.log_likelihood(model, x).mean().item()
    assert metrics["ais/log_z"] == pytest.approx(log_z, abs=0.1)
    assert metrics["ais/log_z_low"] - 0.02 < log_z < metrics["ais/log_z_high"] + 0.02
    assert metrics["ais/log_z_low"] < metrics["ais/log_z"] < metrics["ais/log_z_high"]
    energy = model.energy(x).mean().item()
    assert metrics["ais/log_likelihood"] == pytest.approx(-energy - metrics["ais/log_z"], abs=1e-5)
    assert metrics["ais/log_likelihood"] == pytest.approx(likelihood, abs=0.1)
    assert metrics["raise/log_likelihood"] == pytest.approx(likelihood, abs=0.3)
    assert abs(metrics["ais/gap"]) < 0.3
    assert 0 < metrics["ais/gap_standard_error"] < 0.1
    assert metrics["raise/points"] == 50
    assert 1 <= metrics["ais/weight_ess"] <= 500.001
    assert ("ais/bits_per_dimension" in metrics) == isinstance(model.space, Discrete)


def test_the_interval_is_that_of_the_mean_weight():
    """Log-normal weights: the standard error of the log of a mean of n is near sqrt((e^(s^2) - 1) / n)."""
    n, s = 4000, 0.5
    log_w = s * torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = evaluation()._uncertainty(log_w, 3.0, stream(0))
    width = found["ais/log_z_high"] - found["ais/log_z_low"]
    assert width == pytest.approx(2 * 1.96 * math.sqrt((math.exp(s * s) - 1) / n), rel=0.1)
    middle = 3.0 + math.log(log_w.exp().mean().item())
    assert found["ais/log_z_low"] < middle < found["ais/log_z_high"]
    ess = log_w.exp().sum().item() ** 2 / log_w.mul(2).exp().sum().item()
    assert found["ais/weight_ess"] == pytest.approx(ess)
    assert found["ais/log_weight_std"] == pytest.approx(log_w.std().item())


def test_without_points_there_is_no_raise():
    metrics = evaluation(raise_points=0).evaluate(subject("rbm-binary", "block_gibbs")).metrics
    assert not any(name.startswith("raise") or name == "ais/gap" for name in metrics)


@pytest.mark.long
def test_more_points_than_rows_are_all_rows():
    metrics = evaluation(raise_points=10_000).evaluate(subject("rbm-binary", "block_gibbs")).metrics
    assert metrics["raise/points"] == 60


def test_huge_weights_do_not_overflow():
    """log w of a thousand nats, as a large model has."""
    log_w = torch.tensor([1000.0, 1001.0, 999.0] * 10, dtype=torch.float64)
    found = evaluation()._uncertainty(log_w, 0.0, stream(0))
    assert all(math.isfinite(value) for value in found.values())
    assert log_mean_exp(log_w).item() == pytest.approx(1000 + math.log((1 + math.e + 1 / math.e) / 3))


def test_weights_spread_over_thousands_of_nats_give_finite_numbers():
    """A resample without the one great weight has a mean of exp(-2000), which no float64 holds."""
    log_w = torch.tensor([0.0, *[-2000.0 - k for k in range(9)]], dtype=torch.float64)
    found = evaluation()._uncertainty(log_w, 0.0, stream(0))
    assert all(math.isfinite(value) for value in found.values())
    assert found["ais/log_z_low"] == pytest.approx(-2000, abs=20)
    assert found["ais/log_z_high"] == pytest.approx(math.log(3 / 10), abs=1)


def bracketed(gap, error, weight_ess=500.0):
    """What is said of a gap with this standard error."""
    ends = {"ais/log_likelihood": -88.0, "raise/log_likelihood": -88.0 - gap}
    rest = {"ais/gap": gap, "ais/gap_standard_error": error, "ais/weight_ess": weight_ess}
    return evaluation()._warnings(ends | rest)


@pytest.mark.parametrize(
    ("gap", "error", "warned"),
    [(0.99, 0.1, False), (-0.99, 0.1, False), (1.01, 0.1, True), (-1.1, 0.1, True), (-3.0, 1.1, True)],
)
def test_a_gap_over_one_nat_is_said(gap, error, warned):
    found = bracketed(gap, error)
    assert len(found) == warned
    assert all(re.search(rf"AIS and RAISE differ by {gap:.4g} nats; .*evaluation\.ais\.temperatures", s) for s in found)


@pytest.mark.parametrize(("gap", "error"), [(-1.3, 0.1), (-3.0, 0.9), (-35.0, 0.0)])
def test_a_lower_bound_above_the_upper_figure_is_a_contradiction(gap, error):
    (sentence,) = bracketed(gap, error)
    assert sentence.startswith(f"RAISE, a lower bound, lies {-gap:.4g} nats above AIS, an upper one: ")
    assert sentence.endswith("so neither figure holds; raise evaluation.ais.temperatures")


@pytest.mark.parametrize(
    ("weight_ess", "said"), [(1.9, "rests on one of 500"), (2.1, "only 2.1 of 500"), (101.0, None)]
)
def test_one_chain_that_is_the_whole_estimate_is_said(weight_ess, said):
    found = bracketed(0.0, 0.1, weight_ess)
    assert [said in sentence for sentence in found] == ([True] if said else [])


@pytest.mark.long
def test_too_few_temperatures_are_flagged():
    """A strongly coupled model annealed in one step: the gap is real, and the result says so."""
    about = subject("rbm-binary", "block_gibbs")
    with torch.no_grad():
        about.model.W.mul_(12)
    result = evaluation(temperatures=1, chains=20).evaluate(about)
    assert abs(result.metrics["ais/gap"]) > 1
    assert any("AIS and RAISE differ by" in sentence for sentence in result.warnings)
    assert result.metrics["ais/weight_ess"] < 2
    assert any("rests on one of 20 chains" in sentence for sentence in result.warnings)
    assert evaluation(temperatures=1000).evaluate(subject("rbm-binary", "block_gibbs")).warnings == ()


@pytest.mark.parametrize(
    ("model_name", "sampler", "kind"),
    [("rbm-binary", "block_gibbs", BipartitePath), ("rbm-binary", "gibbs", GeometricPath),
     ("boltzmann-binary", "gibbs", GeometricPath)],
)  # fmt: skip
def test_which_path_is_taken(model_name, sampler, kind):
    about = subject(model_name, sampler)
    mean = about.data.smoothed_mean().flatten()
    for mix in (0.0, 0.4, 1.0):
        path = annealing_path(about, mix)
        assert type(path) is kind
        assert_close(path.base.b.sigmoid(), (1 - mix) * mean + mix / 2)


@pytest.mark.parametrize("name", ["ais", "bridge"])
def test_a_model_whose_integral_does_not_exist_has_no_likelihood(name):
    """The precision I - W of the Gaussian needs eigenvalues above 0."""
    of, few = subject("real_boltzmann-real", "mala"), {"ais": {"temperatures": 3}, "bridge": {"rungs": 2}}[name]
    with torch.no_grad():
        of.model.W.copy_(torch.tensor([[0.0, 0.999], [0.0, 0.0]]))
    assert of.model.improper() is None
    of.model.W.data *= 1.002
    with pytest.raises(RunError, match=r"^the largest eigenvalue of W is 1.001 and must be below 1"):
        component("evaluation", name, chains=4, bootstrap=100, **few).evaluate(of)
