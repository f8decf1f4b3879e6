"""What `ebm train`, `ebm sample` and `ebm evaluate` do once their configuration is composed."""
