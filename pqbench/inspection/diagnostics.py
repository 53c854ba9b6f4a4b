"""Diagnostics: the error of every layer of a quantized net, step by step along full-precision denoising runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.context import ProgressCallback, silent
from pqbench.contracts.schedule import NoiseSchedule
from pqbench.diffusion.ddim import ddim_step, successors
from pqbench.diffusion.noise import initial_noise
from pqbench.inspection.diagnostics_result import Diagnosis
from pqbench.quantization.learning.block_data import first_tensor
from pqbench.quantization.net.layers import quantizable_layers

PURPOSE = "diagnosis"
"""Names the noise and the conditions of a diagnosis, which no run uses."""


@torch.no_grad()
def diagnose(
    full_precision: nn.Module,
    quantized: nn.Module,
    schedule: NoiseSchedule,
    timesteps: Tensor,
    shape: tuple[int, ...],
    *,
    title: str,
    prediction: str = "epsilon",
    images: int = 16,
    seed: int = 0,
    condition: Sequence[Tensor] = (),
    device: torch.device | str = "cpu",
    progress: ProgressCallback = silent,
) -> Diagnosis:
    """Follow the DDIM runs of the full-precision net and show each x_t to both.

    Layers are those that can be quantized, under the names of the full-precision net; one that was left in full
    precision has an error too, that of its input. A layer that runs several times in one forward has the error of all
    its outputs together. `prediction` says what the nets predict. All images go through the nets at once.

    condition   each (images, ...): what the nets are called with beside x_t and t

    Raises `UserError` when no layer has the same name in both nets, or an output is NaN or infinite.
    """
    names = [name for name, _ in quantizable_layers(full_precision) if _has(quantized, name)]
    if not names:
        raise UserError("The two nets have no layer of the same name: they are not the same model.")
    full_precision, quantized = full_precision.to(device).eval(), quantized.to(device).eval()
    x = initial_noise(seed, range(images), shape, PURPOSE).to(device)
    condition = [each.to(device) for each in condition]
    steps: list[dict[str, float]] = []
    output_errors: list[float] = []
    timesteps = timesteps.to(device)
    for k, (t, t_next) in enumerate(zip(timesteps, successors(timesteps), strict=True)):
        now, after = t.expand(images), t_next.expand(images)
        with _outputs(full_precision, names) as expected, _outputs(quantized, names) as found:
            right, answer = full_precision(x, now, *condition), quantized(x, now, *condition)
        steps.append({name: _relative_error(found[name], expected[name], name) for name in expected})
        output_errors.append(_relative_error([answer], [right], "the output"))
        x = ddim_step(schedule, x, right, now, after, prediction)
        progress(k + 1, len(timesteps), "steps of the full-precision run")
    order = list(steps[0])
    return Diagnosis(
        title=title,
        timesteps=tuple(timesteps.tolist()),
        layers=tuple(order),
        layer_errors=tuple(tuple(step[name] for step in steps) for name in order),
        output_errors=tuple(output_errors),
        images=images,
        seed=seed,
    )


def _has(net: nn.Module, name: str) -> bool:
    try:
        net.get_submodule(name)
    except AttributeError:
        return False
    return True


@contextmanager
def _outputs(net: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Everything that the named modules return meanwhile, by name, in the order of execution."""
    kept: dict[str, list[Tensor]] = {}
    hooks = []
    for name in names:

        def keep(_module: nn.Module, _args: object, output: object, _name: str = name) -> None:
            # A copy: what follows in the net may change the tensor in place.
            kept.setdefault(_name, []).append(first_tensor(output).clone())

        hooks.append(net.get_submodule(name).register_forward_hook(keep))
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _relative_error(found: Sequence[Tensor], expected: Sequence[Tensor], name: str) -> float:
    """|found - expected|^2 / |expected|^2 over all tensors, in float64; 0 / 0 is 0, and infinite where only FP is 0."""
    error = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, expected, strict=True))
    signal = sum(float(b.double().square().sum()) for b in expected)
    if error != error or error == float("inf"):
        raise UserError(f"{name} of one of the nets is NaN or infinite: the compressed model is broken.")
    if signal == 0:
        return 0.0 if error == 0 else float("inf")
    return error / signal
