"""Mutants of ebm_cli/cli/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "arguments: several paths are one",
        "cli/arguments.py",
        "(value.split(',') if apart else [value])",
        "[value]",
        "records::test_paths_need_no_quotes_and_several_are_several",
    ),
    Mutant(
        "listing: values of keys are not offered",
        "cli/listing.py",
        "if name in _options(key.note)",
        "if False",
        "bad_input::test_a_key_or_value_that_is_wrong",
    ),
    Mutant(
        "renamed: the second of several recipes keeps its former name",
        "cli/renamed.py",
        'value = re.sub(r"\\w+", lambda name: _EXPERIMENTS.get(name[0], name[0]), value)',
        "value = _EXPERIMENTS.get(value, value)",
        "cli::test_former_names_of_recipes_go_on_working_and_say_the_new_one",
    ),
    Mutant(
        "renamed: nobody is told",
        "cli/main.py",
        "if notes and not follows:",
        "if False:",
        "cli::test_former_names_of_recipes_go_on_working_and_say_the_new_one",
    ),
    Mutant(
        "listing: names of parts are left out",
        "cli/listing.py",
        'Text(f"{group}={part.choice}", "bold")',
        'Text(f"[bold]{group}", "bold")',
        "names::test_the_list_of_parts_has_its_brackets",
    ),
    Mutant(
        "cli: a reader that goes away is an error",
        "cli/main.py",
        ("    except BrokenPipeError:\n        if job.outcome.started:"),
        ("    except BrokenPipeError:\n        if True:"),
        "messages::test_whoever_stops_reading_is_told_nothing",
    ),
    Mutant(
        "cli: each line of Hydra that nobody reads is a traceback",
        "cli/main.py",
        "    logging.raiseExceptions = False",
        "    logging.raiseExceptions = True",
        "messages::test_so_it_is_with_a_pipe",
    ),
    Mutant(
        "meant: a run in place of a key is not seen",
        "cli/meant.py",
        'return f"{key}={word}" if os.path.isfile(',
        "return None if os.path.isfile(",
        "meant::test_a_run_in_place_of_a_key",
    ),
    Mutant(
        "meant: names of other tools are compared by their spelling",
        "cli/hydra_errors.py",
        'meant = key_meant(name) if command == "train" else None',
        "meant = None",
        "meant::test_the_way_out_is_named",
    ),
    Mutant(
        "arguments: the sweeper that searches by exit codes is let in",
        "cli/arguments.py",
        'if group == "hydra/sweeper" and value not in ("basic", ""):',
        "if False:",
        "meant::test_the_way_out_is_named",
    ),
    Mutant(
        "listing: the name of a file passes for what the part is",
        "cli/listing.py",
        'line.startswith("#") and not _FILE_NAME.match(line)',
        'line.startswith("#")',
        "listing::test_a_plugin_is_listed_as_a_part_is",
    ),
    Mutant(
        "resume of a multirun: keys given anew stand beside their former values",
        "cli/again.py",
        "if _key(word) not in anew",
        "if True",
        "sweep::test_a_job_is_what_its_configuration_says",
    ),
    Mutant(
        "multirun: plugins are not said again",
        "cli/sweeper.py",
        "(*typed, *map(quote, self.plugins))",
        "tuple(typed)",
        "sweep::test_what_must_be_said_again_is_in_the_line_that_takes_it_up",
    ),
    Mutant(
        "composing: values of one job stay for the next",
        "cli/composing.py",
        "copy.deepcopy(self._composed[parts])",
        "self._composed[parts]",
        "sweep::test_what_is_done_is_not_done_again_and_new_values_get_new_numbers",
    ),
]
