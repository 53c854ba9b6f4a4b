"""The version of pqbench."""

__version__ = "0.1.0"
