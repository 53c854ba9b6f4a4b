"""Stage 2 of progressive quantization: activations, with the weights frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.quantization import BlockData, Grid, TunableLayer, at_time_steps, lp_search_2d, nearest_seen
from pqbench_pqcad.better_end import BetterEnd, even_sample
from pqbench_pqcad.detector import MomentumDetector
from pqbench_pqcad.reconstruction import Width, optimise_width

_TABLE_SAMPLES = 256
"""Samples that the ranges of a table are searched on; a single range needs fewer."""
_FOLLOWED = 8
"""Samples whose perturbation the detector follows."""


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
        index = probe(data, layers)
        inputs, t = observe_inputs(module, layers, data, index), None if data.t is None else data.t[index]
        layers = {name: layer for name, layer in layers.items() if name in inputs}
        for layer in layers.values():
            layer.requires_grad_(False)
            layer.input_theta.requires_grad_(True)
        lowest = min(targets.values())
        for bits in range(max(self.start, lowest), lowest - 1, -1):
            for name, layer in layers.items():
                width = max(bits, targets[name])
                if layer.a_bits != width:
                    layer.set_input_grid(width, *searched(layer, width, inputs[name], t))
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
                lambda: activation_perturbation(module, layers, inputs, t),
                lambda iteration: None,
                trace,
            )
            trace[-1]["restored"] = ends.choose()


def probe(data: BlockData, layers: dict[str, TunableLayer]) -> Tensor:
    """Indices of the samples on which ranges are searched: more where each time step has its own."""
    tables = any(layer.input_theta.dim() for layer in layers.values())
    return even_sample(data, _TABLE_SAMPLES) if tables else even_sample(data)


@torch.no_grad()
def observe_inputs(
    module: nn.Module, layers: dict[str, TunableLayer], data: BlockData, index: Tensor
) -> dict[str, Tensor]:
    """The inputs of a block's layers on the samples `index`, before quantization; those of layers that run."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for name, layer in layers.items():

        def keep(_module: nn.Module, args: tuple[Any, ...], _name: str = name) -> None:
            seen[_name] = args[0].detach()

        hooks.append(layer.register_forward_pre_hook(keep))
    data.call(module, index)
    for hook in hooks:
        hook.remove()
    return seen


def searched(layer: TunableLayer, bits: int, x: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and zero-point of a layer's input at a width, each () or, for a table, (S,).

    x   what the layer gets on N samples
    t   (N,) their time steps

    A time step without a sample takes the values of the nearest one that has some.
    """
    grid, clock = Grid(bits, layer.layer.activation.symmetric), layer.layer.activation.clock
    if not layer.input_theta.dim() or clock is None or t is None:
        return lp_search_2d(x.reshape(1, -1), grid)
    places = torch.as_tensor(clock.places(t)).expand(len(t)).repeat_interleave(len(x) // len(t))
    found = {k: lp_search_2d(x[places == k].reshape(1, -1), grid) for k in sorted(set(places.tolist()))}
    nearest = nearest_seen(clock.time_steps, found.keys())
    return torch.cat([found[k][0] for k in nearest]), torch.cat([found[k][1] for k in nearest])


def activation_perturbation(
    module: nn.Module, layers: dict[str, TunableLayer], inputs: dict[str, Tensor], t: Tensor | None
) -> Tensor:
    """P = |Q(x) - x|^2 / |x|^2 over the first observed inputs, averaged over the block's layers."""
    parts = []
    with at_time_steps(module, None if t is None else t[:_FOLLOWED]):
        for name, layer in layers.items():
            x = inputs[name][:_FOLLOWED]
            parts.append((layer.quantized_input(x) - x).square().sum() / x.square().sum().clamp(min=1e-12))
    return torch.stack(parts).mean()
