"""Every shipped sampler in the settings that are tested, and the targets it fits."""

import collections
import itertools
import typing
from typing import Literal

import pytest

from ebm_cli import registry
from ebm_cli.model.base import Blocked, EnergyModel
from ebm_cli.model.exponential_family import GaussianProduct
from ebm_cli.model.gaussian_rbm import GaussianRBM
from ebm_cli.model.levels import Leveled
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Categorical, Counts, Discrete, Real, Space, Spin
from helpers.components import shipped
from helpers.models import DISCRETE, PAIRS, WALLED, example, for_energies

EXTRA = {
    "metropolis": [{"flips": 2}, {"flips": 4}, {"step_size": 1.5}],
    "gibbs": [{"scan": "random", "updates": 2}],
    "gwg": [{"flips": 2}, {"flips": 4}, {"temperature": 0.7}],
    "dmala": [{"step_size": 1.5}],
    "block_gibbs": [{"backwards": True}],
    "langevin": [{"noise": 0.05, "clip": 0.1}],
    "mala": [{"step_size": 0.5}],
    "hmc": [{"step_size": 0.8, "leapfrog": 3}],
    "underdamped": [{"step_size": 0.7, "leapfrog": 3}],
    "nuts": [{"step_size": 0.8}],
    "gibbs_langevin": [{"step_size": 0.7}, {"adjust": False}],
    "parallel_tempering": [
        {"kernel": {"name": "gibbs", "scan": "systematic", "updates": None}, "temperatures": 3},
        {
            "kernel": {"name": "metropolis", "flips": 1, "step_size": 1.5, "adapt": None},
            "temperatures": 2,
            "beta_min": 0.3,
        },
    ],
    "hamming_ball": [{"radius": 2}, {"block": 4, "radius": 3}],
}
SMALL_BLOCK = {
    "block": 3,
    "steps": 2,
    "cycle": 3,
    "top": 2,
    "max_depth": 2,
}  # what makes a shipped sampler fit four sites and be fast, where it has such a key
APART = ("balance", "solver")  # choices that `test_balance.py` has in every space
ONLY_FOR = {
    ("metropolis", "flips"): Discrete,
    ("metropolis", "step_size"): Real,
    ("block_gibbs", "backwards"): (Spin, Categorical),
}  # settings without effect elsewhere


def _samplers() -> dict[str, tuple[Sampler, type[Space] | tuple[type[Space], ...]]]:
    """Every shipped sampler, every value of its choices and a few more settings; and the spaces they matter in."""
    found: dict[str, tuple[Sampler, type[Space] | tuple[type[Space], ...]]] = {}
    for choice, config in shipped("sampler").items():
        if getattr(registry.components("sampler")[config["name"]], "spaces", None) == ():
            continue  # replicas on the models that a run passed through: test_trajectory_tempering.py
        config |= {key: value for key, value in SMALL_BLOCK.items() if key in config}
        hints = typing.get_type_hints(registry.components("sampler")[config["name"]])
        literals = [
            (key, typing.get_args(hints[key]))
            for key in config
            if typing.get_origin(hints.get(key)) is Literal and key not in APART
        ]
        settings = [{}, *({key: value} for key, values in literals for value in values), *EXTRA.get(choice, [])]
        for setting in settings:
            sampler = registry.build("sampler", config | setting)
            of_states = for_energies(sampler.inner) and sampler.inner.spaces != (Counts,)
            if of_states and sampler not in [known for known, _ in found.values()]:
                label = "-".join([choice, *(f"{_named(value)}" for value in setting.values())])
                found[label] = (
                    sampler,
                    next((ONLY_FOR[choice, key] for key in setting if (choice, key) in ONLY_FOR), Space),
                )
    return found


def _named(value):
    return value["name"] if isinstance(value, dict) else value


_SETTINGS = _samplers()
SAMPLERS = {label: sampler for label, (sampler, _) in _SETTINGS.items()}


def fits(sampler: Sampler, model: EnergyModel) -> bool:
    """What a sampler declares, asked of a model."""
    kernel = sampler.inner
    needs = (*kernel.needs, *sampler.needs)
    able = isinstance(model.space, kernel.spaces) and all(isinstance(model, need) for need in needs)
    if sampler.replicas > 1 and Blocked in kernel.needs and able and not model.tempers:
        return False
    return able and sampler.refusal(model.space) is None


def reach(sampler: Sampler) -> float:
    """How far one step goes on real numbers: the sum of its leaps, 1 where conditionals are drawn from."""
    mean = 0.3 if getattr(sampler, "decades", 0) else 1.0  # of a step from long to short
    return mean * getattr(sampler, "step_size", 1.0) * getattr(sampler, "leapfrog", getattr(sampler, "max_depth", 1))


NETWORKS = (
    "mlp",
    "convnet",
    "resnet",
    "resnet_binary",
    "resnet_categorical",
    "multiscale",
    "jem",
    "flow",
    "real_boltzmann",
    "word_window",
    "leveled",
    "leveled_convnet",
    "leveled_unet",
    "unet",
    "autoencoder",
    "leveled_jem",
)  # one stands for all where settings of samplers differ


