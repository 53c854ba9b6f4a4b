"""Reconstruction: a block learns to answer on its grids what the full-precision block answers.

The loop that quantizers share (Nagel et al., AdaRound, 2020; Li et al., BRECQ, 2021; Li et al., Q-Diffusion, 2023).
What is learned is the caller's: any parameters of the block. Blocks run in evaluation mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.quantization.learning.block_data import BlockData
from pqbench.training.batches import ShuffledBatches

TRACE_ROWS = 10
"""Rows that the trace gets of one block."""
EXPLOSION = 100.0
"""An error of so many times the target's own size, or the first error, whichever is more, is no reconstruction."""

Error = Callable[[Tensor, Tensor], Tensor]
"""Answer and target of a batch -> the error, ()."""


def lp_error(p: float) -> Error:
    """sum |answer - target|^p over the channel axis (axis 1), averaged over the rest: Q-Diffusion's loss."""

    def error(answer: Tensor, target: Tensor) -> Tensor:
        distance = answer - target
        powers = distance.square() if p == 2 else distance.abs().pow(p)
        return powers.sum(1).mean()

    return error


class Regulariser(Protocol):
    """What is minimised beside the error; it brings its own gradient."""

    def add_gradient(self, iteration: int) -> None:
        """Add its gradient at an iteration to what the error's backward pass has left."""

    def value(self, iteration: int) -> float:
        """What it adds to the loss; asked for the trace alone."""


@dataclass(frozen=True)
class Descent:
    """How one block is optimised, with Adam.

    cosine   the learning rate falls to 0 along half a cosine; else it is constant
    mixed    convolutions and products in bfloat16, everything learned in float32
    p        the exponent of the error
    """

    iterations: int
    lr: float
    batch: int = 32
    cosine: bool = False
    mixed: bool = False
    p: float = 2.0

    @property
    def error(self) -> Error:
        """What is minimised: `lp_error(p)`."""
        return lp_error(self.p)

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0."""
        if not self.cosine:
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))


def reconstruction_step(
    module: nn.Module,
    data: BlockData,
    index: Tensor,
    optimizer: torch.optim.Optimizer,
    error: Error,
    *,
    mixed: bool = False,
    check: Callable[[float], None] = lambda value: None,
    after_backward: Callable[[], None] = lambda: None,
) -> float:
    """One iteration on the samples `index`; returns the error before it.

    check            may raise at the error, before anything has changed
    after_backward   may add to the gradients
    """
    target = data.target[index]
    with torch.autocast(target.device.type, torch.bfloat16, enabled=mixed):
        answer = data.call(module, index)
    loss = error(answer.to(target.dtype), target)
    value = float(loss.detach())
    check(value)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    after_backward()
    optimizer.step()
    return value


def reconstruct(
    block: str,
    module: nn.Module,
    data: BlockData,
    parameters: list[nn.Parameter],
    descent: Descent,
    generator: torch.Generator,
    *,
    regulariser: Regulariser | None = None,
    trace: Callable[[dict[str, Any]], None] = lambda row: None,
) -> None:
    """Minimise the error of `module` to its targets over `parameters`, in place.

    block   its name, for messages
    trace   gets a row (iteration, loss, rate, and the regulariser's value) about every tenth of the way

    Raises `UserError` that names the block and the iteration when the error is NaN or explodes.
    """
    # Fused: one pass over a tensor and its moments, where the plain one makes a dozen.
    optimizer = torch.optim.Adam(parameters, lr=descent.lr, fused=True)
    batches = ShuffledBatches(len(data.target), descent.batch, generator)
    watch, error = _Watch(block, descent), descent.error
    traced = {round((i + 1) * descent.iterations / TRACE_ROWS) - 1 for i in range(TRACE_ROWS)}
    for iteration in range(descent.iterations):
        for group in optimizer.param_groups:
            group["lr"] = descent.rate(iteration)
        index = next(batches)
        watch.iteration = iteration
        if iteration == 0:
            target = data.target[index]
            watch.size = float(error(torch.zeros_like(target), target))
        loss = reconstruction_step(
            module,
            data,
            index,
            optimizer,
            error,
            mixed=descent.mixed,
            check=watch.check,
            after_backward=lambda at=iteration: regulariser.add_gradient(at) if regulariser else None,  # type: ignore[misc]
        )
        if iteration in traced:
            row = {"iteration": iteration + 1, "loss": loss, "rate": descent.rate(iteration)}
            trace(row if regulariser is None else row | {"regulariser": regulariser.value(iteration)})
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        watch.iteration = descent.iterations
        watch.check(math.nan)


@dataclass
class _Watch:
    """Tells a reconstruction from a runaway.

    size   the error of answering 0: the size of the target in the error's own measure
    """

    block: str
    descent: Descent
    iteration: int = 0
    size: float = 0.0
    first: float = 0.0

    def check(self, error: float) -> None:
        """Raise `UserError` when the error of the current iteration is NaN or beyond all reason."""
        if self.iteration == 0:
            self.first = error
        most = EXPLOSION * max(self.first, self.size)
        if not math.isfinite(error):
            what = "its error is NaN or infinite"
        elif error > most:
            what = f"its error of {error:.3g} is beyond {most:.3g}"
        else:
            return
        raise UserError(
            f"The reconstruction of block {self.block} failed at iteration {self.iteration} of "
            f"{self.descent.iterations}: {what}. Lower its learning rate, {self.descent.lr:g}, or look for NaN in the "
            "calibration set."
        )
