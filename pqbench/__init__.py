"""pqbench: compression methods for diffusion models, measured side by side under one protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pqbench.base.version import __version__

if TYPE_CHECKING:
    from pqbench.components.hookspecs import hookimpl

__all__ = ["__version__", "hookimpl"]


def __getattr__(name: str) -> object:
    # pluggy costs a third of the start-up of `pqbench --help`, which needs no plugin: it is imported on first use.
    if name == "hookimpl":
        from pqbench.components.hookspecs import hookimpl

        return hookimpl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
