"""The bundled extractor: the penultimate layer of a small Fashion-MNIST classifier."""

from __future__ import annotations

from torch import Tensor, nn

FEATURES = 64
CLASSES = 10


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class FashionExtractor(nn.Module):
    """Four convolutions, a global mean, and 64 features on which a linear classifier sits.

    The features are taken before any rectifier, so that a Gaussian is a fair model of them, as the Frechet distance
    supposes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(1, 16, stride=2),
            _convolution(16, 32, stride=1),
            _convolution(32, 64, stride=2),
            _convolution(64, 96, stride=2),
        )
        self.project = nn.Linear(96, FEATURES)
        self.classify = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 32, 32) uint8 -> features (N, 64) float32."""
        pixels = images.to(self.project.weight.dtype) / 127.5 - 1
        features: Tensor = self.project(self.body(pixels).mean((2, 3)))
        return features

    def logits(self, images: Tensor) -> Tensor:
        """Images (N, 1, 32, 32) uint8 -> class scores (N, 10)."""
        scores: Tensor = self.classify(self(images).relu())
        return scores
