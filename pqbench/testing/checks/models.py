"""What holds for every compressed model, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.calibration.uniform import Uniform
from pqbench.contracts import Context, Precision, Workload
from pqbench.inspection.audit import audit
from pqbench.quantization.checkpoint.io import load_checkpoint, save_checkpoint
from pqbench.quantization.net.attention import quantized_operands
from pqbench.quantization.net.layers import ActivationQuantizer, quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.testing.checks.expect import expect

Bits = dict[str, tuple[int, int]]


def example(workload: Workload) -> tuple[Tensor, ...]:
    """(x_t, t, *condition): seeded noise at every time step of the workload's run."""
    t = workload.timesteps(workload.steps)
    x_t = torch.randn(len(t), *workload.shape, generator=torch.Generator().manual_seed(1))
    return x_t, t, *workload.condition(1, range(len(t)))


def round_to_nearest(workload: Workload) -> nn.Module:
    """A W4A4 model of the workload, its ends at 8 bits, for checks that need one."""
    net, calibration = workload.denoiser(), Uniform(samples=16).sample(Context(workload, Precision(), workload.steps))
    quantize_layers(net, Precision(4, 4), calibration.inputs(slice(1)), end_bits=8)
    calibrate_weights(net, minmax)
    calibrate_activations(net, calibration, MinMax)
    return net.requires_grad_(False)


@torch.no_grad()
def answer(net: nn.Module, workload: Workload) -> Tensor:
    """The net's prediction on the example."""
    prediction: Tensor = net(*example(workload))
    return prediction


def same_state(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def bits_of(net: nn.Module) -> Bits:
    """Weight and activation bits of every quantized layer."""
    return {name: (layer.w_bits, layer.activation.bits) for name, layer in quantized_layers(net)}


def grids_of(net: nn.Module) -> dict[str, tuple[object, ...]]:
    """Bits and kinds of the grids of every quantized layer and attention operand."""
    layers = {
        name: (layer.w_bits, layer.w_symmetric, layer.group_size, *_input_grid(layer.activation))
        for name, layer in quantized_layers(net)
    }
    return layers | {name: _input_grid(operand) for name, operand in quantized_operands(net)}


def _input_grid(quantizer: ActivationQuantizer) -> tuple[object, ...]:
    return (quantizer.bits, quantizer.symmetric, quantizer.dynamic, tuple(quantizer.scale.shape))


def expect_sound_model(net: nn.Module, workload: Workload) -> None:
    """Finite answers on the CPU, stored bits that are the claimed ones, and a checkpoint that brings back the net."""
    devices = {value.device.type for value in net.state_dict().values()}
    expect(devices <= {"cpu"}, f"Its result is on {', '.join(sorted(devices))}, the context's device is the CPU.")
    try:
        verify(net)
    except UserError as error:
        expect(False, f"Its claimed bits are not its stored ones: {error}")
    prediction = answer(net, workload)
    expect(prediction.shape == example(workload)[0].shape, f"Its result answers with shape {tuple(prediction.shape)}.")
    expect(bool(torch.isfinite(prediction).all()), "Its result answers with NaN or infinite values.")
    expect(torch.equal(answer(net, workload), prediction), "Its result answers differently when it is asked again.")
    _expect_round_trip(net, prediction, workload)


def expect_bits(net: nn.Module, workload: Workload, precision: Precision) -> None:
    """The stated precision is the narrowest of any layer, and what is wider is seen by the audit."""
    found = bits_of(net)
    expect(bool(found), f"At {precision} it left no quantized layer.")
    narrowest = Precision(min(w for w, _ in found.values()), min(a for _, a in found.values()))
    expect(narrowest == precision, f"At {precision} its narrowest layers are at {narrowest}.")
    wider = {name for name, (w, a) in found.items() if w > precision.w or a > precision.a}
    wider |= {name for name, operand in quantized_operands(net) if operand.grid and operand.bits > precision.a}
    seen = audit(net, example(workload), precision)
    expect(set(seen.wider_layers) == wider, f"At {precision} the audit misses wider layers: {sorted(wider)}.")


def _expect_round_trip(net: nn.Module, prediction: Tensor, workload: Workload) -> None:
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        path = Path(folder) / "model.safetensors"
        save_checkpoint(net, path)
        again = load_checkpoint(path, workload.architecture())
    expect(same_state(net.state_dict(), again.state_dict()), "Its packed checkpoint brings back another state.")
    expect(torch.equal(answer(again, workload), prediction), "Its packed checkpoint answers differently from itself.")
