"""Markov kernels that leave p(x) = exp(-E(x)) / Z invariant."""
