"""Noise schedules, time steps, sampling with one seed an image, and trajectories."""
