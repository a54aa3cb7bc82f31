"""RLHF with exact, swappable policy regularisers."""
