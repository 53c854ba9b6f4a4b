"""Grids and what chooses a point of them: groups, tokens, time steps; packing of codes."""
