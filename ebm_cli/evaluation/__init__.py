"""What is measured on a trained or training model."""
