"""Stage 1 of progressive quantization: weights, block by block, one bit at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.quantization import BlockData, Grid, OtherGrid, TunableLayer, lp_search, rows
from pqbench_pqcad.better_end import BetterEnd
from pqbench_pqcad.detector import MomentumDetector
from pqbench_pqcad.reconstruction import Width, optimise_width, weight_perturbation


@dataclass(frozen=True)
class WeightStage:
    """How the weights of a block are brought down.

    start      the first width
    ramp       iterations over which the new grid is blended in; 0 switches at once
    averaging  momentum of the running average of the weights, as each is before a step, from which a new grid's scales
               are searched
    """

    start: int
    ramp: int
    averaging: float
    weight_lr: float
    step_lr: float
    detector: Callable[[], MomentumDetector]

    def run(
        self,
        block: str,
        module: nn.Module,
        layers: dict[str, TunableLayer],
        data: BlockData,
        batches: Iterator[Tensor],
        trace: list[dict[str, Any]],
    ) -> None:
        """Bring every layer in `layers` from `start` bits to its own target, together."""
        targets = {name: layer.layer.w_bits for name, layer in layers.items()}
        originals = [layer.weight.detach().clone() for layer in layers.values()]
        averages = [w.clone() for w in originals]
        for layer in layers.values():
            layer.requires_grad_(False)
            layer.weight.requires_grad_(True)
            layer.weight_theta.requires_grad_(True)
        lowest = min(targets.values())
        for bits in range(max(self.start, lowest), lowest - 1, -1):
            blends = [
                self._lower(layer, max(bits, targets[name]), average)
                for (name, layer), average in zip(layers.items(), averages, strict=True)
                if layer.w_bits != max(bits, targets[name])
            ]

            def smooth(iteration: int, blends: list[Blend] = blends, averages: list[Tensor] = averages) -> None:
                for blend in blends:
                    blend.apply(iteration, self.ramp)
                for average, layer in zip(averages, layers.values(), strict=True):
                    average.lerp_(layer.weight.detach(), 1 - self.averaging)

            began = [average.clone() for average in averages]

            optimizer = self._optimizer(list(layers.values()))
            ends = BetterEnd(module, data, [p for group in optimizer.param_groups for p in group["params"]])
            optimise_width(
                Width("weights", block, bits),
                module,
                data,
                optimizer,
                batches,
                self.detector(),
                lambda: weight_perturbation(list(layers.values()), originals),
                smooth,
                trace,
            )
            for layer in layers.values():
                layer.weight_blend = None
            trace[-1]["restored"] = ends.choose()
            if trace[-1]["restored"]:
                # The weights that it followed are gone.
                averages = began

    def _lower(self, layer: TunableLayer, bits: int, average: Tensor) -> Blend:
        """Move a layer to a new width, its scales searched on the running average of its weights."""
        blend = Blend(layer, layer.weight_grid, layer.weight_step().detach(), layer.weight_zero)
        scale, zero = lp_search(rows(average, per_channel=True), Grid(bits, layer.layer.w_symmetric))
        layer.set_weight_grid(bits, scale, zero)
        return blend

    def _optimizer(self, layers: list[TunableLayer]) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": [layer.weight], "lr": self.weight_lr * float(layer.weight_step().detach().mean())}
            for layer in layers
        ]
        groups.append({"params": [layer.weight_theta for layer in layers], "lr": self.step_lr})
        return torch.optim.Adam(groups)


@dataclass(frozen=True)
class Blend:
    """The smoothing of one layer's transition: a mixture of the old grid (None: there was none) and the new one."""

    layer: TunableLayer
    old: Grid | None
    old_scale: Tensor
    old_zero: Tensor

    def apply(self, iteration: int, ramp: int) -> None:
        """Set the mixture for an iteration: the new grid's share grows linearly and is 1 after `ramp` iterations."""
        if self.old is None or iteration >= ramp:
            self.layer.weight_blend = None
        else:
            share = (iteration + 1) / (ramp + 1)
            self.layer.weight_blend = OtherGrid(self.old, self.old_scale, self.old_zero, share)
