"""What the rollouts of a training step are sampled by, and what corrects them."""
