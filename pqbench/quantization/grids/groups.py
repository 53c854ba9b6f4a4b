"""Groups: scales that are finer than an output channel, one for every `group_size` input elements of its row.

The row of an output channel is its weight flattened over (in, kh, kw); the last group of a row may be shorter. Codes
keep the weight's shape, scales and zero-points are (out, groups). (Shen et al., "Q-BERT", AAAI 2020, section 3.3.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.quantization.grids.grid import Grid, per_channel


def group_count(shape: torch.Size, group_size: int) -> int:
    """Groups in a row of a weight of this shape, (out, in, ...)."""
    return -(-shape[1:].numel() // group_size)


def scale_shape(shape: torch.Size, group_size: int) -> tuple[int, ...]:
    """The shape of the scales of a weight: (out,), or (out, groups) with a group size above 0.

    Raises `UserError` for a group size below 0.
    """
    if group_size < 0:
        raise UserError(f"A group holds 1 or more inputs of a weight, not {group_size} (0: one scale a channel).")
    return (shape[0], group_count(shape, group_size)) if group_size else (shape[0],)


def spread(values: Tensor, like: Tensor, group_size: int) -> Tensor:
    """Values (out,) or (out, groups), one for every scale, shaped to broadcast against `like`, (out, in, ...).

    Gradients flow back to the values.
    """
    if values.dim() == 1:
        return per_channel(values, like)
    length = like.shape[1:].numel()
    return values.repeat_interleave(min(group_size, length), dim=1)[:, :length].reshape(like.shape)


def over_groups(values: Tensor, shape: torch.Size, group_size: int) -> Tensor:
    """Values one a channel, (out,), or already one a group, as one for every scale: see `scale_shape`."""
    wanted = scale_shape(shape, group_size)
    if values.dim() == 1 and len(wanted) == 2:
        values = values[:, None]
    return values.expand(wanted)


def fit_groups(
    rule: Callable[[Tensor, Grid], tuple[Tensor, Tensor]], weight: Tensor, grid: Grid, group_size: int
) -> tuple[Tensor, Tensor]:
    """Scale and zero-point (out, groups) of what a range rule (values (C, N) -> (C,) each) makes of every group."""
    channels, length = len(weight), weight.shape[1:].numel()
    whole = length - length % group_size
    rows = weight.reshape(channels, length)
    # A short last group goes through the rule by itself: filled up to the others' length, its error would be another.
    parts = [part for part in torch.split(rows, [whole, length - whole], dim=1) if part.numel()]
    fitted = [rule(part.reshape(-1, min(group_size, part.shape[1])), grid) for part in parts]
    scales, zeros = ([value.reshape(channels, -1) for value in side] for side in zip(*fitted, strict=True))
    return torch.cat(scales, dim=1), torch.cat(zeros, dim=1)
