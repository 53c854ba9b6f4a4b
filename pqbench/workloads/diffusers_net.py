"""A diffusers U-Net with pqbench's calling convention."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pqbench.torchvision_shim import declare_missing_operators


class DiffusersDenoiser(nn.Module):
    """Calls a diffusers U-Net as `net(x_t, t)` and returns its prediction as a plain tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> DiffusersDenoiser:
        """A `UNet2DModel` of this configuration with freshly initialised weights, in evaluation mode."""
        declare_missing_operators()
        from diffusers import UNet2DModel

        return cls(UNet2DModel(**config)).eval()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t (N, C, H, W), t (N,) int64 -> prediction, (N, C, H, W)."""
        prediction: Tensor = self.net(x_t, t, return_dict=False)[0]
        return prediction
