"""What the bit audit finds. It is kept in records, so nothing here needs torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Audit(BaseModel):
    """What is really quantized, counted from the tensors.

    average bits are weighted by the number of weights, and by multiply-accumulates of one forward for activations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    average_weight_bits: float
    average_activation_bits: float
    full_precision_layers: tuple[str, ...]
    """Layers with weights that stayed in floating point."""
    wider_layers: dict[str, str]
    """Quantized layers and attention operands that are not at the stated precision: {"conv_in": "w8a8", ...: "a8"}."""
    activation_parameter_sets: int
    """How many scales a layer's input has: 1 for a static one, S for a table over S time steps, 0 without any stored
    (full precision, or dynamic ranges: those are listed below as `dynamic range`)."""
    full_precision_operations: tuple[str, ...] = ()
    """Operations without weights that stay in floating point: normalisation, attention products, ..."""
