"""Mutants of ebm_cli/tracker/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "csv: rows of a resumed run stand twice",
        "tracker/csv.py",
        "            _cut(directory, step)\n",
        "            pass\n",
        "records::test_a_table_of_metrics_has_each_row_once",
    ),
    Mutant(
        "tracker: what nobody shows waits and is dropped",
        "tracker/guard.py",
        "if spec.shows else",
        "if True else",
        "tracker::test_nothing_waits_for_a_tracker_that_shows_nothing",
    ),
    Mutant(
        "tracker: histograms that no table holds wait and are dropped",
        "tracker/guard.py",
        "if self._bins and self._accepts(",
        "if self._accepts(",
        "tracker::test_nothing_waits_for_a_tracker_that_shows_nothing",
    ),
    Mutant(
        "tracker: what its process raises is lost",
        "tracker/process.py",
        ("        if trouble is not None:\n            raise ElsewhereError(trouble)\n"),
        "",
        "wandb_run::test_a_wandb_that_fails_does_not_stop_the_run[init]",
    ),
    Mutant(
        "tracker: Ctrl-C ends its process before the run",
        "tracker/worker.py",
        "(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)",
        "(signal.SIGUSR1,)",
        "wandb_run::test_the_tracker_of_a_killed_run_ends_and_leaves_what_it_has",
    ),
]
