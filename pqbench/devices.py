"""Where a net is."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def device_of(net: nn.Module) -> torch.device:
    """The device of the first of a net's tensors; the CPU for a net without any."""
    first = next(chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device
