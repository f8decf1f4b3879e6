"""The commands for callers in Python: a trained run as an object, training and evaluating by a call."""
