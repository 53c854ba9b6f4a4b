"""Calibration samplers that come with pqbench: plugins name them, since no plugin imports another."""
