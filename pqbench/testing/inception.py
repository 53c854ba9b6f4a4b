"""The Inception of FID with seeded random weights, in the files that the genuine ones are published in.

For tests and benchmarks where nothing can be fetched: architecture, file format and cost are the real ones, distances
mean nothing.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqbench.scoring.extractors.inception import FidInception
from pqbench.scoring.extractors.resize import bilinear_tensorflow1

_CALIBRATION_IMAGES = 4


def random_images(n: int, size: int = 32, seed: int = 0) -> Tensor:
    """Coloured blobs with some grain, different from each other: (n, 3, size, size) uint8."""
    generator = torch.Generator().manual_seed(seed)
    blobs = functional.interpolate(torch.rand(n, 3, 4, 4, generator=generator), (size, size), mode="bicubic")
    grain = 0.3 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(n, 3, size, size, generator=generator)
    return ((1.2 * blobs - 0.1 + grain).clamp(0, 1) * 255).round().to(torch.uint8)


def random_inception(seed: int = 0) -> FidInception:
    """The net, unfolded, in evaluation mode; statistics of its normalizations are those of a few images.

    Without them activations of a net of this depth die out or explode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FidInception()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias, std=0.2)
                module.momentum = 1.0
        with torch.no_grad():
            net.train()(_normalized(bilinear_tensorflow1(random_images(_CALIBRATION_IMAGES, seed=seed + 1), 299)))
    return net.eval().requires_grad_(False)


def write_state_dict(net: FidInception, path: Path) -> None:
    """As torch-fidelity and pytorch-fid publish it: a state dict, saved by torch."""
    torch.save(net.state_dict(), path)


def write_torchscript(net: FidInception, path: Path) -> None:
    """As StyleGAN2-ADA publishes it: TorchScript with a part `layers`, called with and without `return_features`."""
    with warnings.catch_warnings():
        # TorchScript is deprecated, and what is published is TorchScript.
        warnings.simplefilter("ignore", DeprecationWarning)
        layers: nn.Module = torch.jit.trace(  # type: ignore[no-untyped-call]
            _Layers(net), torch.zeros(1, 3, 299, 299), check_trace=False
        )
        script = torch.jit.script(_Published(layers, net.fc).eval())
        torch.jit.save(script, str(path))


class _Layers(nn.Module):
    """(N, 3, 299, 299) -> (N, 2048, 1, 1). As in the published script, what the blocks give lies channels first."""

    def __init__(self, net: FidInception) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        for name, block in self.net.named_children():
            if name.startswith("Mixed"):
                block.register_forward_hook(lambda _module, _inputs, output: output.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return self.net.head(self.net.stem(x))[..., None, None]


class _Published(nn.Module):
    """The interface of the published script; it resizes by a sampling grid that lies as TensorFlow 1 lays it."""

    def __init__(self, layers: nn.Module, output: nn.Linear) -> None:
        super().__init__()
        self.layers, self.output = layers, output

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        n, channels, height, width = img.shape
        theta = torch.eye(2, 3, device=img.device)
        theta[0, 2] += 1 / width - 1 / 299
        theta[1, 2] += 1 / height - 1 / 299
        grid = functional.affine_grid(theta[None].repeat(n, 1, 1), [n, channels, 299, 299], align_corners=False)
        x = functional.grid_sample(img.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        features: Tensor = self.layers((x - 128) / 128).reshape(-1, 2048)
        if return_features:
            return features
        classes: Tensor = self.output(features).softmax(1)
        return classes


def _normalized(pixels: Tensor) -> Tensor:
    return (pixels - 128) / 128