def _telling(label: str, name: str) -> bool:
    """Whether a pair shows what others do not: no network but one needs more than two of the shipped samplers.

    A class RBM has sweeps of its own and is otherwise as a network, and a convolutional one is an RBM.
    """
    if name.startswith(("class_rbm", "conv_rbm")):
        return label in ("block_gibbs", "metropolis")
    if name == "convnet-boxed" or name.partition("-")[0] not in NETWORKS:
        return True
    if name == "leveled-real" and Leveled in SAMPLERS[label].needs:
        return True
    return label in (("gwg", "metropolis") if name in DISCRETE else ("langevin", "mala"))


FITTING = [
    (label, name)
    for label, name in itertools.product(SAMPLERS, [*PAIRS, WALLED])
    if fits(SAMPLERS[label], example(name))
    and isinstance(example(name).space, _SETTINGS[label][1])
    and _telling(label, name)
]


def marked(pairs):
    """Parameters of a test: of what `quick` leaves out, which is much the same, those that cover it are long."""
    kept = quick(pairs)
    more = covering([pair for pair in pairs if pair not in kept], kept)
    return [pair if pair in kept else _long(pair) for pair in pairs if pair in kept or pair in more]


def _long(pair):
    return pytest.param(*pair, marks=pytest.mark.long)


def fewer(pairs):
    """The same of a test that takes longer: what is not among the first is long."""
    found = first(pairs)
    return [_long(pair) if pair in pairs and pair not in found else pair for pair in marked(pairs)]


def first(pairs):
    """Of the quick ones every kernel once, as shipped and on a model of bits where it can, and every kind of space."""
    plain = [pair for pair in quick(pairs) if "-" not in pair[0]]
    usual = sorted(plain, key=lambda pair: (pair[1] not in WHOLE, pair[0] not in USUAL))
    found, met = [], set()
    for label, name in usual:
        new = {label, type(example(name).space)}
        if not new <= met:
            found.append((label, name))
            met |= new
    return found


def covering(pairs, kept):
    """Some of the pairs: with `kept`, every model is asked all that kernels ask, and each setting is in every space.

    A setting changes how a sampler moves in its space and a model answers what it is asked, so that both together show
    no more. The settings take turns on the models, last those whose sites know nothing of each other.
    """
    met, found, turns = {need for pair in kept for need in _needs(*pair)}, [], collections.Counter()
    while left := [pair for pair in pairs if not _needs(*pair) <= met]:
        best = min(left, key=lambda pair: (is_product(pair[1]), -len(_needs(*pair) - met), sum(turns[i] for i in pair)))
        found.append(best)
        turns.update(best)
        met |= _needs(*best)
    return found


def is_product(name: str) -> bool:
    return name.startswith("exponential_family")


def _needs(label: str, name: str) -> set[tuple[str, str, str]]:
    kernel = label.partition("-")[0]
    return {("model", ASKS.get(kernel, kernel), name), ("space", label, type(example(name).space).__name__)}


ASKS = {
    **dict.fromkeys(("dmala", "dula", "gwg", "pafs", "dlmc", "acs", "top_k_gibbs"), "gradient at every value"),
    **dict.fromkeys(("langevin", "mala", "mala_mixed", "hmc", "underdamped", "nuts", "augmented"), "gradient"),
}  # of a model, where several kernels ask the same
WHOLE = ("rbm-binary",)
SHIPPED = ("ising-spin", "potts-categorical", "exponential_family-real")
USUAL = ("gibbs", "block_gibbs", "gibbs_langevin")
CHEAP = ("dmala", "mala")  # of those that follow a gradient


def quick(pairs):
    """All settings of all samplers on one model of bits, the shipped ones on spins, categories and numbers, the bold
    ones between walls, the usual ones on other closed forms, and for every other model a cheap one that asks it much,
    but for networks of bits and categories, which a step asks about every site."""
    apart = ("resnet_binary", "resnet_categorical")
    cheap = sorted((s not in CHEAP, s, t) for s, t in pairs if "-" not in s and not t.startswith(apart))
    one = {t: s for _, s, t in reversed(cheap)}
    return [(s, t) for s, t in pairs if (_bold(s) if t == WALLED else one.get(t) == s or t in WHOLE or _matters(s, t))]


def is_slow(label: str, name: str) -> bool:
    """Whether a sampler takes hundreds of steps to forget, or many draws for each."""
    if label.startswith("underdamped"):
        return True
    return not isinstance(example(name).space, Discrete) and reach(SAMPLERS[label]) < 0.5


def marked_slow(pairs):
    """Parameters of a test of many steps or chains: slow pairs, and other settings than those shipped, are long too."""
    long = [p for p in pairs if is_slow(*p) or ("-" in p[0] and p[1] != WALLED)]
    return [_long(p) if p in long else p for p in marked(pairs)]


def _matters(label: str, name: str) -> bool:
    return "-" not in label and (name in SHIPPED or (label in USUAL and example(name).compiles))


def _bold(label: str) -> bool:
    """Whether a sampler takes long steps, which meet walls, and forgets soon."""
    return reach(SAMPLERS[label]) >= 0.5 and "-" in label


KNOWN = [name for name in PAIRS if name in DISCRETE or isinstance(example(name), GaussianProduct | GaussianRBM)]
INVARIANT = [(s, t) for s, t in FITTING if SAMPLERS[s].leaves_invariant and t in (*KNOWN, WALLED)]
FITTING_DISCRETE = [(s, t) for s, t in FITTING if t in DISCRETE]
