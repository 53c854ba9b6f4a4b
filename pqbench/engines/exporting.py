"""What an engine needs to write a model into a folder that runs without pqbench."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

IMAGES = "samples.png"
"""What the example of an exported folder writes."""


@dataclass(frozen=True)
class Exportable:
    """A finished model with all that making images with it takes.

    net              the denoiser, called as `net(x_t, t, *condition)`
    decode           x_0 (N, *shape) float32 -> images (N, channels, H, W) uint8, in torch operations
    shape            of x_t without the batch
    batch            the batch size that the files are made for; None: any
    condition        rows for an example, each (M, ...), M >= 2; empty for an unconditional model
    timesteps        of the sampler, descending, (S,) int64
    alphas_cumprod   abar at them, (S,) float64
    prediction       what the net predicts, one of `pqbench.contracts.schedule.PREDICTIONS`
    """

    net: nn.Module
    decode: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int]
    batch: int | None
    condition: tuple[Tensor, ...]
    timesteps: Tensor
    alphas_cumprod: Tensor
    prediction: str


@runtime_checkable
class ExportingEngine(Protocol):
    """An engine that has a file format of its own. An engine that has none leaves these methods out."""

    def export(self, model: Exportable, folder: Path) -> None:
        """Fill an empty folder: the model's files, `sample.py`, which writes `IMAGES`, and `requirements.txt`.

        Raises `UserError` for a net that cannot be converted and when a file cannot be written.
        """
        ...

    def open_exported(self, folder: Path, threads: int) -> Callable[..., Tensor]:
        """The denoiser in such a folder, to be called as `net(x_t, t, *condition)`."""
        ...
