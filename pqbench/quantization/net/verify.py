"""Claimed bits equal stored bits: a check of every quantized layer from its tensors."""

from __future__ import annotations

import torch
from torch import nn

from pqbench.base.errors import UserError
from pqbench.quantization.grids.groups import scale_shape
from pqbench.quantization.net.attention import SoftmaxQuantizer, quantized_operands
from pqbench.quantization.net.layers import ActivationQuantizer, QuantizedLayer, quantized_layers


def verify(net: nn.Module) -> None:
    """Raise `UserError`, with the name, unless every quantized layer and operand of `net` is what it says it is.

    Its codes are integers on its grid; the weight that its forward uses is exactly (codes - zero) * scale, so that an
    output channel (or a group of its inputs) takes no more than 2^bits values; scales are finite and above 0,
    zero-points are codes of the grid, and 0 for the output of a softmax; a table of activation parameters has one set
    for each time step of its clock.
    """
    for name, layer in quantized_layers(net):
        try:
            _verify_weight(layer)
            _verify_activation(layer.activation)
        except UserError as error:
            raise UserError(f"Layer {name} is not at w{layer.w_bits}a{layer.activation.bits}: {error}") from None
    for name, operand in quantized_operands(net):
        try:
            _verify_activation(operand)
        except UserError as error:
            raise UserError(f"Operand {name} is not at a{operand.bits}: {error}") from None


def _verify_weight(layer: QuantizedLayer) -> None:
    if not bool(torch.isfinite(layer.weight).all()):
        raise UserError("its weights are NaN or infinite.")
    grid = layer.grid
    if grid is None:
        return
    grid.require(layer.weight_scale, layer.weight_zero)
    wanted = scale_shape(layer.weight.shape, layer.group_size)
    found = tuple(layer.weight_scale.shape), tuple(layer.weight_zero.shape)
    if found != (wanted, wanted):
        raise UserError(f"its scales and zero-points have shapes {found[0]} and {found[1]}, not {wanted}.")
    codes = layer.codes
    if codes.dtype != grid.dtype or codes.shape != layer.weight.shape:
        raise UserError(f"its codes are {codes.dtype} of shape {tuple(codes.shape)}, not {grid.dtype} like its weight.")
    if codes.numel() and not grid.low <= int(codes.min()) <= int(codes.max()) <= grid.high:
        raise UserError(
            f"its codes reach from {int(codes.min())} to {int(codes.max())}, its grid from {grid.low} to {grid.high}."
        )
    if not torch.equal(layer.weight, grid.dequantize(codes, *layer.weight_parameters())):
        raise UserError("its weight is not what its codes stand for; was it frozen after the last change?")


def _verify_activation(activation: ActivationQuantizer) -> None:
    if activation.grid is None or activation.dynamic:
        return
    activation.grid.require(activation.scale, activation.zero_point)
    if isinstance(activation, SoftmaxQuantizer) and bool((activation.zero_point != 0).any()):
        raise UserError("its zero-point is not 0, as that of a softmax output is.")
    shape, clock = activation.scale.shape, activation.clock
    if activation.zero_point.shape != shape or (shape and clock is not None and shape != (len(clock),)):
        steps = f"; its clock has {len(clock)} time steps" if clock is not None else ""
        raise UserError(
            f"its input has scales of shape {tuple(shape)} and zero-points of shape "
            f"{tuple(activation.zero_point.shape)}{steps}."
        )
