"""The contract of quantizers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSampler, CalibrationSet, Context, Precision, Quantizer, Workload
from pqbench.testing.checks.expect import expect, expect_sound_facts
from pqbench.testing.checks.leaks import no_leaked_globals
from pqbench.testing.checks.models import answer, expect_bits, expect_sound_model, same_state
from pqbench.testing.tiny import TinyWorkload


def check_quantizer(
    quantizer: Quantizer,
    *,
    workload: Workload | None = None,
    sampler: CalibrationSampler | None = None,
    precisions: Sequence[str] = ("w4a4",),
) -> None:
    """Check a quantizer on a small workload.

    W32A32 is the identity. At every other precision: claimed bits equal stored bits, the packed checkpoint brings back
    the same net, the same seed gives the same net, answers are finite, everything stays on the CPU, the calibration set
    is left as it was and nothing global changes.

    sampler      makes the calibration set (default: 16 samples, uniform in time)
    precisions   those to check, `w4a8`
    """
    expect_sound_facts(type(quantizer))
    workload = workload or TinyWorkload()
    calibration = (sampler or Uniform(samples=16)).sample(Context(workload, Precision(), workload.steps))
    _expect_identity(quantizer, workload, calibration)
    for precision in map(Precision.parse, precisions):
        net = _quantize(quantizer, workload, precision, calibration)
        expect_sound_model(net, workload)
        expect_bits(net, workload, precision)
        again = _quantize(quantizer, workload, precision, calibration)
        same = same_state(net.state_dict(), again.state_dict())
        expect(same, f"At {precision} the same seed gives two different nets: draw from context.generator alone.")


def _expect_identity(quantizer: Quantizer, workload: Workload, calibration: CalibrationSet) -> None:
    net = _quantize(quantizer, workload, Precision(), calibration)
    same = torch.equal(answer(net, workload), answer(workload.denoiser(), workload))
    expect(same, "At w32a32 its result is not the full-precision model.")


def _quantize(quantizer: Quantizer, workload: Workload, precision: Precision, calibration: CalibrationSet) -> nn.Module:
    digest, net = calibration.digest, workload.denoiser()
    with no_leaked_globals():
        quantized = quantizer.quantize(Context(workload, precision, workload.steps), net, calibration)
    expect(calibration.digest == digest, "It changed the calibration set, which other cells use as well.")
    return quantized
