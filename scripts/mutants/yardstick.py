"""Mutants of ebm_cli/yardstick/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "classifier: what is no image counts as the first class",
        "yardstick/classifier.py",
        "torch.full_like(index, classes)",
        "torch.full_like(index, 0)",
        "long_run::test_the_classifier_is_a_function_of_its_key",
    ),
    Mutant(
        "topics: counts of words, not documents",
        "yardstick/coherence.py",
        ("present = csc_matrix(documents > 0, dtype=np.float64)\n    return"),
        "present = csc_matrix(documents, dtype=np.float64)\n    return",
        "topics::test_npmi_is_that_of_the_shares_of_documents",
    ),
    Mutant(
        "topics: words never together are independent",
        "yardstick/coherence.py",
        "np.where(joint > 0, 1.0, -1.0)",
        "np.where(joint > 0, 1.0, 0.0)",
        "topics::test_npmi_goes_from_minus_one_to_one",
    ),
    Mutant(
        "features: covariances commute",
        "yardstick/features.py",
        "(vector * value.clamp_min(0).sqrt()) @ vector.T",
        "vector * value.clamp_min(0).sqrt()",
        "long_run::test_frechet_distance_of_normal_rows",
    ),
    Mutant(
        "mixing: pairs of a row with itself stay in the discrepancy",
        "yardstick/mmd.py",
        "(kernel(x, x).sum() - n) / (n * (n - 1))",
        "kernel(x, x).sum() / (n * n)",
        "mixing::test_mmd_is_the_formula_term_by_term",
    ),
    Mutant(
        "mixing: standard error of the discrepancy without centring",
        "yardstick/mmd.py",
        "centred = (k - row[:, None] - row + row.mean())",
        "centred = (k - row.mean())",
        "mixing::test_resolution_is_the_spread_of_mmd_under_equal_laws",
    ),
    Mutant(
        "particles: drawn anew, their weights so far are lost",
        "yardstick/particles.py",
        "        self.found[poor] += log_mean_exp(self.log_w[poor])",
        "",
        "particles::test_the_mean_of_the_estimates_is_the_sum_over_all_topics",
    ),
    Mutant(
        "particles: drawn anew uniformly",
        "yardstick/particles.py",
        "torch.searchsorted(w[poor].cumsum(1), u, right=True)",
        "(u * w.shape[1]).long()",
        "particles::test_with_many_particles_it_is_that_sum",
    ),
    Mutant(
        "particles: the prior of topics is forgotten",
        "yardstick/particles.py",
        "(t + topics * self.alpha)",
        "(t + 1)",
        "particles::test_with_many_particles_it_is_that_sum",
    ),
]
