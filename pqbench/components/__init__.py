"""Plugins: hook specifications, the loader and the typed registry. Nothing here imports torch at module level."""

from pqbench.components.hookspecs import hookimpl
from pqbench.components.provenance import Provenance
from pqbench.components.registered import Failure, Registered
from pqbench.components.registry import Registry
from pqbench.components.sources import blocked_names

__all__ = ["Failure", "Provenance", "Registered", "Registry", "blocked_names", "hookimpl"]
