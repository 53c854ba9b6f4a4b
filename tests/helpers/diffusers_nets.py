"""Tiny diffusers nets behind the denoiser's signature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pqbench.base.torchvision_shim import declare_missing_operators

declare_missing_operators()
import diffusers  # noqa: E402  (needs the operators)


class Called(nn.Module):
    """A diffusers net behind the denoiser's signature; what else it is called with is looked up by the time step."""

    def __init__(self, net: nn.Module, **tables: Tensor) -> None:
        super().__init__()
        self.net = net
        self.tables = tables

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        extra = {name: table[t] for name, table in self.tables.items()}
        result: Tensor = self.net(x, timestep=t, **extra, return_dict=False)[0]
        return result


def unet() -> nn.Module:
    return Called(
        diffusers.UNet2DModel(
            sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8, norm_num_groups=4,
        )
    )  # fmt: skip


def conditional_unet() -> nn.Module:
    net = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=6, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    return Called(net, encoder_hidden_states=torch.randn(10, 5, 6, generator=torch.Generator().manual_seed(1)))


def dit() -> nn.Module:
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=3, num_layers=2, sample_size=8, patch_size=2,
        norm_num_groups=4, num_embeds_ada_norm=10,
    )  # fmt: skip
    return Called(net, class_labels=torch.arange(10))


def transformer() -> nn.Module:
    """Blocks of self and cross attention on feature maps; the net does not use the time step."""
    net = diffusers.Transformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=3, num_layers=1, cross_attention_dim=6,
        norm_num_groups=3,
    )  # fmt: skip
    return Called(net, encoder_hidden_states=torch.randn(10, 5, 6, generator=torch.Generator().manual_seed(1)))


DIFFUSERS_NETS: dict[str, Callable[[], nn.Module]] = {
    "UNet2DModel": unet, "UNet2DConditionModel": conditional_unet, "DiTTransformer2DModel": dit,
    "Transformer2DModel": transformer,
}  # fmt: skip


def make_diffusers_net(name: str) -> nn.Module:
    """One of these with seeded weights: diffusers starts some layers at zero, which would make all outputs the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DIFFUSERS_NETS[name]().eval()
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.2)
        return net
