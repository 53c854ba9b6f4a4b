"""The engine `torch-int8`: integer matrix products of torch, everything around them compiled by inductor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from pqbench.base.devices import device_of
from pqbench.base.errors import UserError
from pqbench.contracts import Engine
from pqbench.engines.compiled import CompiledExecutable, Lowering, compile_net, missing_compiler
from pqbench.engines.torch_int8.lowering import KEPT, lower
from pqbench.engines.torch_int8.product import Shapes, products_saturate

_DIVISION = {"eager_numerics.division_rounding": True}
"""Inductor's option for divisions in triton that are rounded as torch rounds them: codes are rounded quotients."""
_LEAST_CAPABILITY = (7, 5)
"""Of NVIDIA GPUs whose tensor cores multiply integers (Turing)."""


@dataclass(frozen=True)
class TorchInt8(Engine):
    """Executes quantized nets in int8 with int32 sums, on a CPU and on a GPU, and full-precision ones as torch-compile.

    Grids of fewer than 8 bits run on the same kernels: their integers take a byte each.
    """

    name: ClassVar[str] = "torch-int8"
    summary: ClassVar[str] = "torch's int8 matrix products under torch.compile, on a CPU or a GPU"
    executes_quantized: ClassVar[bool] = True

    def available(self) -> str:
        """Empty, or that there is no C++ compiler."""
        return missing_compiler(self.name)

    def kernels(self) -> dict[str, str]:
        """Whether torch's int8 products are exact on this CPU."""
        return {"int8": "saturates: products in float32" if products_saturate() else "exact"}

    def compile(
        self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int, condition: Sequence[Tensor] = ()
    ) -> CompiledExecutable:
        """Compile a copy of `net` on the device that holds its weights.

        Raises `UserError` when there is no C++ compiler, for a GPU without integer products, and when torch cannot
        compile the net as a whole.
        """
        missing = self.available()
        if missing:
            raise UserError(missing)
        device = device_of(net)
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
            raise UserError(
                f"The engine torch-int8 needs a GPU that multiplies integers, from compute capability 7.5 on, and "
                f"{torch.cuda.get_device_name(device)} does not: time this net on another engine."
            )
        example = torch.zeros(batch, *shape), torch.zeros(batch, dtype=torch.int64), *condition
        names = {name for name, _ in net.named_modules()}
        lowering = Lowering.for_device(device.type, KEPT)
        lowering = replace(lowering, options={**lowering.options, **_DIVISION})
        return compile_net(lower(net, Shapes.for_device(device.type)), names, lowering, threads, example)
