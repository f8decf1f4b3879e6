"""What lies in a run directory, and the only code that reads and writes it."""
