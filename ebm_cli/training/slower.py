"""A run that goes on more slowly than it was configured."""

from dataclasses import replace

from ebm_cli.training.state import Parts

_LOWER, _LONGER = 0.2, 2  # factors on the rate and on the transitions of a step, each time


def slower(parts: Parts, attempts: int) -> Parts:
    """The parts of a run that went back so often: the rate is a fifth for each time, and chains move twice as far."""
    if not attempts:
        return parts
    of, lower, longer = parts.components, _LOWER**attempts, _LONGER**attempts
    rates = replace(of.optimizer, lr=of.optimizer.lr * lower, final_lr=of.optimizer.final_lr * lower)
    final = None if of.chains.final_steps is None else of.chains.final_steps * longer
    chains = replace(of.chains, steps=of.chains.steps * longer, final_steps=final)
    return replace(parts, components=replace(of, optimizer=rates, chains=chains))
