"""Pictures of training runs: their metrics over steps, and reward against drift."""
