"""How the predictions of a compressed net stand to those of the full-precision net: a gain and a bias.

What is left of a gain is left in every step of a sampler: a prediction of the noise that is 2 % too small leaves noise
in the images (He et al., "PTQD", NeurIPS 2023, section 4.1, who call it the correlated part of the quantization noise).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Match:
    """How the predictions of one net stand to those of another at one time step: found = gain expected + bias.

    gain   one number
    bias   (C,) float64, one a channel of the prediction
    """

    gain: float
    bias: Tensor

    def undo(self, found: Tensor) -> Tensor:
        """What was expected, of what was found, (N, C, ...), without the part that no gain and bias explains."""
        return (found - _over_channels(self.bias, found)) / self.gain


def match(expected: Tensor, found: Tensor, bias: bool = True) -> Match:
    """The least-squares gain and bias between two predictions (N, C, ...) at one time step, in float64.

    bias: without it the line goes through zero. The gain is 0 or below where the predictions are not related.
    """
    wanted, given = expected.double(), found.double()
    axes = [0, *range(2, wanted.dim())]
    means = wanted.mean(axes), given.mean(axes)
    centred = wanted, given
    if bias:
        centred = wanted - _over_channels(means[0], wanted), given - _over_channels(means[1], given)
    power = float(centred[0].square().sum())
    gain = float((centred[0] * centred[1]).sum()) / power if power else 1.0
    return Match(gain, means[1] - gain * means[0] if bias else torch.zeros_like(means[0]))


def _over_channels(values: Tensor, like: Tensor) -> Tensor:
    """(C,) values shaped to broadcast along the second axis of `like`."""
    return values.to(like.dtype).view(1, -1, *[1] * (like.dim() - 2))
