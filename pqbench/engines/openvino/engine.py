"""The engine `openvino`: compiles a denoiser for one batch size on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts import Engine, ExecutedLayer
from pqbench.engines.openvino.convert import to_openvino
from pqbench.engines.openvino.lowering import lower
from pqbench.engines.openvino.precisions import executed_layers, layer_names

if TYPE_CHECKING:
    from pqbench.engines.exporting import Exportable


@dataclass(frozen=True)
class OpenVino(Engine):
    """Executes full-precision nets in float32 and quantized ones with int8 kernels.

    Grids of fewer than 8 bits run on the same int8 kernels: the integers are those of the narrow grid, the arithmetic
    is exact, and what is saved over 8 bits is storage on disk, not time; in memory each integer takes a byte. On a CPU
    whose int8 kernels saturate, layers that could do so run in float32 (see `pqbench.engines.openvino.exact`).
    """

    name: ClassVar[str] = "openvino"
    summary: ClassVar[str] = "OpenVINO on a CPU: float32 for full precision, int8 kernels for quantized models"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    executes_quantized: ClassVar[bool] = True
    floats: ClassVar[str] = "f32"
    """The type of floating-point arithmetic, said outright: OpenVINO would choose bfloat16 where the CPU has it."""

    def available(self) -> str:
        """Empty, or how to install OpenVINO."""
        if importlib.util.find_spec("openvino") is None:
            return f"The engine {self.name} needs the package openvino: pip install openvino."
        return ""

    def kernels(self) -> dict[str, str]:
        """Whether int8 products are exact on this CPU, or which kinds saturate and so run in float32."""
        if self.available():
            return {}
        from pqbench.engines.openvino.exact import saturating_kinds

        kinds = sorted(saturating_kinds())
        return {"int8": f"saturates ({', '.join(kinds)}): wide products in float32" if kinds else "exact"}

    def export(self, model: Exportable, folder: Path) -> None:
        """Write a folder that needs openvino, numpy and pillow alone (see `pqbench.engines.exporting`)."""
        from pqbench.engines.openvino.export import write_folder

        write_folder(model, folder, self.floats)

    def open_exported(self, folder: Path, threads: int) -> Callable[..., Tensor]:
        """The denoiser of such a folder, compiled from its files with the settings of its example."""
        from pqbench.engines.openvino.export import open_folder

        return open_folder(folder, self.floats, threads)

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

        from pqbench.engines.openvino.exact import protect

        model = protect(to_openvino(lower(net), shape, batch, condition))
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": self.floats,
            # Else linear layers with integer weights alone would get 8-bit inputs, which the model does not ask for.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        try:
            executable = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"OpenVINO has no kernel on this CPU for a part of this net ({reason}): time it with another engine."
            ) from error
        return OpenVinoExecutable(executable, layer_names(net))


@dataclass(frozen=True)
class OpenVinoBf16(OpenVino):
    """The same with bfloat16 wherever there are no integers: the strongest full-precision line on CPUs that have it."""

    name: ClassVar[str] = "openvino-bf16"
    summary: ClassVar[str] = "OpenVINO on a CPU with bfloat16: bfloat16 instead of float32, int8 kernels as before"
    floats: ClassVar[str] = "bf16"

    def available(self) -> str:
        """Empty, how to install OpenVINO, or that the CPU has no bfloat16."""
        missing = super().available()
        if missing:
            return missing
        import openvino

        if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return ""
        return "The engine openvino-bf16 needs a CPU with bfloat16 arithmetic: leave it out of --engines here."


class OpenVinoExecutable:
    """A compiled denoiser; its inputs have the shapes for which it was compiled."""

    def __init__(self, compiled: Any, names: tuple[str, ...]) -> None:
        self._compiled = compiled
        self._names = names
        self._request = compiled.create_infer_request()

    def __call__(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """One step: x_t (batch, *shape) float32, t (batch,) int64 -> prediction, a tensor of its own."""
        inputs = [tensor.detach().contiguous().numpy() for tensor in (x_t, t, *condition)]
        outputs = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        # The output's memory belongs to the request and is overwritten by its next call.
        return torch.from_numpy(outputs[0].copy())

    def layers(self) -> tuple[ExecutedLayer, ...]:
        """Convolutions and matrix products by the type of their inputs; "f32" fell back to float.

        Attention that was fused into one kernel counts as one, by the type of its first input: the kernels of today
        read bytes only where the operands' grids are symmetric.
        """
        return executed_layers(self._compiled, self._names)
