"""Which couplings a model has: all of its graph, or some that are added or dropped while it trains."""
