"""A workload: what is compressed and judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from pqbench.contracts.component import Component, Kind
from pqbench.contracts.schedule import NoiseSchedule, trailing_timesteps


@dataclass(frozen=True)
class Reference:
    """Statistics of the real images under the workload's extractor.

    mean, covariance   (D,), (D, D) float64 over all `n` images
    features           (M, D) float32, a fixed subset for kernel distances; (0, D) where only statistics are known
    sha256             of the file they came from
    spatial            mean (2023,) and covariance (2023, 2023), float64, of the "spatial" output, where it is known
    """

    mean: Tensor
    covariance: Tensor
    features: Tensor
    n: int
    sha256: str
    spatial: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class AcceptanceWindow:
    """Where the FP model's distance must land, two-sided, for one sample count and step count."""

    n: int
    steps: int
    low: float
    high: float


@dataclass(frozen=True)
class Extractor:
    """What turns images into features.

    net         (N, C, H, W) uint8 -> (N, D) float32, or a mapping from the names in `outputs` to (N, ...) float32
    name        what the distance is called after: "FD (name)"
    sha256      of its weights' file
    outputs     what one pass gives, of: "features" (N, D), "spatial" (N, 2023) for sFID, "logits" (N, K) for IS
    pixels      how images come to the net's input, as the protocol states it
    channels    that images must have; None: any
    distance    what the Frechet distance is called: "FID" for the Inception of Heusel et al. (2017) alone, else "FD";
                empty: the workload's word
    """

    net: nn.Module
    name: str
    sha256: str
    outputs: tuple[str, ...] = ("features",)
    pixels: str = "uint8 as the workload decodes them, not resized"
    channels: int | None = None
    distance: str = ""


class Workload(Component):
    """A full-precision denoiser with its schedule, sampler, extractor and reference.

    The denoiser is called as `net(x_t, t, *condition)`: x_t (N, *shape) float32, t (N,) int64, and what `condition`
    gives, nothing for an unconditional model; it returns the prediction, (N, *shape). Its class, constructor arguments
    and weights are the workload's business.
    """

    kind: ClassVar[Kind] = "workload"
    steps: ClassVar[int]
    """Sampling steps of the full-precision model."""
    shape: ClassVar[tuple[int, int, int]]
    """Shape of x_t without the batch."""
    prediction: ClassVar[str] = "epsilon"
    """What the denoiser predicts: one of `pqbench.contracts.schedule.PREDICTIONS`."""
    distance: ClassVar[str] = "FD"
    """What the Frechet distance is called; "FID" is reserved for the Inception of Heusel et al. (2017)."""

    @abstractmethod
    def architecture(self) -> nn.Module:
        """A denoiser with unspecified weights, in evaluation mode: what a packed checkpoint is loaded into."""

    @abstractmethod
    def denoiser(self) -> nn.Module:
        """A fresh copy of the full-precision denoiser, in evaluation mode."""

    @abstractmethod
    def schedule(self) -> NoiseSchedule:
        """The noise schedule that the denoiser was trained on."""

    @abstractmethod
    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 (N, *shape) to images (N, channels, H, W) uint8."""

    @abstractmethod
    def extractor(self) -> Extractor:
        """What turns images into the features that distances are taken on."""

    @abstractmethod
    def reference(self) -> Reference:
        """Statistics of the real images under `extractor`."""

    def reference_under(self, extractor: Extractor) -> Reference | None:
        """Statistics of the real images under any extractor; None where the workload has none for it."""
        return self.reference() if extractor.sha256 == self.extractor().sha256 else None

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 over everything that decides the model's outputs: weights, schedule, sampler, conditions."""

    def condition(self, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[Tensor, ...]:
        """What image i is made of beside its noise: tensors on the CPU with a row for each of `indices`.

        Class labels (N,) int64, text embeddings (N, L, D) float32; their number, types and shapes without N are always
        the same. A row depends on (purpose, seed, i) alone, as the image's noise does (see `image_generator`). Calls
        with one index must be cheap. Empty, the default, for an unconditional model.

        purpose   "image" for the evaluation; calibration and diagnosis have their own, so that a workload can keep the
                  prompts on which it is judged from those on which methods are calibrated
        """
        return ()

    def prompts(self, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[str, ...]:
        """The text that each of `indices` is made from, as a user would write it: what `clip_score` judges images by.

        One prompt for each index, the one whose embedding `condition` gives for the same (seed, i, purpose); "" where
        an image is made without one. Like conditions, a prompt depends on these three alone. Empty, the default, for
        a model that takes no text.
        """
        return ()

    def timesteps(self, steps: int) -> Tensor:
        """The time steps of a DDIM run in `steps` steps, descending, (steps,) int64."""
        return trailing_timesteps(self.schedule().train_steps, steps)

    def acceptance(self) -> tuple[AcceptanceWindow, ...]:
        """The windows in which the FP model's distance must land; none where none was established."""
        return ()

    def card(self) -> Mapping[str, object]:
        """Facts for the manifest: data, recipe, hashes."""
        return {}
