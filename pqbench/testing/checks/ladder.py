"""The sanity ladder as a test of a quantizer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSampler, Context, Engine, Precision, Quantizer, Workload
from pqbench.sanity import climb
from pqbench.testing.checks.expect import expect
from pqbench.testing.tiny import TinyWorkload


def check_ladder(
    quantizer: Quantizer,
    *,
    workload: Workload | None = None,
    sampler: CalibrationSampler | None = None,
    precision: str = "w4a4",
    bits: Sequence[int] = (2, 4, 8),
    images: int = 8,
    engines: Sequence[Engine] = (),
) -> None:
    """Climb the sanity ladder of a quantizer; `pqbench ladder METHOD` does the same for a method by its name.

    W32A32 is full precision, W8A8 is near it, more bits are not worse, and the packed file and the engines are the
    simulation. Raises `ContractError` that says of every rung that does not hold what was measured and what to look at.

    sampler     makes the calibration set (default: 64 samples, uniform in time)
    precision   of the model whose file and engines are checked
    """
    workload = workload or TinyWorkload()
    calibration = (sampler or Uniform(samples=64)).sample(Context(workload, Precision(), workload.steps))

    def model_at(bits: Precision) -> nn.Module:
        return quantizer.quantize(Context(workload, bits, workload.steps), workload.denoiser(), calibration)

    final = Precision.parse(precision)
    rungs = climb(model_at, workload, lambda: model_at(final), bits=bits, images=images, engines=engines)
    failed = [f"{r.checked}: {r.measured} (allowed: {r.limit}). Look at {r.look_at}." for r in rungs if not r.passed]
    expect(not failed, " ".join(failed))
