"""Quantized layers as integer matrix products; convolutions by their windows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.engines.torch_int8.activation import HALF, CodedActivation, Codes
from pqbench.engines.torch_int8.product import Shapes, integer_product
from pqbench.quantization.net.layers import QuantizedLayer


def runs_in_integers(layer: QuantizedLayer) -> bool:
    """Whether one integer product for each group of channels computes the layer.

    Not with floating-point weights or inputs, not with a scale for each group of inputs of a weight (it varies within a
    sum), not with one for each token where a kernel sums several, and not where a group has one channel only
    (depthwise): that is no matrix product.
    """
    if layer.grid is None or layer.activation.grid is None or layer.group_size:
        return False
    pixels = layer.weight.shape[2:].numel()
    if layer.activation.dynamic and (pixels > 1 or any(map(any, _margins(layer)))):
        return False
    return layer.convolution.get("groups", 1) == 1 or layer.weight.shape[1] > 1


class IntegerLayer(nn.Module):
    """A quantized layer whose sums are taken in integers: codes times codes, then scales, zero-points and the bias.

    Channels come last while it computes. A convolution reads its windows from the codes, with a border of the
    zero-point's, so that the border is exactly 0.
    """

    bias: Tensor | None

    def __init__(self, layer: QuantizedLayer, shapes: Shapes) -> None:
        super().__init__()
        self.activation = CodedActivation(layer.activation)
        self.windows = None if layer.operation == "Linear" else Windows.of(layer)
        groups = layer.convolution.get("groups", 1)
        # (out, in, ...) to rows (out, ... in), in the order in which a window's codes lie.
        steps = (layer.codes.int() - layer.weight_parameters()[1]).movedim(1, -1).flatten(1)
        scales = layer.weight_scale
        self.matrices = nn.ModuleList(
            IntegerMatrix(rows, scale, shapes)
            for rows, scale in zip(steps.chunk(groups), scales.chunk(groups), strict=True)
        )
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output on its quantized input, in the type of that."""
        if self.windows is None:
            y = self._multiplied([self.activation.codes(x)])
            return y.to(x.dtype)
        codes = self.activation.codes(self.windows.bordered(x))
        y = self._multiplied([self.windows.read(part) for part in _chunks(codes, len(self.matrices))])
        return y.to(x.dtype).movedim(-1, 1)

    def _multiplied(self, inputs: list[Codes]) -> Tensor:
        found = [matrix(codes) for matrix, codes in zip(self.matrices, inputs, strict=True)]
        y = found[0] if len(found) == 1 else torch.cat(found, -1)
        return y if self.bias is None else y + self.bias


class IntegerMatrix(nn.Module):
    """The weights of a linear map as int8, one scale a row.

    Weights are kept as steps from their zero-points. Where these do not fit a byte (the widest asymmetric grids), they
    are moved to the middle of their range, and a row of ones is appended: the product with it is the sum of the inputs,
    which the correction for the move takes.

    weight   int8, the rows and columns that `shapes` asks for filled up with zeros
    sums     (out,) int32 of the rows
    shift    (out,) int32 by which the steps were moved; only where they do not fit
    """

    weight: Tensor
    sums: Tensor
    scale: Tensor
    shift: Tensor | None

    def __init__(self, steps: Tensor, scale: Tensor, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes
        self.outputs, self.inputs = steps.shape
        low, high = steps.amin(1), steps.amax(1)
        byte = torch.iinfo(torch.int8)
        shift = None
        if bool(((low < byte.min) | (high > byte.max)).any()):
            shift = (low + HALF).int()
            steps = torch.cat([steps - shift[:, None], torch.ones_like(steps[:1])])
        self.register_buffer("weight", shapes.padded(steps.to(torch.int8)))
        self.register_buffer("sums", steps[: self.outputs].sum(1, dtype=torch.int32))
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, inputs: Codes) -> Tensor:
        """codes (..., in) -> (..., out) float32."""
        codes, scale, zero = inputs
        columns = self.outputs + (self.shift is not None)
        found = integer_product(codes.reshape(-1, self.inputs), self.weight, columns, self.shapes)
        found = found.reshape(*codes.shape[:-1], columns)
        total = found[..., : self.outputs]
        if zero is not None:
            total = total - zero * self.sums
        if self.shift is not None:
            sums = found[..., self.outputs :]
            total = total + self.shift * (sums if zero is None else sums - zero * self.inputs)
        return total * (scale * self.scale)


class Windows(NamedTuple):
    """Where a convolution reads, in one or two dimensions of space.

    kernel, stride, dilation   of each
    margins                    columns of zeros before and behind each
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    margins: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, layer: QuantizedLayer) -> Windows:
        """Those of a quantized convolution."""
        options = layer.convolution
        kernel = tuple(layer.weight.shape[2:])
        return cls(kernel, tuple(options["stride"]), tuple(options["dilation"]), _margins(layer))

    def bordered(self, x: Tensor) -> Tensor:
        """x (N, C, ...) -> (N, ..., C) with its border, and without the pixels that a kernel of one pixel skips."""
        x = x.movedim(1, -1)
        # The innermost dimension comes first, and channels have no border.
        x = F.pad(x, (0, 0, *(width for margin in reversed(self.margins) for width in margin)))
        if self._is_pointwise:
            x = x[(slice(None), *(slice(None, None, step) for step in self.stride))]
        return x

    def read(self, inputs: Codes) -> Codes:
        """Codes of pixels (N, ..., C) to codes of windows (N, ..., K), K = C times the pixels of the kernel."""
        if self._is_pointwise:
            return inputs
        codes = inputs.codes.contiguous()
        batch, *space, channels = codes.shape
        steps, (first, *between, _) = codes.stride(), codes.stride()
        found = [
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(space, self.kernel, self.stride, self.dilation, strict=True)
        ]
        windows = codes.as_strided(
            (batch, *found, *self.kernel, channels),
            (
                first,
                *(step * stride for step, stride in zip(between, self.stride, strict=True)),
                *(step * dilation for step, dilation in zip(between, self.dilation, strict=True)),
                steps[-1],
            ),
        )
        return inputs._replace(codes=windows.reshape(batch, *found, -1))

    @property
    def _is_pointwise(self) -> bool:
        return all(size == 1 for size in self.kernel)


def _margins(layer: QuantizedLayer) -> tuple[tuple[int, int], ...]:
    """Columns of zeros before and behind each dimension of space; none for a linear layer."""
    padding = layer.convolution.get("padding", ())
    if padding == "valid":
        return ((0, 0),) * len(layer.convolution["stride"])
    if padding == "same":
        sizes = zip(layer.weight.shape[2:], layer.convolution["dilation"], strict=True)
        # Of an odd number, the greater half lies behind, as torch has it.
        return tuple((total // 2, total - total // 2) for total in (d * (k - 1) for k, d in sizes))
    return tuple((width, width) for width in padding)


def _chunks(codes: Codes, count: int) -> list[Codes]:
    """The codes of each group of channels."""
    return [codes._replace(codes=part) for part in codes.codes.chunk(count, -1)]


class FloatLayer(nn.Module):
    """A quantized layer that no integer product computes: its input on the grid, and the product in floating point."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.operate = layer.operate
        self.activation = CodedActivation(layer.activation, layer.activation.token_axis)
        self.register_buffer("weight", layer.weight)
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output on its quantized input."""
        return self.operate(self.activation(x), self.weight, self.bias)
