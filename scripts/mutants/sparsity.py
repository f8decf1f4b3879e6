"""Mutants of ebm_cli/sparsity/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "activate: the divergence the other way round",
        "sparsity/activate.py",
        "torch.special.xlogy(f, f / p) + torch.special.xlogy(1 - f, (1 - f) / (1 - p))",
        "torch.special.xlogy(p, p / f) + torch.special.xlogy(1 - p, (1 - p) / (1 - f))",
        "sparsity::test_the_gain_is_that_of_the_likelihood_at_the_best_strength",
    ),
    Mutant(
        "activate: what is there already is added again",
        "sparsity/activate.py",
        "gains = torch.where(missing,",
        "gains = torch.where(seen.possible,",
        "sparsity::test_what_is_added_was_missing_and_gains_most",
    ),
    Mutant(
        "prune: the sign of the strength",
        "sparsity/prune.py",
        "torch.log1p(p * torch.expm1(-strength))",
        "torch.log1p(p * torch.expm1(strength))",
        "sparsity::test_the_loss_is_kl_to_the_model_without_the_coupling",
    ),
    Mutant(
        "prune: the most important go first",
        "sparsity/prune.py",
        "topk(count, largest=False)",
        "topk(count)",
        "sparsity::test_what_is_dropped_was_there_and_loses_least",
    ),
    Mutant(
        "sparsity: spins are taken as bits",
        "sparsity/base.py",
        "return (1 + means) / 2, 2 * strength, 0.5",
        "return (1 + means) / 2, strength, 0.5",
        "sparsity::test_the_loss_is_kl_to_the_model_without_the_coupling",
    ),
    Mutant(
        "sparsity: objectives without chains are let in",
        "sparsity/base.py",
        "if not (objective.negatives and chains.stored):",
        "if False:",
        "sparsity::test_what_has_no_couplings_to_choose_is_refused",
    ),
]
