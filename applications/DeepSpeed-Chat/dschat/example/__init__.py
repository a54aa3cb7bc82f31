"""An example that needs no download: posts to summarise, preferences, a small model to train."""
