"""Mutants of ebm_cli/process/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "vp: noise from the rate alone",
        "process/vp.py",
        "log_a - math.log(-math.expm1(2 * log_a)) / 2",
        "log_a - math.log(-math.expm1(log_a)) / 2",
        "leveled::test_the_variance_preserving_process_is_its_equation",
    ),
    Mutant(
        "ve: noise in equal steps",
        "process/ve.py",
        "first, last = math.log(self.sigma_min), math.log(self.sigma_max)\n        s = torch.linspace(first, last, self.levels, dtype=torch.float64).exp()",
        "s = torch.linspace(self.sigma_min, self.sigma_max, self.levels, dtype=torch.float64)",
        "leveled::test_the_variance_exploding_process_multiplies_its_noise",
    ),
    Mutant(
        "recovery process: rates begin with the second",
        "process/recovery.py",
        "torch.arange(self.levels - 1) * (_STEPS // (2 * max(1, self.levels - 2)))",
        "1 + torch.arange(self.levels - 1) * (_STEPS // (2 * max(1, self.levels - 2)))",
        "leveled::test_the_process_of_recovery_is_that_of_the_paper",
    ),
]
