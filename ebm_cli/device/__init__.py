"""Where a run computes: device, precision, memory, processes."""
