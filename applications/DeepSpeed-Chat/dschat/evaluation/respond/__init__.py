"""Responses of trained policies to held-out prompts, and their rewards."""
