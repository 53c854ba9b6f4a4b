"""A small denoiser with one of everything: strided and grouped convolutions, attention, an unused layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.quantization.net.layers import activation_quantizers, quantized_layers
from pqbench.quantization.ranges.rules import minmax, rows

Example = tuple[Tensor, Tensor]


class SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unsqueeze(1).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)


class MiniDenoiser(nn.Module):
    """x_t (N, 4, 8, 8), t (N,) -> (N, 4, 8, 8); the time embedding runs before anything reads x_t."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.unused = nn.Linear(3, 3)
        self.conv_out = nn.Conv2d(8, 4, 3, padding=1)
        self.conv_in = nn.Conv2d(4, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.norm = nn.GroupNorm(2, 8)
        self.activation = nn.SiLU()
        self.attention = SelfAttention(8)
        self.register_buffer("frequencies", torch.arange(1, 7) / 10)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.embed(torch.sin(t[:, None] * self.frequencies))
        h = self.conv_in(x) + time[:, :, None, None]
        h = self.attention(self.down(self.activation(self.norm(h))))
        return self.conv_out(F.interpolate(h, scale_factor=2.0))


def make_net(seed: int = 0) -> MiniDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MiniDenoiser().eval()


def freeze(net: nn.Module) -> nn.Module:
    """Set every grid of a quantized net by min-max; inputs are taken to lie in -3 ... 3, a softmax in 0 ... 1."""
    for _, layer in quantized_layers(net):
        grid = layer.grid
        ends = (torch.ones(len(layer.weight)), torch.zeros(len(layer.weight)))
        layer.freeze(layer.weight, *(minmax(rows(layer.weight, True), grid) if grid else ends))
    for name, quantizer in activation_quantizers(net):
        if quantizer.grid is not None:
            lowest, highest = (0.0, 1.0) if name.endswith("softmax") else (-3.0, 3.0)
            quantizer.set(*quantizer.grid.parameters(torch.tensor(lowest), torch.tensor(highest)))
    return net
