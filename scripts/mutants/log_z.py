"""Mutants of ebm_cli/log_z/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "path: ratio of the hidden part inverted",
        "log_z/paths.py",
        "softplus(to * logits).sum(1) - softplus(origin * logits).sum(1)",
        "softplus(origin * logits).sum(1) - softplus(to * logits).sum(1)",
        "ais::test_bipartite_path_is_the_sum_over_hidden_units",
    ),
    Mutant(
        "path: moves at the model instead of at beta",
        "log_z/paths.py",
        "h = rng.bernoulli(beta * state.hidden_logits,",
        "h = rng.bernoulli(state.hidden_logits,",
        "ais::test_ais_from_counters_has_mean_z_too",
    ),
    Mutant(
        "path: couplings of the model at every beta",
        "model/boltzmann.py",
        "BoltzmannSites(beta * self.coupling(), (1",
        "BoltzmannSites(self.coupling(), (1",
        "ais::test_conditionals_of_a_tempered_model_are_its_energy_differences",
    ),
    Mutant(
        "path: one counter for both layers",
        "log_z/paths.py",
        'self.model.draw_visible(logits, key.fold("visible"))',
        'self.model.draw_visible(logits, key.fold("hidden"))',
        "ais::test_ais_weights_have_mean_z[4-bipartite-rbm-binary]",
    ),
    Mutant(
        "path: the way back is the way forth",
        "log_z/paths.py",
        "return self._step(self.backward, state, beta, key)",
        "return self._step(self.forward, state, beta, key)",
        "ais::test_raise_weights_have_the_annealed_probability_as_mean",
    ),
    Mutant(
        "path: hidden units of the base forgotten",
        "log_z/paths.py",
        "self.log_z_base = base.log_z().item() + self.log_z_hidden",
        "self.log_z_base = base.log_z().item()",
        "ais::test_bipartite_path_is_the_sum_over_hidden_units",
    ),
    Mutant(
        "path: a machine moves at the model instead of at beta",
        "log_z/paths.py",
        "self.model.annealed(self.base, beta)",
        "self.model.annealed(self.base, 1.0)",
        "continuous_models::test_annealing_finds_log_z",
    ),
    Mutant(
        "exact: hidden bias left out of the sum over visible units",
        "model/base.py",
        "return h @ self.hidden_logits(nothing).squeeze(0) + self",
        "return self",
        "exact::test_log_z_is_the_sum_over_all_states",
    ),
    Mutant(
        "exact: the last chunk is dropped",
        "log_z/enumeration.py",
        "for first in range(0, space.states, chunk))",
        "for first in range(0, max(1, space.states - chunk), chunk))",
        "exact::test_chunks_change_nothing",
    ),
    Mutant(
        "exact: hidden states of a machine equally likely",
        "log_z/enumeration.py",
        "_drawn(_of_all(hidden, model.log_marginal, model).softmax(0), n,",
        "_drawn(torch.full((hidden.states,), 1 / hidden.states), n,",
        "exact::test_samples_follow_the_model",
    ),
    Mutant(
        "exact: the terms of a lattice are called sites",
        "log_z/enumeration.py",
        "if width is not None and 2 * width < sites:",
        "if False:",
        "ising::test_a_wide_lattice_is_refused",
    ),
    Mutant(
        "exact: documents of the shortest length alone",
        "log_z/enumeration.py",
        "return log_z_of_lengths(model, lengths)[which]",
        "return log_z_of_lengths(model, lengths)[which * 0]",
        "replicated_softmax::test_gradient_of_the_likelihood_is_the_derived_one_with_the_length",
    ),
    Mutant(
        "exact: chunks by the summed side alone",
        "log_z/enumeration.py",
        "_CHUNK_ELEMENTS // width)",
        "_CHUNK_ELEMENTS // math.prod(space.shape))",
        "exact::test_enumeration_takes_no_more_at_once_than_fits_on_either_side",
    ),
    Mutant(
        "perplexity: weight of the next length",
        "log_z/length_annealing.py",
        "log_w = log_w + (length - below) * state.s",
        "log_w = log_w + (length - below) * path.move(state, length, key.fold(t)).s",
        "perplexity::test_weights_of_one_run_have_the_ratio_of_partition_functions_as_mean_at_every_length",
    ),
    Mutant(
        "perplexity: a sweep back in the order forth",
        "log_z/length_annealing.py",
        "reversed(block) if backwards else block",
        "block",
        "perplexity::test_a_sweep_follows_its_transition_matrix",
    ),
    Mutant(
        "perplexity: hidden biases without the length",
        "log_z/length_annealing.py",
        "gain = length * (self.model.c[j] * (1 - 2 * h[j]) + (other / total).log())",
        "gain = self.model.c[j] * (1 - 2 * h[j]) + length * (other / total).log()",
        "perplexity::test_a_sweep_follows_its_transition_matrix",
    ),
    Mutant(
        "perplexity: words' weights kept from before the sweep",
        "log_z/length_annealing.py",
        "weight[rows] *= self.factors[j][on[rows].long()]",
        "pass",
        "perplexity::test_a_sweep_follows_its_transition_matrix",
    ),
    Mutant(
        "perplexity: reverse chains weighted before they move",
        "log_z/length_annealing.py",
        (
            "            state = path.move(state, steps[t], key.fold(t), backwards=True)\n"
            "            log_w[:count] -= (steps[t] - steps[t - 1]) * state.s\n"
        ),
        (
            "            log_w[:count] -= (steps[t] - steps[t - 1]) * state.s\n"
            "            state = path.move(state, steps[t], key.fold(t), backwards=True)\n"
        ),
        "perplexity::test_reverse_chains_have_the_annealed_probability_of_the_document_as_mean",
    ),
    Mutant(
        "perplexity: documents join at the top",
        "log_z/length_annealing.py",
        "count = int((length >= steps[t]).sum())",
        "count = len(length)",
        "perplexity::test_reverse_chains_have_the_annealed_probability_of_the_document_as_mean",
    ),
    Mutant(
        "transfer: rows never close",
        "log_z/transfer.py",
        "closed = len(down) == rows and rows > 2",
        "closed = False",
        "ising::test_transfer_matrices_sum_over_all_states",
    ),
    Mutant(
        "transfer: what underflows is lost",
        "log_z/transfer.py",
        "    if not lost.any():",
        "    if True:",
        "ising::test_strong_couplings_of_both_signs_do_not_underflow",
    ),
    Mutant(
        "transfer: lost entries in the wrong places",
        "log_z/transfer.py",
        "lost.nonzero().unbind(1)",
        "lost.nonzero().flip(0).unbind(1)",
        "ising::test_strong_couplings_of_both_signs_do_not_underflow",
    ),
]
