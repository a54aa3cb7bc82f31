"""Sampling responses and scoring them: everything between a prompt and an experience."""
