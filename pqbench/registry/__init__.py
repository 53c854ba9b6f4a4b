"""Plugins: hook specifications, the loader and the typed registry. Nothing here imports torch at module level."""

from pqbench.registry.hookspecs import hookimpl
from pqbench.registry.provenance import Provenance
from pqbench.registry.registered import Failure, Registered
from pqbench.registry.registry import Registry
from pqbench.registry.sources import blocked_names

__all__ = ["Failure", "Provenance", "Registered", "Registry", "blocked_names", "hookimpl"]
