"""Eager torch: the line that everyone has, and a simulation of anything quantized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pqbench.base.devices import device_of
from pqbench.contracts import Engine, ExecutedLayer
from pqbench.quantization.net.layers import QUANTIZABLE, QuantizedLayer

_SHORT_NAMES = {
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.float32: "f32",
    torch.float64: "f64",
    torch.int8: "i8",
    torch.uint8: "u8",
}


def short_name(dtype: torch.dtype) -> str:
    """A type as engines call it: `f32`, `i8`."""
    return _SHORT_NAMES.get(dtype, str(dtype).removeprefix("torch."))


@dataclass(frozen=True)
class TorchEager(Engine):
    """Runs the net as it is, on the device that holds its weights. Quantized layers are simulated in floating point."""

    name: ClassVar[str] = "torch"
    summary: ClassVar[str] = "eager torch in full precision; simulates quantized models, so it never times them"
    executes_quantized: ClassVar[bool] = False

    def available(self) -> str:
        """Always empty: pqbench itself needs torch."""
        return ""

    def compile(
        self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int, condition: Sequence[Tensor] = ()
    ) -> EagerExecutable:
        """Nothing is compiled; shape, batch and condition are those of the caller's inputs."""
        return EagerExecutable(net.eval(), threads)


class EagerExecutable:
    """A denoiser that is called in inference mode with a fixed number of threads."""

    def __init__(self, net: nn.Module, threads: int) -> None:
        self._net = net
        self._threads = threads
        self._device = device_of(net)

    def __call__(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """One step. The prediction is brought back to the inputs' device, so a GPU has finished when this returns."""
        with torch.inference_mode(), threads_set_to(self._threads):
            prediction: Tensor = self._net(*(each.to(self._device) for each in (x_t, t, *condition)))
            return prediction.to(x_t.device)

    def layers(self) -> tuple[ExecutedLayer, ...]:
        """Convolutions and linear layers by the type of their arithmetic, which simulation leaves at float."""
        return tuple(
            ExecutedLayer((name,), type(module).__name__, *[short_name(module.weight.dtype)] * 2)
            for name, module in self._net.named_modules()
            if isinstance(module, (*QUANTIZABLE, QuantizedLayer))
        )


@contextmanager
def threads_set_to(count: int) -> Iterator[None]:
    """The number of threads is global to the process: it is put back after each step."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)
