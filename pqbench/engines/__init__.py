"""Engines: what executes a model for real. Nothing heavy is imported before an engine is asked for."""
