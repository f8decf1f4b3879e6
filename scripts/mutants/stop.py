"""Mutants of ebm_cli/stop/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "pearson: chains that begin anew are let in",
        "stop/pearson.py",
        "if not chains.stored:",
        "if False:",
        "stop::test_what_cannot_be_looked_at_is_refused",
    ),
    Mutant(
        "pearson: objectives without chains are let in",
        "stop/pearson.py",
        "if not objective.negatives:",
        "if False:",
        "stop::test_what_cannot_be_looked_at_is_refused",
    ),
    Mutant(
        "pearson: met by the slope",
        "stop/pearson.py",
        "if found.pearson >= self.target",
        "if found.slope >= self.target",
        "stop::test_it_ends_at_the_first_look_that_meets_the_target",
    ),
    Mutant(
        "pearson: half as many chains are enough",
        "stop/pearson.py",
        "enough = math.ceil(noise / (",
        "enough = math.ceil(noise / 2 / (",
        "stop::test_too_few_chains_are_warned_of",
    ),
    Mutant(
        "plateau: one time too early",
        "stop/plateau.py",
        "return len(values) - 1 - place",
        "return len(values) - place",
        "stop::test_since_the_best",
    ),
    Mutant(
        "plateau: a change that is too small counts",
        "stop/plateau.py",
        "if value > best + change:",
        "if value > best:",
        "stop::test_since_the_best",
    ),
    Mutant(
        "plateau: the best is the lowest",
        "stop/plateau.py",
        'if self.of.mode == "max"',
        'if self.of.mode == "min"',
        "stop::test_a_metric_that_no_longer_improves_ends_it",
    ),
    Mutant(
        "plateau: metrics that no evaluation measures are let in",
        "stop/plateau.py",
        'if "/" not in self.metric or owner in measured:',
        "if True:",
        "stop::test_what_cannot_be_looked_at_is_refused",
    ),
]
