"""Engines: what executes a model for real."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from pqbench.contracts.component import Component, Kind


@dataclass(frozen=True)
class ExecutedLayer:
    """One compute-heavy operation that ran (a convolution, a matrix product, an attention), as the engine tells it.

    layers      the modules of the net that it computes, by their names in `named_modules`; several where the engine
                made one product of them, none where its own names do not lead back to a module
    operation   the engine's name for it
    precision   type of its input, which is that of its arithmetic: "u8", "f32"
    weights     type in which the engine holds its weights; empty for a product of activations, or where it cannot tell
    """

    layers: tuple[str, ...]
    operation: str
    precision: str
    weights: str = ""


class Executable(Protocol):
    """A denoiser compiled by an engine, for one batch size."""

    def __call__(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """One denoising step's prediction: x_t (N, C, H, W) float32, t (N,) int64 -> (N, C, H, W) float32.

        `condition` has the shapes and types of what the net was compiled for.
        """
        ...

    def layers(self) -> Sequence[ExecutedLayer]:
        """Every compute-heavy operation with the precision at which it ran, read back from the engine, not assumed."""
        ...


class Engine(Component):
    """Compiles a denoiser (full precision or quantized) into something that is executed and timed."""

    kind: ClassVar[Kind] = "engine"
    executes_quantized: ClassVar[bool]
    """False for an engine that only simulates quantization: it never yields a latency for a quantized model."""

    @abstractmethod
    def available(self) -> str:
        """Empty when it can run here, else one sentence that says what is missing and how to get it."""

    def kernels(self) -> Mapping[str, str]:
        """What this engine's kernels do on this machine that decides numbers or speed, as facts for protocols.

        OpenVINO says whether int8 products are exact: `{"int8": "exact"}`. Nothing by default.
        """
        return {}

    @abstractmethod
    def compile(
        self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int, condition: Sequence[Tensor] = ()
    ) -> Executable:
        """Compile `net` for inputs (batch, *shape) and conditions like these, each (batch, ...).

        Only for a conditional workload is `condition` handed over, so that an engine may do without it.
        """
