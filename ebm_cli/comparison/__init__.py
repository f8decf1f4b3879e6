"""Runs side by side, from their small files alone: neither torch nor hydra is needed to read what they found."""
