"""Mutants of ebm_cli/page/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "page: what a run says is markup",
        "page/made.py",
        "autoescape=True",
        "autoescape=False",
        "report::test_whatever_a_run_holds_is_text",
    ),
    Mutant(
        "page: names of figures may end the script of the charts",
        "page/assets/page.html",
        "{{ charts|tojson }}",
        "{{ charts|string|safe }}",
        "report::test_whatever_a_run_holds_is_text",
    ),
    Mutant(
        "page: any script may run",
        "page/assets/page.html",
        "script-src {{ hashes|safe }}",
        "script-src 'unsafe-inline'",
        "report::test_the_page_asks_for_nothing_and_is_whole",
    ),
    Mutant(
        "page: warnings from before the run was taken up count",
        "page/log.py",
        "return before[-1] + 1 if before else 0",
        "return 0",
        "report::test_only_what_was_said_since_the_run_was_taken_up_counts",
    ),
    Mutant(
        "page: lowest points of a long curve are lost",
        "page/chart.py",
        "kept |= {min(some, key=y.__getitem__), max(some, key=y.__getitem__)}",
        "kept |= {max(some, key=y.__getitem__)}",
        "report::test_no_peak_is_lost_where_points_are_left_out",
    ),
    Mutant(
        "page: a picture may be of any size",
        "page/pictures.py",
        "if size * 4 / 3 > room:",
        "if False:",
        "report::test_pictures_are_in_the_page_and_those_without_room_are_named",
    ),
    Mutant(
        "page: what is no picture is shown",
        "page/pictures.py",
        "if not data.startswith(_PNG) or",
        "if",
        "report::test_pictures_are_in_the_page_and_those_without_room_are_named",
    ),
    Mutant(
        "page: ends of a bracket that cross are a bracket",
        "page/findings.py",
        'if found.by == "ais" and',
        "if False and",
        "report::test_a_bracket_is_good_only_where_its_ends_are_in_order_and_near",
    ),
    Mutant(
        "page: a wide bracket is as good as a narrow one",
        "page/findings.py",
        "if width > WIDE:",
        "if width > 1000:",
        "report::test_a_bracket_is_good_only_where_its_ends_are_in_order_and_near",
    ),
    Mutant(
        "page: a curve that still rises has converged",
        "page/findings.py",
        "if late > _LITTLE * whole and",
        "if late > 10 * whole and",
        "report::test_what_is_wrong_and_what_to_do_stand_at_the_top",
    ),
    Mutant(
        "page: a credential on the command line is shown",
        "page/one.py",
        "private = is_secret(key) or",
        "private =",
        "report::test_a_credential_that_was_typed_is_not_shown",
    ),
    Mutant(
        "page: jobs that are not begun are left out",
        "page/assets/page.html",
        "{% for job in waiting %}",
        "{% for job in [] %}",
        "report::test_a_multirun_shows_all_jobs_with_their_states",
    ),
    Mutant(
        "page: several runs at one value of a key are one point",
        "page/many.py",
        "if pair[0] not in {x for x, _ in layer}",
        "if True",
        "report::test_runs_at_one_value_of_a_key_are_all_drawn",
    ),
]
