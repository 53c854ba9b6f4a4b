"""The sanity ladder: what must hold of every quantizer before its numbers mean anything, one rung after the other."""

from pqbench.ladder.climbing import climb
from pqbench.ladder.rungs import Rung

__all__ = ["Rung", "climb"]
