"""Calibration samplers and the calibration sets they make."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pqbench.contracts.component import Component, Kind
from pqbench.contracts.context import Context
from pqbench.errors import UserError

if TYPE_CHECKING:
    from pqbench.contracts.workload import Workload

_HEADER = "pqbench_calibration"
"""The file's only entry of metadata, one JSON text: safetensors would write several in an order that varies."""


@dataclass(frozen=True)
class CalibrationSet:
    """(x_t, t) tuples on which a quantizer or a distiller works.

    x_t          (N, C, H, W) float32, noisy inputs of the denoiser
    t            (N,) int64, training time steps, 0 <= t < T
    workload     fingerprint of the workload whose FP denoiser made x_t
    facts        what made it, for the record (sampler, preset, ...)
    prediction   what that denoiser predicts: `Workload.prediction`

    Raises `UserError` for a set that is empty, whose lengths differ, or whose values are NaN or infinite.
    """

    x_t: Tensor
    t: Tensor
    workload: str
    facts: dict[str, str] = field(default_factory=dict)
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        if len(self.x_t) == 0 or len(self.x_t) != len(self.t):
            raise UserError(
                f"A calibration set needs as many time steps as inputs and at least one; it has "
                f"{len(self.x_t)} inputs and {len(self.t)} time steps."
            )
        if not torch.isfinite(self.x_t).all():
            raise UserError("The calibration set holds NaN or infinite values: make it again.")

    def require_fits(self, workload: Workload) -> None:
        """Raise `UserError` unless the set was drawn from this workload's model.

        Looks at the fingerprint, what the model predicts, the resolution, and the type and range of the time steps.
        """
        steps = workload.schedule().train_steps
        if self.workload != workload.fingerprint():
            found, wanted = "drawn from another model", "this one"
        elif self.prediction != workload.prediction:
            found, wanted = f"drawn from a model that predicts {self.prediction}", workload.prediction
        elif tuple(self.x_t.shape[1:]) != workload.shape:
            found, wanted = f"of shape {tuple(self.x_t.shape[1:])}", f"{workload.shape}"
        elif self.t.dtype != torch.int64 or not 0 <= int(self.t.min()) <= int(self.t.max()) < steps:
            found = f"at time steps from {self.t.min().item()} to {self.t.max().item()} of type {self.t.dtype}"
            wanted = f"whole ones from 0 to {steps - 1}"
        else:
            return
        raise UserError(
            f"The calibration set is {found}; {workload.name} needs {wanted}: draw it again with this model."
        )

    def __len__(self) -> int:
        return len(self.x_t)

    @property
    def digest(self) -> str:
        """sha256 of the tensors and of the workload they belong to."""
        digest = hashlib.sha256(self.workload.encode())
        for tensor in (self.x_t, self.t):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the set to one safetensors file, equal sets as equal bytes. Raises `OSError` when the disk is full."""
        tensors = {"x_t": self.x_t.contiguous(), "t": self.t.contiguous()}
        header = {"workload": self.workload, "prediction": self.prediction, "facts": self.facts}
        save_file(tensors, path, {_HEADER: json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> CalibrationSet:
        """Read a set back. Raises `UserError` when the file is not a whole calibration set."""
        try:
            with safe_open(path, "pt") as file:
                header = (file.metadata() or {}).get(_HEADER)
                if header is None:
                    raise UserError(f"{path} is not a calibration set of pqbench: it has no header of one.")
                x_t, t = file.get_tensor("x_t"), file.get_tensor("t")
            return cls(x_t=x_t, t=t, **json.loads(header))
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a complete calibration set ({error}).") from None


class CalibrationSampler(Component):
    """Draws a calibration set from the workload's FP denoiser."""

    kind: ClassVar[Kind] = "calibration"

    @abstractmethod
    def sample(self, context: Context) -> CalibrationSet:
        """Draw the set; every random number comes from `context.generator(...)`."""
