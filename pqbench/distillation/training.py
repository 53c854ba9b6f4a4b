"""The training loop that distillers share: a student on its grids learns to predict given targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pqbench.errors import UserError
from pqbench.quantization.tunable_operand import tunable_operands
from pqbench.quantization.tuning import tunable_layers

TRACE_POINTS = 200
"""A loss curve keeps about this many points, however long the training."""


@dataclass(frozen=True)
class Training:
    """How a student is trained.

    weight_lr   learning rate of the latent weights, in units of each layer's mean weight step size per iteration
                (He et al., "EfficientDM", 2024: what flips a code depends on the step size, not on the weight)
    step_lr     learning rate of the logarithms of all step sizes
    other_lr    learning rate of biases and normalisation parameters
    """

    iterations: int
    batch: int
    weight_lr: float
    step_lr: float
    other_lr: float
    gradient_clip: float = 1.0
    warmup: float = 0.05

    def rate(self, iteration: int) -> float:
        """Factor on all learning rates: a linear warm-up, then half a cosine to zero."""
        warm = max(1, round(self.iterations * self.warmup))
        if iteration < warm:
            return (iteration + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1, self.iterations - warm)))


def parameter_groups(net: nn.Module, training: Training) -> list[dict[str, object]]:
    """Adam's parameter groups of a tuned net, each with its peak learning rate in `peak`."""
    groups: list[dict[str, object]] = []
    steps: list[nn.Parameter] = []
    zeros: list[nn.Parameter] = []
    inside: set[int] = set()
    for _, layer in tunable_layers(net):
        inside |= {id(p) for p in layer.parameters()}
        spread = layer.weight_step().mean() if layer.weight_grid else layer.weight.std() / 8
        unit = float(spread.detach())
        groups.append({"params": [layer.weight], "peak": training.weight_lr * unit})
        if layer.weight_grid is not None:
            steps.append(layer.weight_theta)
        if layer.input_grid is not None:
            steps.append(layer.input_theta)
            zeros.append(layer.input_zero)
    for _, operand in tunable_operands(net):
        inside |= {id(p) for p in operand.parameters()}
        if operand.input_grid is not None:
            steps.append(operand.input_theta)
            zeros += [] if operand.input_zero is None else [operand.input_zero]
    others = [p for p in net.parameters() if id(p) not in inside]
    others += [layer.bias for _, layer in tunable_layers(net) if layer.bias is not None]
    groups.append({"params": steps, "peak": training.step_lr})
    # A zero-point moves in whole codes; this rate lets it cross one in the time a step size changes by a tenth.
    groups.append({"params": zeros, "peak": training.step_lr * 10})
    groups.append({"params": others, "peak": training.other_lr})
    return [group for group in groups if group["params"]]


def train(
    student: nn.Module,
    x_t: Tensor,
    t: Tensor,
    target: Tensor,
    weight: Tensor,
    training: Training,
    generator: torch.Generator,
    report: Callable[[int, float], None],
    condition: Sequence[Tensor] = (),
) -> None:
    """Minimise the weighted mean squared error of `student(x_t, t, *condition)` to `target`, in place.

    x_t, target   (N, C, H, W); t, weight (N,); condition, each (N, ...)
    report        called with (iteration, smoothed loss) after every iteration

    When the loss becomes NaN or grows a hundredfold over its start, training stops: the student is given back the
    parameters at which its smoothed loss was lowest, and `UserError` names the iteration and what to lower.
    """
    student.requires_grad_(True)
    groups = parameter_groups(student, training)
    optimizer = torch.optim.Adam([{"params": g["params"], "lr": 0.0} for g in groups], betas=(0.9, 0.99))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    order = shuffled_batches(len(x_t), training.batch, generator)
    watch = _Watch(parameters, training.iterations)
    try:
        for iteration in range(training.iterations):
            for group, made in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = training.rate(iteration) * float(made["peak"])  # type: ignore[arg-type]
            index = next(order)
            answer = student(*(each[index] for each in (x_t, t, *condition)))
            error = (answer - target[index]).square().flatten(1).mean(1)
            loss = (weight[index] * error).mean()
            watch.see(iteration, float(loss.detach()))
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            report(iteration + 1, watch.smoothed)
        watch.finish()
    finally:
        optimizer.zero_grad(set_to_none=True)
        student.requires_grad_(False)


class _Watch:
    """Follows the loss of a training and keeps the last good parameters, to which a diverged student goes back.

    A good state is one whose smoothed loss is the lowest so far: while a student diverges, no state is.
    """

    def __init__(self, parameters: list[nn.Parameter], iterations: int) -> None:
        self.parameters = parameters
        self.iterations = iterations
        self.good = [p.detach().clone() for p in parameters]
        self.good_iteration = 0
        self.start = self.smoothed = self.lowest = math.nan

    def see(self, iteration: int, loss: float) -> None:
        """Take in the loss of the parameters as they are before the step of `iteration`."""
        if iteration == 0:
            self.start = self.smoothed = self.lowest = loss
        if not math.isfinite(loss) or loss > 100 * max(self.start, 1e-6):
            self._give_up(iteration, f"loss {loss:.3g}, at the start {self.start:.3g}")
        if iteration > 0:
            self.smoothed = 0.95 * self.smoothed + 0.05 * loss
        if self.smoothed < self.lowest:
            self.lowest = self.smoothed
            self.good_iteration = iteration
            for kept, parameter in zip(self.good, self.parameters, strict=True):
                kept.copy_(parameter.detach())

    def finish(self) -> None:
        """The last step has no loss after it: look at the parameters themselves."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters):
            self._give_up(self.iterations, "NaN in its parameters")

    def _give_up(self, iteration: int, what: str) -> None:
        with torch.no_grad():
            for kept, parameter in zip(self.good, self.parameters, strict=True):
                parameter.copy_(kept)
        raise UserError(
            f"The student diverged at iteration {iteration} of {self.iterations} ({what}): lower weight_lr or step_lr. "
            f"It was put back to its last good state, that of iteration {self.good_iteration}."
        )


def shuffled_batches(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices; every index once before any comes again."""
    left = torch.empty(0, dtype=torch.long)
    while True:
        while len(left) < min(batch, count):
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:batch]
        left = left[batch:]
