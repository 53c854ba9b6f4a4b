"""Group normalisation (Wu and He, 2018) written as reductions over space, for export."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReducedGroupNorm(nn.Module):
    """The same numbers as `nn.GroupNorm`, without viewing a group's channels as one row.

    That view is what forces an executor with channels-last kernels to reorder the tensor before and after. Here means
    and variances are taken for each channel, in place, and only those (a few hundred numbers) are combined into groups.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups = norm.num_groups
        self.channels = norm.num_channels
        self.eps = norm.eps
        ones = torch.ones(norm.num_channels)
        self.register_buffer("weight", ones if norm.weight is None else norm.weight.detach())
        self.register_buffer("bias", torch.zeros_like(ones) if norm.bias is None else norm.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, ...) -> the same shape."""
        batch = x.shape[0]
        space = list(range(2, x.dim()))
        channelwise = (batch, self.channels, *[1] * len(space))
        centred = x - self._of_group(x.mean(space), batch).reshape(channelwise)
        # In two passes: the mean of squares minus the square of the mean would cancel.
        variance = self._of_group((centred * centred).mean(space), batch)
        gain = torch.rsqrt(variance + self.eps) * self.weight
        return centred * gain.reshape(channelwise) + self.bias.reshape(1, *channelwise[1:])

    def _of_group(self, values: Tensor, batch: int) -> Tensor:
        """(N, C) values of channels to the mean of each channel's group, (N, C)."""
        groups = values.reshape(batch, self.groups, self.channels // self.groups)
        return groups.mean(2, keepdim=True).expand_as(groups).reshape(batch, self.channels)
