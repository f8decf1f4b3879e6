"""Former names, which go on working and say what they are called."""

import re

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


def by_new_names(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments with today's names of recipes in place of former ones, and a sentence on each."""
    found, notes = [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key.lstrip("+") == "experiment" and equals:
            former = [name for name in re.findall(r"\w+", value) if name in _EXPERIMENTS]
            value = re.sub(r"\w+", lambda name: _EXPERIMENTS.get(name[0], name[0]), value)
            notes += [f"experiment={name} is called {_EXPERIMENTS[name]}" for name in former]
        found.append(f"{key}{equals}{value}")
    return found, notes
