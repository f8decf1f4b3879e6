"""Mutants of ebm_cli/watching/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "frame: nobody counts what is done",
        "watching/frame.py",
        'counts.pop("done", 0)',
        "0",
        "watch::test_a_multirun",
    ),
    Mutant(
        "frame: a job that has not begun has a word of the program's own",
        "watching/frame.py",
        'return "not begun" if state == "new" else state',
        "return state",
        "watch::test_a_multirun",
    ),
    Mutant(
        "watch: curves are upside down",
        "watching/curve.py",
        "return rows - 1 - min(",
        "return min(",
        "watch::test_a_straight_line_is_drawn_as_one",
    ),
    Mutant(
        "watch: the first steps flatten all others",
        "watching/curve.py",
        "_TRIM = 0.02",
        "_TRIM = 0.0",
        "watch::test_the_first_steps_do_not_flatten_the_others",
    ),
    Mutant(
        "watch: all of a long file is read",
        "watching/look.py",
        "last=self._last)",
        "last=None)",
        "watch::test_only_the_end_of_a_long_file_is_read",
    ),
    Mutant(
        "watch: a name of a run is obeyed by the terminal",
        "watching/look.py",
        'letter if letter.isprintable() else "?"',
        "letter",
        "watch::test_names_are_shown_as_they_are_and_not_obeyed",
    ),
    Mutant(
        "watch: steps before the process began count as its own",
        "watching/look.py",
        'step - _whole(began.get("step"))',
        "step",
        "watch::test_the_rate_is_that_since_the_process_began_to_train",
    ),
    Mutant(
        "watch: it ends while a multirun has jobs to begin",
        "watching/show.py",
        "return not at_work and all(",
        "return all(",
        "watch::test_jobs_that_begin_meanwhile_are_watched_too",
    ),
    Mutant(
        "watch: what went wrong is not shown where there is no room",
        "watching/frame.py",
        "sorted(looks, key=lambda look: _rank(look.state))[:rows]",
        "looks[:rows]",
        "watch::test_where_there_is_no_room_what_went_wrong_is_shown",
    ),
]
