"""The extractor of the bundled `cifar10` workload: features of a small CIFAR-10 classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = 64
CLASSES = 10


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Cifar10Extractor(nn.Module):
    """Three stages at 16x16, 8x8 and 4x4; 64 features of their global means, on which a linear classifier sits.

    The means of all stages go in, so that texture, where quantization shows first, is seen beside content. The
    features are taken before any rectifier, so that a Gaussian is a fair model of them, as the Frechet distance
    supposes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 32)
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(inputs, outputs, stride=2), _convolution(outputs, outputs))
            for inputs, outputs in ((32, 64), (64, 128), (128, 256))
        )
        self.project = nn.Linear(64 + 128 + 256, FEATURES)
        self.classify = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) uint8 -> features (N, 64) float32."""
        hidden = self.stem(images.to(self.project.weight.dtype) / 127.5 - 1)
        means = []
        for stage in self.stages:
            hidden = stage(hidden)
            means.append(hidden.mean((2, 3)))
        features: Tensor = self.project(torch.cat(means, 1))
        return features

    def logits(self, images: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) uint8 -> class scores (N, 10)."""
        scores: Tensor = self.classify(self(images).relu())
        return scores
