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
    Mutant(
        "noise of rows: the rows of another shape are taken",
        "noise/dataset.py",
        "if other.space != data.space:",
        "if False:",
        "noise::test_rows_of_another_shape_are_refused",
    ),
    Mutant(
        "fitted noise: the width is left as it is",
        "noise/fitted.py",
        "self.widen * std",
        "std",
        "noise::test_fitted_noise_has_the_moments_of_the_data",
    ),
    Mutant(
        "a flow as noise: its density has the other sign",
        "noise/flow.py",
        "return -self.law",
        "return self.law",
        "noise_laws::test_the_density_of_a_flow_as_noise_has_the_integral_1",
    ),
    Mutant(
        "coin flips: all of them are fair",
        "noise/bernoulli.py",
        "data.space.shape, self.p)",
        "data.space.shape, 0.5)",
        "noise_laws::test_coins_are_flipped_with_the_probability_asked_for",
    ),
    Mutant(
        "bigram: single values are left out of the density",
        "noise/bigram.py",
        "(count + self.strength * self.log_q[second].exp())",
        "(count + 1e-9)",
        "text_windows::test_bigram_noise_is_normalised_and_has_the_density_of_its_draws",
    ),
    Mutant(
        "bigram: no single values are drawn",
        "noise/bigram.py",
        "u[:, site, 2] * (size + self.strength) < size",
        "size > 0",
        "text_windows::test_bigram_noise_is_normalised_and_has_the_density_of_its_draws",
    ),
]
