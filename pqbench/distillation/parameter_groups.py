"""What of a student is trained, and how fast: Adam's parameter groups of a net on its grids."""

from __future__ import annotations

from torch import Tensor, nn

from pqbench.quantization.learning.tunable_operand import tunable_operands
from pqbench.quantization.learning.tuning import tunable_layers
from pqbench.training.loop import Training


def parameter_groups(net: nn.Module, training: Training) -> list[dict[str, object]]:
    """Adam's parameter groups of a tuned net, each with its peak learning rate in `peak`."""
    groups: list[dict[str, object]] = []
    steps: list[nn.Parameter] = []
    zeros: list[nn.Parameter] = []
    inside: set[int] = set()
    for _, layer in tunable_layers(net):
        inside |= {id(p) for p in layer.parameters()}
        unit = float(layer.weight_step().detach().mean()) if layer.weight_grid else _unit(layer.weight)
        groups.append({"params": [layer.weight], "peak": training.weight_lr * unit})
        if layer.weight_grid is not None:
            steps.append(layer.weight_theta)
        if layer.input_grid is not None:
            steps.append(layer.input_theta)
            zeros += [] if layer.input_zero is None else [layer.input_zero]
    for _, operand in tunable_operands(net):
        inside |= {id(p) for p in operand.parameters()}
        if operand.input_grid is not None:
            steps.append(operand.input_theta)
            zeros += [] if operand.input_zero is None else [operand.input_zero]
    outside = [p for p in net.parameters() if id(p) not in inside]
    others = [p for p in outside if p.dim() < 2]
    # Layers in full precision: their weights differ in magnitude as those of the others do.
    groups += [{"params": [p], "peak": training.weight_lr * _unit(p)} for p in outside if p.dim() >= 2]
    others += [layer.bias for _, layer in tunable_layers(net) if layer.bias is not None]
    groups.append({"params": steps, "peak": training.step_lr})
    # A zero-point moves in whole codes; this rate lets it cross one in the time a step size changes by a tenth.
    groups.append({"params": zeros, "peak": training.step_lr * 10})
    groups.append({"params": others, "peak": training.other_lr})
    return [group for group in groups if group["params"]]


def _unit(weight: Tensor) -> float:
    """What stands for the step size of a weight that has none."""
    return float(weight.detach().std()) / 8
