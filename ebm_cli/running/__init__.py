"""What is estimated along the way: chains beside those of training follow the model as it changes."""
