"""Whether a net is quantized, as engines see it."""

from __future__ import annotations

from torch import nn

from pqbench.methods.precision import Precision
from pqbench.quantization.layers import quantized_layers


def is_quantized(net: nn.Module) -> bool:
    """True when any layer stores integers or quantizes its input; layers at w32a32 do neither."""
    return any(Precision(layer.w_bits, layer.activation.bits).quantizes for _, layer in quantized_layers(net))
