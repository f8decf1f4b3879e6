"""What `ebm watch` shows of runs, also of those that another process trains."""
