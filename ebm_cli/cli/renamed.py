"""Former names, which go on working and say what they are called."""

import re
from functools import partial

_EXPERIMENTS = {
    "seed0_adversarial": "boltzmann_adversarial_fashion",
    "seed0_gibbs": "boltzmann_gibbs_fashion",
    "seed0_nce": "boltzmann_nce_fashion",
    "seed0_negative_sampling": "boltzmann_negative_sampling_fashion",
    "seed3_no_length_factor": "rsm_no_length_factor",
    "seed3_own_rate": "rsm_own_rate",
    "seed3_shared_rate": "rsm_shared_rate",
    "seed4_elastic": "chains_elastic_mnist",
    "seed4_elastic_digits": "chains_elastic_digits",
    "seed4_high_noise": "chains_high_noise_mnist",
    "seed4_high_noise_digits": "chains_high_noise_digits",
    "seed4_ml_replay": "chains_ml_replay_mnist",
    "seed4_ml_replay_digits": "chains_ml_replay_digits",
    "seed4_true_cd": "chains_true_cd_mnist",
    "seed4_true_cd_digits": "chains_true_cd_digits",
    "seed4_true_cd_kl": "chains_true_cd_kl_mnist",
    "seed4_true_cd_kl_digits": "chains_true_cd_kl_digits",
}


_NAMES = {"experiment": _EXPERIMENTS, "dataset": {"npz": "array"}}
"""By what is chosen."""


def by_new_names(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments with today's names of recipes and data sets in place of former ones, and a sentence on each."""
    found, notes = [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        group = key.lstrip("+").partition("@")[0]
        if group in _NAMES and equals:
            names = _NAMES[group]
            former = [name for name in re.findall(r"\w+", value) if name in names]
            value = re.sub(r"\w+", partial(_of_today, names), value)
            notes += [f"{group}={name} is called {names[name]}" for name in former]
        found.append(f"{key}{equals}{value}")
    return found, notes


def _of_today(names: dict[str, str], found: re.Match[str]) -> str:
    return names.get(found[0], found[0])
