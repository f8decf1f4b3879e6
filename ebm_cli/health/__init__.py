"""Whether training goes well, judged while it trains from what its steps report, its chains and its energies."""
