"""The correction `drift`: the gain of every step, undone along the compressed model's own runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from pqbench.contracts import Context, Correction, parameter
from pqbench.quantization import Runs, match


@dataclass(frozen=True)
class Drift(Correction):
    """Holds the compressed model against the full-precision one where it really goes.

    Low bits, and ranges that clip, make predictions systematically small; a sampler that removes 2 % too little noise a
    step ends in grainy images. At each step of the compressed model's own runs, corrected up to there, the prediction
    that would lead to where the full-precision model goes is regressed on, and its gain is undone from then on (with
    `bias`, its mean error too). Unlike in PTQD, a gain below 1 is undone as well, and the runs are not those of the
    full-precision model: on them the errors that earlier steps leave behind are not seen.
    """

    name: ClassVar[str] = "drift"
    summary: ClassVar[str] = "undoes each step's gain against FP along the compressed model's own runs"

    runs: int = parameter(1024, quick=128, help="denoising runs that the gain is measured on", low=2)
    bias: bool = parameter(False, help="undo the mean error of each channel as well as the gain")

    def correct(self, context: Context, net: nn.Module, full_precision: nn.Module, steps: int) -> nn.Module:
        """Measure along the runs, step by step.

        Raises `UserError` when a step's predictions have nothing to do with the full-precision model's.
        """
        runs = Runs(context, net, full_precision, steps, self.runs)
        return runs.correct(runs.along_own(partial(match, bias=self.bias)))
