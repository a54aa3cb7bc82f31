"""Which of two policies' responses is better: as a language model or a person judges."""
