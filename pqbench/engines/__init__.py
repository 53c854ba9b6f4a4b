"""Engines: what executes a model for real, and the choice among them for a run.

Each engine has a module or a subpackage of its own.
"""
