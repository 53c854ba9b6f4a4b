"""Producing stages: worker functions, failures, progress, peak memory."""
