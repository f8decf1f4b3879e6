"""Mutants of ebm_cli/device/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "memory: groups above are not looked at",
        "device/control_groups.py",
        "(path, *path.parents)",
        "(path,)",
        "memory::test_the_tightest_control_group_bounds_it",
    ),
    Mutant(
        "memory: cached files are taken for used memory",
        "device/control_groups.py",
        "used[0] - _cached(group)",
        "used[0]",
        "memory::test_the_tightest_control_group_bounds_it",
    ),
    Mutant(
        "train: the number of the step is part of the code",
        "device/engine.py",
        "        if not self.compiled:\n            return values\n",
        "        return values\n",
        "compiled::test_training_steps_are_those_of_the_plain_code",
    ),
    Mutant(
        "memory: what runs out in numpy is a traceback",
        "device/memory.py",
        "isinstance(error, MemoryError | torch.OutOfMemoryError)",
        "isinstance(error, torch.OutOfMemoryError)",
        "memory::test_memory_that_runs_out_anywhere_is_a_sentence",
    ),
    Mutant(
        "memory: the way out is of what takes little",
        "device/memory.py",
        "key=lambda what: needed[what], reverse=True)",
        "key=lambda what: needed[what])",
        "memory::test_what_takes_the_memory_is_what_there_is_to_be_less_of",
    ),
    Mutant(
        "memory: a limit that is ignored",
        "device/memory.py",
        "if total > left:",
        "if False:",
        "memory::test_a_run_that_cannot_fit_is_refused_with_both_numbers",
    ),
    Mutant(
        "ranks: gradients added, not averaged",
        "device/ranks.py",
        "for tensor in tensors.values()]) / self.count",
        "for tensor in tensors.values()])",
        "ranks::test_two_ranks_train_as_one",
    ),
    Mutant(
        "device: deterministic has no effect",
        "device/base.py",
        "        _set_deterministic(self.deterministic)",
        "        _set_deterministic(False)",
        "messages::test_an_operation_that_cannot_be_repeated_is_refused_where_asked",
    ),
    Mutant(
        "ranks: another rank that failed is a success",
        "device/launch.py",
        "codes[0] or int(any(code not in (0, *_STOPPED) for code in codes))",
        "codes[0]",
        "ranks_verdict::test_a_rank_that_failed_is_no_success",
    ),
    Mutant(
        "ranks: one that was killed is not named",
        "device/launch.py",
        "if code < 0 and rank not in ended}",
        "if code < -99}",
        "ranks_verdict::test_a_rank_that_was_killed_is_named",
    ),
]
