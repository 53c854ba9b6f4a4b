"""Calibration samplers and the calibration sets they make."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.component import Component, Kind
from pqbench.contracts.context import Context

if TYPE_CHECKING:
    from pqbench.contracts.workload import Workload

_HEADER = "pqbench_calibration"
"""The file's only entry of metadata, one JSON text: safetensors would write several in an order that varies."""


_ALL = slice(None)


@dataclass(frozen=True)
class CalibrationSet:
    """(x_t, t, condition) tuples on which a quantizer or a distiller works.

    x_t          (N, C, H, W) float32, noisy inputs of the denoiser
    t            (N,) int64, training time steps, 0 <= t < T
    condition    what the denoiser is called with beside them, each with a row a sample: class labels (N,) int64, text
                 embeddings (N, L, D) float32; empty for an unconditional model
    workload     fingerprint of the workload whose FP denoiser made x_t
    facts        what made it, for the record (sampler, preset, ...)
    prediction   what that denoiser predicts: `Workload.prediction`

    Raises `UserError` for a set that is empty, whose lengths differ, whose conditions have another type than int64 or
    float32, or whose values are NaN or infinite.
    """

    x_t: Tensor
    t: Tensor
    workload: str
    facts: dict[str, str] = field(default_factory=dict)
    prediction: str = "epsilon"
    condition: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if len(self.x_t) == 0 or len(self.x_t) != len(self.t):
            raise UserError(
                f"A calibration set needs as many time steps as inputs and at least one; it has "
                f"{len(self.x_t)} inputs and {len(self.t)} time steps."
            )
        for each in self.condition:
            if each.dim() == 0 or len(each) != len(self.x_t) or each.dtype not in (torch.int64, torch.float32):
                raise UserError(
                    f"A calibration set of {len(self.x_t)} samples needs conditions with as many rows, of type int64 "
                    f"or float32; it has one of shape {tuple(each.shape)} and type {_type_name(each)}."
                )
        if not all(bool(torch.isfinite(each).all()) for each in (self.x_t, *self.condition)):
            raise UserError("The calibration set holds NaN or infinite values: make it again.")

    def require_fits(self, workload: Workload) -> None:
        """Raise `UserError` unless the set was drawn from this workload's model.

        Looks at the fingerprint, what the model predicts, the resolution, the type and range of the time steps, and the
        shapes and types of the conditions.
        """
        steps = workload.schedule().train_steps
        conditions, wanted_conditions = _described(self.condition), _described(workload.condition(0, range(1)))
        if self.workload != workload.fingerprint():
            found, wanted = "drawn from another model", "this one"
        elif self.prediction != workload.prediction:
            found, wanted = f"drawn from a model that predicts {self.prediction}", workload.prediction
        elif tuple(self.x_t.shape[1:]) != workload.shape:
            found, wanted = f"of shape {tuple(self.x_t.shape[1:])}", f"{workload.shape}"
        elif self.t.dtype != torch.int64 or not 0 <= int(self.t.min()) <= int(self.t.max()) < steps:
            found = f"at time steps from {self.t.min().item()} to {self.t.max().item()} of type {self.t.dtype}"
            wanted = f"whole ones from 0 to {steps - 1}"
        elif conditions != wanted_conditions:
            found, wanted = f"one with {conditions} a sample", wanted_conditions
        else:
            return
        raise UserError(
            f"The calibration set is {found}; {workload.name} needs {wanted}: draw it again with this model."
        )

    def __len__(self) -> int:
        return len(self.x_t)

    def inputs(self, index: slice | Tensor = _ALL, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """What the denoiser is called with, `net(*inputs)`: x_t, t and the condition of the samples `index`."""
        return tuple(each[index].to(device) for each in (self.x_t, self.t, *self.condition))

    def subset(self, index: slice | Tensor) -> CalibrationSet:
        """The set of the samples `index` alone. Raises `UserError` when there are none."""
        x_t, t, *condition = self.inputs(index)
        return replace(self, x_t=x_t, t=t, condition=tuple(condition))

    @property
    def digest(self) -> str:
        """sha256 of the tensors and of the workload they belong to."""
        digest = hashlib.sha256(self.workload.encode())
        for tensor in (self.x_t, self.t):
            digest.update(_bytes(tensor))
        for tensor in self.condition:
            # Their shapes are not known from those of x_t and t. A set without conditions keeps the digest it had.
            digest.update(f"condition {_type_name(tensor)} {tuple(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the set to one safetensors file, equal sets as equal bytes. Raises `OSError` when the disk is full."""
        tensors = {"x_t": self.x_t.contiguous(), "t": self.t.contiguous()}
        tensors |= {f"condition.{place}": each.contiguous() for place, each in enumerate(self.condition)}
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
                count = sum(name.startswith("condition.") for name in file.keys())  # noqa: SIM118
                condition = tuple(file.get_tensor(f"condition.{place}") for place in range(count))
            return cls(x_t=x_t, t=t, condition=condition, **json.loads(header))
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a complete calibration set ({error}).") from None


def _described(condition: Sequence[Tensor]) -> str:
    """The conditions of one sample in words: `a condition of shape (5, 6) and type float32`."""
    parts = [f"of shape {tuple(each.shape[1:])} and type {_type_name(each)}" for each in condition]
    return f"a condition {' and one '.join(parts)}" if parts else "no condition"


def _type_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


class CalibrationSampler(Component):
    """Draws a calibration set from the workload's FP denoiser."""

    kind: ClassVar[Kind] = "calibration"

    @abstractmethod
    def sample(self, context: Context) -> CalibrationSet:
        """Draw the set; every random number comes from `context.generator(...)`."""
