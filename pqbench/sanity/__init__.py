"""The sanity ladder: what must hold of every quantizer before its numbers mean anything, one rung after the other."""

from pqbench.sanity.climbing import climb
from pqbench.sanity.rungs import Rung

__all__ = ["Rung", "climb"]
