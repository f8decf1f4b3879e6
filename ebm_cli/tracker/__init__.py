"""Where metrics and pictures are shown, besides the run directory."""
