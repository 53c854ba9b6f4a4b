"""torch.compile: kernels that inductor generates, with CUDA graphs and bfloat16 on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pqbench.base.devices import device_of
from pqbench.base.errors import UserError
from pqbench.contracts import Engine
from pqbench.engines.compiled import CompiledExecutable, Lowering, compile_net, missing_compiler


@dataclass(frozen=True)
class TorchCompile(Engine):
    """Compiles full-precision nets with inductor: float32 on a CPU, bfloat16 with CUDA graphs on a GPU.

    Quantized nets would be compiled simulations, so it never times them.
    """

    name: ClassVar[str] = "torch-compile"
    summary: ClassVar[str] = "torch.compile in full precision: float32 on a CPU, bfloat16 with CUDA graphs on a GPU"
    executes_quantized: ClassVar[bool] = False

    def available(self) -> str:
        """Empty, or that there is no C++ compiler."""
        return missing_compiler(self.name)

    def compile(
        self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int, condition: Sequence[Tensor] = ()
    ) -> CompiledExecutable:
        """Compile a copy of `net` on the device that holds its weights.

        Raises `UserError` when there is no C++ compiler and when torch cannot compile the net as a whole.
        """
        missing = self.available()
        if missing:
            raise UserError(missing)
        example = torch.zeros(batch, *shape), torch.zeros(batch, dtype=torch.int64), *condition
        names = {name for name, _ in net.named_modules()}
        lowering = Lowering.for_device(device_of(net).type)
        return compile_net(copy.deepcopy(net).eval(), names, lowering, threads, example)
