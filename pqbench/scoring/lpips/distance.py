"""The distance of LPIPS between images and their partners."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from pqbench.scoring.lpips.nets import LpipsNet, load_heads, load_trunk

RULE: Final = "uint8 to [-1, 1], less (-0.030, -0.088, -0.188), over (0.458, 0.448, 0.450), not resized, float32"
"""How images come to the net: LPIPS's own shift and scale."""
FORMULA: Final = (
    "features over their length across channels (eps 1e-10), squared differences weighted by the heads and summed, "
    "mean over positions, sum over layers"
)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPSILON = 1e-10
_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 22}
"""Pixels that a net sees together: VGG's first feature maps take 256 bytes each."""


class Lpips(nn.Module):
    """Zhang et al. (2018), eq. 1, with the linear heads of version 0.1."""

    def __init__(self, layers: nn.Sequential, taps: tuple[int, ...], heads: list[Tensor]) -> None:
        super().__init__()
        self.layers, self.taps = layers, taps
        for place, weights in enumerate(heads):
            self.register_buffer(f"head{place}", weights)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))

    def forward(self, images: Tensor, partners: Tensor) -> Tensor:
        """(N, 1 or 3, H, W) uint8 on the CPU, grey as three equal channels: (N,) float64, from 0 on, on the CPU.

        Only a few pairs are on the device at a time.
        """
        device = self.get_buffer("shift").device
        pixels = _PIXELS.get(device.type, _PIXELS["cpu"])
        at_once = max(1, pixels // (2 * images.shape[2] * images.shape[3]))
        parts = zip(torch.split(images, at_once), torch.split(partners, at_once), strict=True)
        return torch.cat([self._few(torch.cat(pair).to(device)) for pair in parts])

    @torch.no_grad()
    def _few(self, images: Tensor) -> Tensor:
        """Of images (2 n, ...), the second half of which are the partners of the first: (n,) float64."""
        x = ((images.float() / 127.5 - 1) - self.get_buffer("shift")) / self.get_buffer("scale")
        x = x.contiguous(memory_format=torch.channels_last)
        distances = torch.zeros(len(images) // 2, dtype=torch.float64, device=x.device)
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.taps:
                weights = self.get_buffer(f"head{self.taps.index(number)}")
                first, second = _unit(x).chunk(2)
                distances += ((first - second).square() * weights).sum(1).mean((1, 2))
        return distances.cpu()


def open_lpips(net: LpipsNet, weights: Path, device: str = "cpu") -> Lpips:
    """The distance on a device. Raises `UserError` for a file of weights that is damaged or another net's."""
    return Lpips(load_trunk(net, weights), net.taps, load_heads(net)).to(device)


def _unit(features: Tensor) -> Tensor:
    """Features (N, C, H, W) of length 1 across channels, or of 0 where there is nothing."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + _EPSILON)
