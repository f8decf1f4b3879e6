"""Mutants of ebm_cli/api/."""

from _mutant import Mutant

_AS_BEFORE = "python::test_a_run_equals_that_of_the_command_and_two_calls_leave_the_process_as_it_was"

MUTANTS = [
    Mutant(
        "python: threads stay as a run had them",
        "api/process.py",
        "        torch.set_num_threads(threads)\n",
        "",
        _AS_BEFORE,
    ),
    Mutant(
        "python: our logger goes on",
        "api/process.py",
        "        log.setLevel(level)\n",
        "",
        _AS_BEFORE,
    ),
    Mutant(
        "python: a run that was stopped is handed over as one that is done",
        "api/training.py",
        "    if code in _STOPPED:",
        "    if False:",
        "python::test_a_request_to_stop_saves_and_ends_the_call",
    ),
    Mutant(
        "python: a run that failed is handed over",
        "api/training.py",
        "    if code:\n",
        "    if False:\n",
        "python::test_a_run_that_fails_is_an_error_with_its_sentence",
    ),
    Mutant(
        "python: what is masked is there",
        "api/rows.py",
        "mask = np.ma.getmaskarray(x) if isinstance(x, np.ma.MaskedArray) else None",
        "mask = None",
        "python::test_draws_are_those_of_the_command",
    ),
    Mutant(
        "python: the lower end of log p is the upper one",
        "api/run.py",
        "low=rows.like(x, found.low)",
        "low=rows.like(x, found.high)",
        "python::test_where_log_z_is_an_estimate_log_p_has_ends",
    ),
    Mutant(
        "python: an evaluation is of another checkpoint",
        "api/training.py",
        '[f"checkpoint={run.step}"] if isinstance(run, TrainedRun) else []',
        "[]",
        "python::test_where_log_z_is_an_estimate_log_p_has_ends",
    ),
    Mutant(
        "sklearn: the weights of the last step are taken, not their average",
        "api/fitting.py",
        "state.averaged_model().state_dict()",
        "state.model.state_dict()",
        "sklearn::test_a_fit_is_that_of_the_command_to_the_last_bit_and_writes_nothing",
    ),
    Mutant(
        "frames: filled rows lose their types",
        "api/frames.py",
        "if not is_frame(x) or isinstance(x, table_files.library().DataFrame):",
        "if True:",
        "python::test_gaps_of_a_data_frame_are_filled_in_the_types_of_its_columns",
    ),
    Mutant(
        "frames: two columns of one name are one",
        "api/frames.py",
        "    text_tables.check_apart([str(name) for name in x.columns], said)\n",
        "",
        "python::test_data_frames_that_are_no_table_are_refused",
    ),
    Mutant(
        "frames: columns go by their order",
        "api/rows.py",
        "if columns is not None and frames.is_frame(x):",
        "if False:",
        "python::test_a_data_frame_for_a_run_on_a_table_goes_by_the_names_of_its_columns",
    ),
]
