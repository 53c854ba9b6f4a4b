"""Stage 2 of progressive quantization: activations, with the weights frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.quantization.block_data import BlockData
from pqbench.quantization.grid import Grid
from pqbench.quantization.ranges import lp_search_2d
from pqbench.quantization.tuning import TunableLayer
from pqbench_pqcad.better_end import BetterEnd, even_sample
from pqbench_pqcad.detector import MomentumDetector
from pqbench_pqcad.reconstruction import Width, optimise_width


@dataclass(frozen=True)
class ActivationStage:
    """How the inputs of a block's layers are brought down: step sizes learned, zero-points searched at each width."""

    start: int
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
        """Bring the input of every layer in `layers` from `start` bits to its own target, together."""
        targets = {name: layer.layer.activation.bits for name, layer in layers.items()}
        inputs = observe_inputs(module, layers, data)
        layers = {name: layer for name, layer in layers.items() if name in inputs}
        for layer in layers.values():
            layer.requires_grad_(False)
            layer.input_theta.requires_grad_(True)
        lowest = min(targets.values())
        for bits in range(max(self.start, lowest), lowest - 1, -1):
            for name, layer in layers.items():
                width = max(bits, targets[name])
                if layer.a_bits != width:
                    grid = Grid(width, layer.layer.activation.symmetric)
                    layer.set_input_grid(width, *lp_search_2d(inputs[name].reshape(1, -1), grid))
            steps = [layer.input_theta for layer in layers.values()]
            ends = BetterEnd(module, data, steps)
            optimizer = torch.optim.Adam(steps, lr=self.step_lr)
            optimise_width(
                Width("activations", block, bits),
                module,
                data,
                optimizer,
                batches,
                self.detector(),
                lambda: activation_perturbation(layers, inputs),
                lambda iteration: None,
                trace,
            )
            trace[-1]["restored"] = ends.choose()


@torch.no_grad()
def observe_inputs(module: nn.Module, layers: dict[str, TunableLayer], data: BlockData) -> dict[str, Tensor]:
    """The inputs of a block's layers on a few samples, before quantization; layers that do not run are left out."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for name, layer in layers.items():

        def keep(_module: nn.Module, args: tuple[Any, ...], _name: str = name) -> None:
            seen[_name] = args[0].detach()

        hooks.append(layer.register_forward_pre_hook(keep))
    data.call(module, even_sample(data))
    for hook in hooks:
        hook.remove()
    return seen


def activation_perturbation(layers: dict[str, TunableLayer], inputs: dict[str, Tensor]) -> Tensor:
    """P = |Q(x) - x|^2 / |x|^2 over the observed inputs, averaged over the block's layers."""
    parts = []
    for name, layer in layers.items():
        x = inputs[name][:8]
        parts.append((layer.quantized_input(x) - x).square().sum() / x.square().sum().clamp(min=1e-12))
    return torch.stack(parts).mean()
