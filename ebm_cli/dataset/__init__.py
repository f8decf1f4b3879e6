"""Data in memory, with the space they live in."""
