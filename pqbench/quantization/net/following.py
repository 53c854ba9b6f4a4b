"""Following x_t through a net: what depends on it is what has a gradient with respect to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def run_following_x(net: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Run `net` on (x_t, t, *condition) so that exactly the tensors that depend on x_t require a gradient."""
    # Without this, everything after a trainable weight would seem to depend on x_t.
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            net(example[0].detach().clone().requires_grad_(), *example[1:])
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
