"""scoring.images."""
