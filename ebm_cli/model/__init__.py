"""Energies: each model owns the parameters of one p(x) = exp(-E(x)) / Z."""
