"""Mutants of ebm_cli/health/ and of what remembers for it."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "signals: the gap in standard deviations of a mean over the batch",
        "health/signals.py",
        'spread = _between(window.of("energy_data")) * math.sqrt(batch)',
        'spread = _between(window.of("energy_data"))',
        "health::test_the_gap_is_in_standard_deviations_of_a_row",
    ),
    Mutant(
        "signals: a trend counts as spread",
        "health/signals.py",
        "math.sqrt(float(np.square(np.diff(values)).mean()) / 2)",
        "float(values.std())",
        "health::test_the_gap_is_in_standard_deviations_of_a_row",
    ),
    Mutant(
        "signals: a gap that does not stay is one",
        "health/signals.py",
        'min(gap, history["gap"], key=abs)',
        "gap",
        "health::test_the_gap_is_in_standard_deviations_of_a_row",
    ),
    Mutant(
        "signals: a loss is held against the highest before",
        "health/signals.py",
        '"lowest": min(loss,',
        '"lowest": max(loss,',
        "health::test_a_loss_is_held_against_its_beginning_and_its_best",
    ),
    Mutant(
        "probe: R-hat by the variance within over that between",
        "health/probe.py",
        "ratio = between / within.clamp(min=_LEAST * between)",
        "ratio = within / between.clamp(min=_LEAST * within)",
        "health::test_nested_r_hat_is_that_of_the_definition",
    ),
    Mutant(
        "probe: looks are as dense at the end as at the beginning",
        "health/probe.py",
        "and count < 2**_DENSE",
        "",
        "health::test_looks_at_chains_are_dense_at_first_and_then_keep_their_share",
    ),
    Mutant(
        "probe: looks do not know how much they may cost",
        "health/probe.py",
        "look / (share * step * every)",
        "look / (step * every)",
        "health::test_looks_at_chains_are_dense_at_first_and_then_keep_their_share",
    ),
    Mutant(
        "limits: chains that vary too little are fine",
        "health/limits.py",
        "sum(size < limit if self.below else",
        "sum(size > limit if self.below else",
        "health::test_chains_in_one_place_are_seen",
    ),
    Mutant(
        "watcher: the steps since the last look are forgotten",
        "training/health.py",
        "window = signals.joined(self.window).tolist() if self.window else []",
        "window = signals.joined(self.window[:0]).tolist() if False else []",
        "health::test_killed_and_resumed_it_sees_the_same",
    ),
    Mutant(
        "watcher: what looks at the chains found is forgotten",
        "training/health.py",
        '"probed": self.probed, "said": self.said',
        '"probed": {}, "said": self.said',
        "health::test_killed_and_resumed_it_sees_the_same",
    ),
    Mutant(
        "watcher: each look warns anew",
        "training/health.py",
        "if sign.level > self.said.get(sign.name, 0):",
        "if sign.level:",
        "health::test_chains_that_do_not_move_are_said_once",
    ),
    Mutant(
        "watcher: a run that diverged keeps its last verdict",
        "training/loop.py",
        "        recorder.watcher.failed(str(error))\n",
        "",
        "health::test_a_run_that_diverged_has_failed",
    ),
]
