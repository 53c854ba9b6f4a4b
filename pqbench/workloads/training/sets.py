"""What each bundled workload is trained on, and how: data, net, recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn

from pqbench.workloads.bundled import BundledWorkload
from pqbench.workloads.cifar10 import Cifar10
from pqbench.workloads.fashion import Fashion
from pqbench.workloads.training import datasets
from pqbench.workloads.training.datasets import Split


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the denoiser's weights, besides data and architecture.

    images   seen in training, repeats counted
    mirror   half of them mirrored left to right
    floats   type of the arithmetic of the net (weights, averages and optimiser are float32): float32 or bfloat16
    """

    images: int = 1_000_000
    batch: int = 64
    peak_lr: float = 8e-4
    warmup_iterations: int = 400
    decay_share: float = 0.35
    ema: float = 0.9995
    gradient_clip: float = 1.0
    train_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    seed: int = 0
    mirror: bool = False
    floats: str = "float32"

    @property
    def iterations(self) -> int:
        """Optimiser steps of the whole training."""
        return self.images // self.batch


@dataclass(frozen=True)
class ExtractorRecipe:
    """Everything that decides the extractor's weights, besides data and architecture.

    shift    pixels by which a batch of images is moved, at most, up or down and left or right
    mirror   half of the images mirrored left to right. Not for Fashion-MNIST: features that do not see a mirrored
             shoe would not see a denoiser that draws one
    """

    epochs: int = 8
    batch: int = 128
    peak_lr: float = 4e-3
    weight_decay: float = 5e-4
    warmup_share: float = 0.2
    label_smoothing: float = 0.05
    seed: int = 0
    shift: int = 2
    mirror: bool = False


@dataclass(frozen=True)
class TrainingSet:
    """A data set and what is trained on it.

    workload           that the files are for
    title              of the data set
    source             where it is found
    license            its licence, or what stands for one, as the card says it
    preparation        of the images, as the card says it
    read               (folder, split) -> images (N, C, H, W) uint8, labels (N,) int64
    encode             images in [-1, 1] -> x_0
    architecture       of diffusers' UNet2DModel
    recipe             of the denoiser
    extractor_recipe   of the extractor
    stored             type of the denoiser's weights in the file that ships
    """

    workload: type[BundledWorkload]
    title: str
    source: str
    license: str
    preparation: str
    read: Callable[[Path, Split], tuple[Tensor, Tensor]]
    encode: Callable[[Tensor], Tensor]
    architecture: Mapping[str, object]
    recipe: Recipe
    extractor_recipe: ExtractorRecipe
    stored: torch.dtype

    def x_0(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) uint8 as the denoiser knows them, (N, *shape) float32."""
        return self.encode(images.float() / 127.5 - 1)


def _fold(pixels: Tensor) -> Tensor:
    return nn.functional.pixel_unshuffle(pixels, 2)


def _as_they_are(pixels: Tensor) -> Tensor:
    return pixels


FASHION: Final = TrainingSet(
    workload=Fashion,
    title="Fashion-MNIST",
    source="https://github.com/zalandoresearch/fashion-mnist",
    license="MIT licence",
    preparation="28x28 padded to 32x32 with black, folded to 4 x 16 x 16 (space-to-depth by 2), [-1, 1]",
    read=datasets.fashion_mnist,
    encode=_fold,
    architecture={
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": [32, 64, 128],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 32,
        "norm_num_groups": 16,
    },
    recipe=Recipe(),
    extractor_recipe=ExtractorRecipe(),
    stored=torch.float32,
)
CIFAR10: Final = TrainingSet(
    workload=Cifar10,
    title="CIFAR-10",
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    license="no formal licence; cite Krizhevsky, 2009",
    preparation="3 x 32 x 32 as they are, [-1, 1]",
    read=datasets.cifar10,
    encode=_as_they_are,
    architecture={
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": [48, 96, 192, 192],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 32,
        "norm_num_groups": 16,
    },
    recipe=Recipe(images=6_000_000, batch=256, peak_lr=1e-3, warmup_iterations=500, mirror=True, floats="bfloat16"),
    extractor_recipe=ExtractorRecipe(epochs=30, batch=256, shift=4, mirror=True),
    stored=torch.float16,
)
TRAINING_SETS: Final[Mapping[str, TrainingSet]] = MappingProxyType(
    {each.workload.name: each for each in (CIFAR10, FASHION)}
)
