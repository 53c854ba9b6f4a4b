"""The method `ptqd`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pqbench.contracts import Method, Precision
from pqbench_ptqd.correction import PTQD_BIBTEX


@dataclass(frozen=True)
class Ptqd(Method):
    """Block reconstruction with ends at 8 bits, and the prediction corrected step by step."""

    name: ClassVar[str] = "ptqd"
    summary: ClassVar[str] = "block reconstruction, then correlated noise and bias undone (PTQD)"
    references: ClassVar[tuple[str, ...]] = (PTQD_BIBTEX,)
    deviations: ClassVar[tuple[str, ...]] = (
        "Published at W4A8 and with mixed activation bits; the default here is W4A4, the precision that the benchmark "
        "compares at.",
        "Weights have one scale an output channel; the released code has one a layer.",
        "Activation bits do not change from step to step (the paper's step-aware mixed precision).",
        "The first and the last layer have 8 bits and are reconstructed; the released code also keeps the second "
        "module at 8 bits, reconstructs none of the three, and does not quantize the last output.",
        "Shortcuts and down-sampling are quantized like the rest; the released code leaves them in full precision.",
    )
    precision: ClassVar[Precision] = Precision(4, 4)
    calibration: ClassVar[str] = "uniform"
    quantizer: ClassVar[str] = "qdiffusion"
    correction: ClassVar[str] = "ptqd"
    settings: ClassVar[Mapping[str, object]] = {
        "quantizer.split": False,
        "quantizer.attention": False,
        "quantizer.a_symmetric": False,
        "quantizer.weights": "mse",
        "quantizer.activations": "mse",
        "quantizer.end_bits": 8,
    }
