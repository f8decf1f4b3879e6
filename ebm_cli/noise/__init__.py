"""What data are told from by contrastive objectives."""
