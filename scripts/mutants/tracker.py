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
    Mutant(
        "tensorboard: steps that a resumed run trains again stand twice",
        "tracker/tensorboard.py",
        "purge_step=beyond",
        "purge_step=None",
        "tracker_resumed::test_steps_that_are_trained_again_stand_once_for_tensorboard",
    ),
    Mutant(
        "tensorboard: the summary takes the keys of what was logged",
        "tracker/tensorboard.py",
        'f"summary/{key}"',
        "key",
        "tracker::test_tensorboard_reads_back",
    ),
    Mutant(
        "tracker: how the run ended is not told",
        "tracker/guard.py",
        "        tracker.ended(end)\n",
        "        pass\n",
        "tracker_names::test_the_guard_tells_how_a_run_ended",
    ),
    Mutant(
        "wandb: every run has finished",
        "tracker/wandb.py",
        "finish(exit_code=self._code)",
        "finish()",
        "tracker_names::test_wandb_records_how_a_run_ended",
    ),
    Mutant(
        "wandb: its variables do not count",
        "tracker/wandb.py",
        'self.group or there("WANDB_RUN_GROUP") or run.group',
        "self.group or run.group",
        "tracker_names::test_a_key_comes_before_the_variable_of_wandb_and_that_before_the_run",
    ),
    Mutant(
        "wandb: every job prints how its record is sent",
        "tracker/wandb.py",
        "if self._in_sweep and not self._trouble:",
        "if False:",
        "tracker_names::test_a_job_of_a_multirun_leaves_that_line_to_it[wandb]",
    ),
    Mutant(
        "wandb: an interrupted run gets a new id",
        "tracker/wandb.py",
        "            id=run.run_id,\n",
        "",
        "tracker::test_wandb_resumed_run_keeps_its_id",
    ),
    Mutant(
        "wandb: pictures of floats are taken, and shown black",
        "tracker/wandb.py",
        "if pixels.dtype != np.uint8:",
        "if False:",
        "tracker::test_wandb_refuses_floats",
    ),
    Mutant(
        "wandb: a key in the netrc file is not found",
        "tracker/wandb_account.py",
        " or _netrc_key()",
        "",
        "tracker::test_wandb_key_is_found_where_wandb_puts_it",
    ),
]
