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
]
