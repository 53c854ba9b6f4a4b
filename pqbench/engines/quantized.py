"""Whether a net is quantized, as engines see it."""

from __future__ import annotations

from torch import nn

from pqbench.contracts.precision import Precision
from pqbench.quantization.net.layers import activation_quantizers, quantized_layers


def is_quantized(net: nn.Module) -> bool:
    """True when any layer stores integers or anything quantizes its input; layers at w32a32 do neither."""
    return any(Precision(w=layer.w_bits).quantizes for _, layer in quantized_layers(net)) or any(
        quantizer.grid is not None for _, quantizer in activation_quantizers(net)
    )
