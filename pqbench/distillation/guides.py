"""Whom a student learns from: guides, and the one target that their shares make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.context import Context
from pqbench.diffusion.merged import merged_prediction
from pqbench.distillation.targets import in_batches
from pqbench.training.resume import ResumeFile, digest_of

_BATCH = 64
"""Samples that go through a guide together; part of what decides the last bits of a target, hence no parameter."""


@dataclass(frozen=True)
class Guide:
    """A net that the student learns from.

    share    of its target in the student's
    every    its own steps: every `every`-th one of the full-precision model's run
    merged   how many of its own steps the student makes in one
    """

    name: str
    net: nn.Module
    share: float
    every: int = 1
    merged: int = 2


def shared_target(
    context: Context,
    guides: Sequence[Guide],
    x_t: Tensor,
    t: Tensor,
    name: str = "targets",
    condition: Sequence[Tensor] = (),
) -> Tensor:
    """The sum of the guides' targets, each times its share, (N, C, H, W).

    The gradient of sum_i share_i |prediction - target_i|^2, with shares that add up to 1, is that of
    |prediction - sum_i share_i target_i|^2: so targets are mixed once, before the training. A guide without a share is
    not asked. The target is kept under `name` in the context's scratch, so that a killed distillation finds it again.

    Raises `UserError` when a guide answers with NaN, or its steps cannot be merged.
    """
    asked = [guide for guide in guides if guide.share > 0]
    file = ResumeFile(None, "")
    if context.scratch is not None:
        file = ResumeFile(context.scratch / f"{name}.safetensors", _belongs(context, asked, (x_t, t, *condition)))
    kept = file.load()
    if kept is not None:
        context.earlier.append(kept.seconds)
        return kept.tensors["target"].to(x_t.device)
    mixed = torch.zeros_like(x_t)
    for guide in asked:
        mixed += guide.share * _target(context, guide, x_t, t, condition)
    file.save({"target": mixed}, {})
    return mixed


def _target(context: Context, guide: Guide, x_t: Tensor, t: Tensor, condition: Sequence[Tensor]) -> Tensor:
    workload = context.workload
    run, schedule = context.timesteps().to(x_t.device)[:: guide.every], workload.schedule()
    target = in_batches(
        lambda x, s, *c: merged_prediction(
            guide.net, schedule, run, x, s, *c, merged=guide.merged, prediction=workload.prediction
        ),
        x_t,
        t,
        _BATCH,
        lambda done: context.progress(done, len(x_t), f"targets of the {guide.name}"),
        condition,
    )
    if not bool(torch.isfinite(target).all()):
        raise UserError(f"The {guide.name} answers the calibration set with NaN or infinite values: it cannot teach.")
    return target


def _belongs(context: Context, guides: Sequence[Guide], samples: Sequence[Tensor]) -> str:
    facts = [[guide.name, guide.share, guide.every, guide.merged] for guide in guides]
    states = [value for guide in guides for value in guide.net.state_dict().values()]
    run, table = context.timesteps(), context.workload.schedule().alphas_cumprod
    return digest_of([facts, context.workload.prediction, torch.__version__], [*samples, run, table, *states])
