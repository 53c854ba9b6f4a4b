"""The training loop that distillers share: a student learns to predict given targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.training.batches import ShuffledBatches
from pqbench.training.resume import ResumeFile, digest_of
from pqbench.training.state import Keep, TrainingState
from pqbench.training.watch import Watch

TRACE_POINTS = 200
"""A loss curve keeps about this many points, however long the training."""


@dataclass(frozen=True)
class Training:
    """How a student is trained.

    weight_lr   learning rate of the latent weights, in units of each layer's mean weight step size per iteration
                (He et al., "EfficientDM", 2024: what flips a code depends on the step size, not on the weight); in
                full precision, in units of an eighth of the weights' standard deviation
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


def train(
    student: nn.Module,
    groups: Sequence[Mapping[str, Any]],
    x_t: Tensor,
    t: Tensor,
    target: Tensor,
    training: Training,
    generator: torch.Generator,
    report: Callable[[int, float], None],
    keep: Keep | None = None,
    condition: Sequence[Tensor] = (),
) -> None:
    """Minimise the mean squared error of `student(x_t, t, *condition)` to `target`, in place.

    groups        Adam's parameter groups, each with its peak learning rate in `peak`
    x_t, target   (N, C, H, W); t (N,); condition, each (N, ...)
    report        called with (iteration, smoothed loss) after every iteration
    keep          where states are kept, so that a killed training goes on and ends bit for bit as it would have

    When the loss becomes NaN, or a hundred times that of the start and more than that of answering 0, training stops:
    the student is given back the parameters at which its smoothed loss was lowest, and `DivergedError` names the
    iteration and what to lower.
    """
    student.requires_grad_(True)
    optimizer = torch.optim.Adam([{"params": g["params"], "lr": 0.0} for g in groups], betas=(0.9, 0.99))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    order = ShuffledBatches(len(x_t), training.batch, generator)
    watch = Watch(parameters, training.iterations, float(target.square().mean()))
    state = TrainingState(parameters, optimizer, order, watch)
    keep = keep or Keep(None)
    file = ResumeFile(keep.path, _belongs(training, state, (x_t, t, target, *condition)) if keep.path else "")
    try:
        for iteration in range(state.load(file, keep), training.iterations):
            for group, made in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = training.rate(iteration) * float(made["peak"])
            index = next(order)
            answer = student(*(each[index] for each in (x_t, t, *condition)))
            loss = (answer - target[index]).square().mean()
            watch.see(iteration, float(loss.detach()))
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            report(iteration + 1, watch.smoothed)
            if file.due():
                state.save(file, keep, iteration + 1)
        watch.finish()
    finally:
        optimizer.zero_grad(set_to_none=True)
        student.requires_grad_(False)


def _belongs(training: Training, state: TrainingState, data: tuple[Tensor, ...]) -> str:
    """Digest of this training from these parameters on these data."""
    begin = [*state.parameters, *data, state.order.generator.get_state()]
    return digest_of([asdict(training), torch.__version__], begin)
