"""Dynamic per-token grids: the range is taken from each token when it comes, by min-max, and nothing is stored.

A token is a vector of features: the last axis of a linear layer's input, the channels of one pixel of a convolution's.
(Yao et al., "ZeroQuant", NeurIPS 2022, section 4.1.) An integer kernel can apply a token's scale to the result of a
linear layer or of a 1 x 1 convolution; a larger kernel sums pixels of different scales, so there it is simulation only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.learning.learned_step import learned_fake_quantize


def per_token(x: Tensor, grid: Grid, axis: int) -> Tensor:
    """`x` with every token on a grid of its own; `axis` is that of the features.

    Gradients pass straight through to x; the range counts as a constant. A token with a NaN or an infinite value has no
    finite value left: a diverged model is not hidden.
    """
    low, high = torch.aminmax(x.detach(), dim=axis, keepdim=True)
    scale, zero = grid.parameters(low, high)
    if torch.is_grad_enabled() and x.requires_grad:
        return learned_fake_quantize(x, scale, zero.float(), grid)
    return grid.fake_quantize(x, scale, zero)
