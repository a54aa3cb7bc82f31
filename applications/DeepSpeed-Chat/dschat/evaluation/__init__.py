"""Measuring trained policies: rewards, divergences from the reference, text statistics."""
