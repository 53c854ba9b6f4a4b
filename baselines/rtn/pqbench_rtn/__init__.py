"""Round to nearest: the plainest quantization, and the floor under every other method."""

from __future__ import annotations

from pqbench import hookimpl
from pqbench.contracts import Method, Quantizer
from pqbench_rtn.method import RoundToNearest
from pqbench_rtn.quantizer import MinMaxQuantizer


@hookimpl
def pqbench_quantizers() -> list[type[Quantizer]]:
    """Register the quantizer."""
    return [MinMaxQuantizer]


@hookimpl
def pqbench_methods() -> list[type[Method]]:
    """Register the method."""
    return [RoundToNearest]
