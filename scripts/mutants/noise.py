"""Mutants of ebm_cli/noise/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "noise: a law beyond the box passes",
        "noise/gaussian.py",
        "if isinstance(space, Box) and not",
        "if False and not",
        "noise::test_normal_noise_without_mass_in_the_box_is_refused",
    ),
    Mutant(
        "words: noise by the frequency itself",
        "noise/unigram.py",
        ".double() ** self.power",
        ".double()",
        "log_bilinear::test_noise_is_the_frequency_to_a_power",
    ),
    Mutant(
        "words: noise of one row beside another",
        "noise/unigram.py",
        "x.repeat_interleave(count, 0)",
        "x.repeat(count, 1)",
        "log_bilinear::test_noise_is_the_frequency_to_a_power",
    ),
    Mutant(
        "noise: a fixed law is trained",
        "noise/units.py",
        "law.requires_grad_(requires_grad=False)",
        "law",
        "noise::test_a_run_learns_c_with_the_model",
    ),
]
