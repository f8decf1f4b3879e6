"""When training ends before its last step: once a target is met."""
