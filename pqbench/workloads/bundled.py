"""What the workloads whose files ship with pqbench have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pqbench.contracts.schedule import NoiseSchedule, trailing_timesteps
from pqbench.contracts.workload import AcceptanceWindow, Extractor, Reference, Workload
from pqbench.workloads.assets import Assets
from pqbench.workloads.diffusers_net import DiffusersDenoiser
from pqbench.workloads.fingerprint import model_fingerprint

DENOISER = "denoiser.safetensors"
EXTRACTOR = "extractor.safetensors"
REFERENCE = "reference.safetensors"
FIRST_STEP = 800
SAMPLER = f"ddim eta=0, evenly spaced time steps below {FIRST_STEP}, epsilon prediction, x_0 not clipped"
ASSETS = Path(__file__).parent / "assets"


class BundledWorkload(Workload):
    """A diffusers U-Net that predicts epsilon, a classifier's features, and their statistics, all from one folder.

    `python -m pqbench.workloads.training.bundle NAME` makes the files; MODEL_CARD.md beside them says how.
    """

    libraries: ClassVar[tuple[str, ...]] = ("diffusers",)
    steps: ClassVar[int] = 20
    folder: ClassVar[Path]
    """Where the files are."""
    classifier: ClassVar[type[nn.Module]]
    """The extractor's class: images (N, C, H, W) uint8 -> features (N, D) float32."""

    def __init__(self) -> None:
        self._assets = Assets(self.folder)

    def architecture(self) -> nn.Module:
        """The U-Net of the card, with freshly initialised weights; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            return DiffusersDenoiser.from_config(self._assets.card["architecture"])

    def denoiser(self) -> nn.Module:
        """The trained U-Net, float32. Raises `UserError` when its file is not the one that the card names."""
        weights = self._assets.tensors(DENOISER)
        denoiser = self.architecture()
        denoiser.get_submodule("net").load_state_dict(weights)
        return denoiser

    def schedule(self) -> NoiseSchedule:
        """Linear betas, as in the recipe of the training."""
        return linear_schedule(self._assets.card["recipe"])

    def timesteps(self, steps: int) -> Tensor:
        """Evenly spaced below t = 800, where the sampler starts, descending, (steps,) int64.

        The field's CIFAR-10 protocol starts there too (Q-Diffusion's scripts). From t = 999, where the signal is 0.006,
        an error of epsilon-prediction is amplified 160-fold on its way to x_0 and saturates whole images.
        """
        return trailing_timesteps(FIRST_STEP, steps)

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 (N, C, H, W) to images (N, C, H, W) uint8: clamped to [-1, 1], rounded."""
        return ((x_0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    def extractor(self) -> Extractor:
        """The classifier whose features carry the distances, in evaluation mode."""
        with torch.device("meta"):  # initial weights would be thrown away, and would draw random numbers
            net = self.classifier()
        net.load_state_dict(self._assets.tensors(EXTRACTOR), assign=True)
        return Extractor(net.eval().requires_grad_(False), self.name, self._assets.sha256(EXTRACTOR))

    def reference(self) -> Reference:
        """Statistics of all training images; a subset's features are stored in half precision."""
        tensors = self._assets.tensors(REFERENCE)
        return Reference(
            mean=tensors["mean"],
            covariance=tensors["covariance"],
            features=tensors["features"].float(),
            n=int(tensors["n"]),
            sha256=self._assets.sha256(REFERENCE),
        )

    def fingerprint(self) -> str:
        """Hash of the weights' file, the schedule and the sampler."""
        return model_fingerprint(self._assets.sha256(DENOISER), self.schedule(), SAMPLER)

    def acceptance(self) -> tuple[AcceptanceWindow, ...]:
        """The windows that were measured when the files were made."""
        return tuple(
            AcceptanceWindow(entry["n"], entry["steps"], entry["low"], entry["high"])
            for entry in self._assets.card["acceptance"]["windows"]
        )

    def card(self) -> Mapping[str, object]:
        """card.json: data, recipe, losses, accuracy, hashes, acceptance."""
        return self._assets.card


def linear_schedule(recipe: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule that a training recipe names."""
    return NoiseSchedule.linear(recipe["train_steps"], recipe["beta_start"], recipe["beta_end"])
