"""The engine `openvino`: compiles a denoiser for one batch size on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from pqbench.contracts import Engine
from pqbench.engines.openvino.convert import to_openvino
from pqbench.engines.openvino.lowering import lower
from pqbench.engines.openvino.precisions import executed_precisions
from pqbench.errors import UserError

if TYPE_CHECKING:
    from pqbench.engines.exporting import Exportable

FLOATS = "f32"
"""Said outright, because OpenVINO would choose bfloat16 by itself where the CPU has it."""


@dataclass(frozen=True)
class OpenVino(Engine):
    """Executes full-precision nets in float32 and quantized ones with int8 kernels.

    Grids of fewer than 8 bits run on the same int8 kernels: the integers are those of the narrow grid, the arithmetic
    is exact, and what is saved over 8 bits is storage, not time.
    """

    name: ClassVar[str] = "openvino"
    summary: ClassVar[str] = "OpenVINO on a CPU: float32 for full precision, int8 kernels for quantized models"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    executes_quantized: ClassVar[bool] = True

    def available(self) -> str:
        """Empty, or how to install OpenVINO."""
        if importlib.util.find_spec("openvino") is None:
            return "The engine openvino needs the package openvino: pip install openvino."
        return ""

    def export(self, model: Exportable, folder: Path) -> None:
        """Write a folder that needs openvino, numpy and pillow alone (see `pqbench.engines.exporting`)."""
        from pqbench.engines.openvino.export import write_folder

        write_folder(model, folder, FLOATS)

    def open_exported(self, folder: Path, threads: int) -> Callable[..., Tensor]:
        """The denoiser of such a folder, compiled from its files with the settings of its example."""
        from pqbench.engines.openvino.export import open_folder

        return open_folder(folder, FLOATS, threads)

    def compile(
        self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int, condition: Sequence[Tensor] = ()
    ) -> OpenVinoExecutable:
        """Compile a copy of `net` for inputs (batch, *shape) and conditions like these.

        Raises `UserError` when OpenVINO is missing or cannot convert the net.
        """
        missing = self.available()
        if missing:
            raise UserError(missing)
        import openvino

        model = to_openvino(lower(net), shape, batch, condition)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": FLOATS,
        }
        return OpenVinoExecutable(openvino.Core().compile_model(model, "CPU", settings))


class OpenVinoExecutable:
    """A compiled denoiser; its inputs have the shapes for which it was compiled."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def __call__(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """One step: x_t (batch, *shape) float32, t (batch,) int64 -> prediction, a tensor of its own."""
        inputs = [tensor.detach().contiguous().numpy() for tensor in (x_t, t, *condition)]
        outputs = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        # The output's memory belongs to the request and is overwritten by its next call.
        return torch.from_numpy(outputs[0].copy())

    def layer_precisions(self) -> Mapping[str, int]:
        """Convolutions and matrix products by the type of their inputs: {"u8": 64, "i8": 1}; "f32" fell back to float.

        Attention that was fused into one kernel counts as one, by the type of its first input: the kernels of today
        read bytes only where the operands' grids are symmetric.
        """
        return executed_precisions(self._compiled)
