"""Examples that need no download: posts to summarise, and small problems of arithmetic."""
