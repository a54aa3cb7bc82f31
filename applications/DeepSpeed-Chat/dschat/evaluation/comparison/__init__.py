"""Two files of responses beside each other: rewards, ROUGE, the largest differences."""
