"""A workload for tests: a seeded random U-Net and a synthetic reference, made in milliseconds and without any file."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from pqbench.contracts.schedule import NoiseSchedule
from pqbench.contracts.workload import Extractor, Reference, Workload
from pqbench.workloads.diffusers_net import DiffusersDenoiser
from pqbench.workloads.fingerprint import model_fingerprint, tensors_sha256

_SEED = 20_260
_REFERENCE_IMAGES = 256
CONFIG: dict[str, object] = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}


class TinyExtractor(nn.Module):
    """Two strided convolutions with random weights: (N, 3, 8, 8) uint8 -> (N, 8) float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Means over the last feature map."""
        features: Tensor = self.layers(images.float() / 127.5 - 1).mean((2, 3))
        return features


class TinyWorkload(Workload):
    """An untrained 8x8 RGB denoiser (42 thousand weights, one attention block) with four DDIM steps.

    Every tensor is a function of a constant seed; the global random state is left as it was.
    """

    name: ClassVar[str] = "tiny"
    summary: ClassVar[str] = "an untrained 8x8 U-Net for tests of plugins; its distances mean nothing"
    libraries: ClassVar[tuple[str, ...]] = ("diffusers",)
    steps: ClassVar[int] = 4
    shape: ClassVar[tuple[int, int, int]] = (3, 8, 8)

    def architecture(self) -> nn.Module:
        """The U-Net with whatever weights diffusers initialises."""
        return DiffusersDenoiser.from_config(CONFIG)

    def denoiser(self) -> nn.Module:
        """The U-Net with its seeded random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return self.architecture()

    def schedule(self) -> NoiseSchedule:
        """Gentler than usual: an untrained net cannot cancel the noise that a signal near zero would amplify."""
        return NoiseSchedule.linear(1000, 1e-4, 5e-3)

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 (N, 3, 8, 8) to RGB images (N, 3, 8, 8) uint8; a sigmoid, since an untrained net's x_0 has no bounds."""
        return (x_0.sigmoid() * 255).round().to(torch.uint8)

    def extractor(self) -> Extractor:
        """The random convolutions; the hash is that of their weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED + 1)
            net = TinyExtractor().eval().requires_grad_(False)
        return Extractor(net, "tiny", tensors_sha256(net.state_dict()))

    def reference(self) -> Reference:
        """Statistics of seeded random images."""
        return _reference()

    def fingerprint(self) -> str:
        """Hash of the seeded weights, the schedule and the sampler."""
        return model_fingerprint(_weights_sha256(), self.schedule(), "ddim-trailing")


@lru_cache(maxsize=1)
def _weights_sha256() -> str:
    return tensors_sha256(TinyWorkload().denoiser().state_dict())


@lru_cache(maxsize=1)
def _reference() -> Reference:
    generator = torch.Generator().manual_seed(_SEED + 2)
    images = torch.randint(0, 256, (_REFERENCE_IMAGES, *TinyWorkload.shape), generator=generator, dtype=torch.uint8)
    features = TinyWorkload().extractor().net(images)
    return Reference(
        mean=features.double().mean(0),
        covariance=features.double().T.cov(),
        features=features,
        n=_REFERENCE_IMAGES,
        sha256=tensors_sha256({"images": images}),
    )
