"""Mutants of ebm_cli/running/ and of what lets it look."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "running: the ratio is upside down",
        "running/log_z.py",
        'log_ratio = kept["energy"] - self._energy(subject, kept["x"])',
        'log_ratio = self._energy(subject, kept["x"]) - kept["energy"]',
        "running::test_log_z_is_that_of_the_last_model",
    ),
    Mutant(
        "running: chains move before they are weighed",
        "running/log_z.py",
        '        return found if _finite(found) else {**kept, "lost": torch.ones_like(kept["lost"])}',
        '        found["energy"] = kept["energy"]\n'
        '        return found if _finite(found) else {**kept, "lost": torch.ones_like(kept["lost"])}',
        "running::test_log_z_is_that_of_the_last_model",
    ),
    Mutant(
        "running: the mean weight of chains that are drawn again is forgotten",
        "running/log_z.py",
        "log_z + log_mean_exp(log_w)\n            log_w = torch",
        "log_z\n            log_w = torch",
        "running::test_log_z_is_that_of_the_last_model",
    ),
    Mutant(
        "running: chains drawn again have ancestors of their own",
        "running/log_z.py",
        "x, ancestor, log_z = x[chosen], ancestor[chosen], ",
        "x, ancestor, log_z = x[chosen], ancestor, ",
        "running::test_its_error_is_what_it_says",
    ),
    Mutant(
        "running: as many of each chain",
        "running/log_z.py",
        "torch.searchsorted(log_w.softmax(0).cumsum(0), at)",
        "torch.searchsorted((0 * log_w).softmax(0).cumsum(0), at)",
        "running::test_resampled_chains_are_as_many_as_their_weights_say",
    ),
    Mutant(
        "running: only what is inherited is an error",
        "running/log_z.py",
        'torch.maximum(inherited, kept["variance"]).sqrt()',
        "(0.1 * inherited).sqrt()",
        "running::test_chains_of_one_ancestor_count_as_one",
    ),
    Mutant(
        "running: looks are evenly spaced",
        "running/log_z.py",
        "-(-total * k**2 // count**2)",
        "-(-total * k // count)",
        "running::test_looks_are_close_at_first_and_the_last_is_the_last_step",
    ),
    Mutant(
        "running: the beginning costs nothing",
        "running/log_z.py",
        "int((worth - self.chains * self.temperatures) / (",
        "int(worth / (",
        "running::test_a_share_of_the_work_of_training_is_spent",
    ),
    Mutant(
        "running: what is lost is found again",
        "running/log_z.py",
        "        if self.is_lost(kept):\n            return kept\n",
        "",
        "running::test_where_an_energy_is_not_finite_nothing_is_found_any_more",
    ),
    Mutant(
        "running: it is not kept",
        "training/state.py",
        '        named |= {f"{_RUNNING}{name}": value for name, value in self.running.items()}\n',
        "",
        "running::test_killed_and_resumed_it_is_the_same",
    ),
    Mutant(
        "running: a resumed run begins anew",
        "training/along.py",
        "elif not self.running.fits(state.running, subject):",
        "else:",
        "running::test_killed_and_resumed_it_is_the_same",
    ),
    Mutant(
        "running: other chains are gone on with",
        "running/log_z.py",
        "if {name: tuple(tensor.shape) for name, tensor in kept.items()} != forms or not _finite(kept):",
        "if not kept:",
        "running::test_a_resumed_run_may_begin_with_it_and_end_it",
    ),
    Mutant(
        "running: it looks after the evaluation",
        "training/loop.py",
        "    follows = recorder.along.due(step, evaluates=evaluates)",
        "    follows = recorder.along.due(step, evaluates=False)",
        "running::test_what_is_found_is_logged",
    ),
    Mutant(
        "running: what does not fit is left out in silence",
        "commands/session.py",
        "    if looks or not running.required:",
        "    if True:",
        "running::test_what_cannot_be_followed_is_refused",
    ),
    Mutant(
        "running: short runs are followed",
        "running/log_z.py",
        "least = 1 if self.required else _LEAST",
        "least = 1",
        "running::test_a_share_of_the_work_of_training_is_spent",
    ),
]
