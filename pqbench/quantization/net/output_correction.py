"""A correction of what a net predicts, one for each of its sampling steps.

A quantized net's prediction is off in a way that is not all noise: it is a little too small or too large, and shifted
(He et al., "PTQD", NeurIPS 2023, eq. 8: the error's part that is correlated with the prediction, and its mean). What
is left of a gain is left in every step of a sampler: a prediction 2 % too small leaves noise in the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError

NAME = "output_correction"
"""Under which a net holds its correction."""


class OutputCorrection(nn.Module):
    """(prediction - bias) / gain, with the gain and the bias of the time step.

    time_steps   (S,) int64; a time step between or beyond them counts as the nearest
    gain         (S,) float32
    bias         (S, C) float32
    """

    time_steps: Tensor
    gain: Tensor
    bias: Tensor

    def __init__(self, time_steps: Tensor, gain: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("time_steps", time_steps.long().clone())
        self.register_buffer("gain", gain.float().clone())
        self.register_buffer("bias", bias.float().clone())

    def forward(self, prediction: Tensor, t: Tensor) -> Tensor:
        """The corrected prediction, (N, C, ...), of what a net predicts at time steps `t`, () or (N,)."""
        # Distances in float: exact for time steps, and engines have no search over integers.
        distance = (t.reshape(-1, 1).to(self.gain.dtype) - self.time_steps.to(self.gain.dtype)).abs()
        place = distance.argmin(1)
        shape = (-1, prediction.shape[1], *[1] * (prediction.dim() - 2))
        # One division for each step and channel, so that the images get a multiplication and an addition.
        factor = (1 / self.gain)[:, None].expand_as(self.bias)
        return prediction * factor[place].view(shape) - (self.bias * factor)[place].view(shape)

    def after(self, _net: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], prediction: Tensor) -> Tensor:
        """A hook of the net: corrects what net(x_t, t) returns."""
        t = args[1] if len(args) > 1 else kwargs.get("t")
        if not isinstance(t, Tensor):
            raise UserError("This net's output is corrected step by step: call it as net(x_t, t).")
        corrected: Tensor = self(prediction, t)
        return corrected


def correct_output(net: nn.Module, time_steps: Tensor, gain: Tensor, bias: Tensor) -> nn.Module:
    """Give `net` a correction (see `OutputCorrection`), in place, and return it frozen.

    It is a part of the net's state and of its checkpoint. Raises `UserError` for a net that has one already, for tables
    that do not fit each other, and for values that cannot be undone.
    """
    if corrected(net) is not None:
        raise UserError("The net has an output correction already: correct the net that it was made from.")
    steps = len(time_steps)
    if not steps or gain.shape != (steps,) or bias.dim() != 2 or len(bias) != steps:
        raise UserError(
            f"A correction over {steps} time steps needs as many gains and a row of biases for each; it has gains "
            f"{tuple(gain.shape)} and biases {tuple(bias.shape)}."
        )
    if not bool(torch.isfinite(gain).all() and (gain > 0).all() and torch.isfinite(bias).all()):
        raise UserError("A correction's gains must be finite and above 0, its biases finite: the net has diverged.")
    place = next((value.device for value in net.state_dict().values()), gain.device)
    attach(net, OutputCorrection(time_steps, gain, bias).to(place))
    return net.requires_grad_(False)


def attach(net: nn.Module, correction: OutputCorrection) -> None:
    """Let `correction` follow every call of `net`."""
    net.add_module(NAME, correction)
    # A bound method: a deep copy of the net has a hook of the copied correction.
    net.register_forward_hook(correction.after, with_kwargs=True)


def corrected(net: nn.Module) -> OutputCorrection | None:
    """The correction of `net`, if it has one."""
    found = getattr(net, NAME, None)
    return found if isinstance(found, OutputCorrection) else None
