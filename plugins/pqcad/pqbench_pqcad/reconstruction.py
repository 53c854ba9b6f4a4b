"""One block at one bit-width: optimise until the detector says that it has settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.quantization import BlockData, TunableLayer, reconstruction_step
from pqbench_pqcad.detector import MomentumDetector


@dataclass(frozen=True)
class Width:
    """What is being optimised: which block, in which stage, at how many bits."""

    stage: str
    block: str
    bits: int


def optimise_width(
    width: Width,
    module: nn.Module,
    data: BlockData,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Tensor],
    detector: MomentumDetector,
    perturbation: Callable[[], Tensor],
    before: Callable[[int], None],
    trace: list[dict[str, Any]],
) -> None:
    """Minimise the block's relative reconstruction error at one width.

    data           inputs from the quantized prefix, targets from the full-precision net
    perturbation   the relative perturbation P_k of the tensors being quantized, followed by the detector
    before         called with the iteration number before each iteration (the smoothing of the transition)
    trace          gets a row at each check of the detector, and one that names the reason when the width is done
    """
    power = data.power().clamp(min=1e-12)

    def relative(answer: Tensor, target: Tensor) -> Tensor:
        return (answer - target).square().mean() / power

    event: str = ""
    while not event:
        before(detector.iterations)
        loss = reconstruction_step(module, data, next(batches), optimizer, relative)
        with torch.no_grad():
            moved = float(perturbation())
        event = detector.update(loss + moved)
        if event or detector.checked:
            trace.append(
                {
                    "stage": width.stage,
                    "block": width.block,
                    "width": width.bits,
                    "iteration": detector.iterations,
                    "loss": round(loss, 6),
                    "perturbation": round(moved, 6),
                    "momentum": round(detector.level, 6),
                    "event": event,
                }
            )


def weight_perturbation(layers: list[TunableLayer], originals: list[Tensor]) -> Tensor:
    """P_k = sum |Q_b(w_k) - w_FP|^2 / sum |w_FP|^2 over a block's layers, on the new grid alone."""
    moved = [(layer.weight_on_grid() - w).square().sum() for layer, w in zip(layers, originals, strict=True)]
    power = [w.square().sum() for w in originals]
    return torch.stack(moved).sum() / torch.stack(power).sum().clamp(min=1e-12)
