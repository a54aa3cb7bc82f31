"""Who samples the responses of a generation batch."""
