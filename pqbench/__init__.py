"""pqbench: compression methods for diffusion models, measured side by side under one protocol."""

__version__ = "0.1.0"
