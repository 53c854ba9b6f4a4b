"""The correction `ptqd`: correlated noise and bias, estimated along full-precision runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from pqbench.contracts import Context, Correction, parameter
from pqbench.quantization import Match, Runs, match

PTQD_BIBTEX = """@inproceedings{he2023ptqd,
  title     = {{PTQD}: Accurate Post-Training Quantization for Diffusion Models},
  author    = {He, Yefei and Liu, Luping and Liu, Jing and Wu, Weijia and Zhou, Hong and Zhuang, Bohan},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2023},
  eprint    = {2305.10657},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True)
class PtqdCorrection(Correction):
    """Correlated noise correction and bias correction (section 4.1 and 4.2 of the paper, as its code runs them).

    The error of a step's prediction is taken as k times the full-precision prediction plus a rest. The prediction
    becomes (prediction - mu) / (1 + k), with mu the mean error of each channel. The paper's third part, a smaller
    variance of the sampler's noise, has nothing to act on here: the sampler adds none (eta = 0).
    """

    name: ClassVar[str] = "ptqd"
    summary: ClassVar[str] = "correlated noise and bias of each step, from full-precision runs (PTQD)"
    references: ClassVar[tuple[str, ...]] = (PTQD_BIBTEX,)
    deviations: ClassVar[tuple[str, ...]] = (
        "The variance schedule calibration is left out: the sampler is deterministic (eta = 0), so it has no variance.",
        "The slope k is that of a regression with an intercept for each channel, on what the net predicts where that "
        "is not the noise.",
        "At the budget quick it is measured on 128 runs instead of 1,024.",
    )

    runs: int = parameter(1024, quick=128, help="full-precision runs that k and mu are measured on", low=2)
    negative: bool = parameter(False, help="undo a negative k too; the released code takes it as 0")
    bias: str = parameter(
        "total",
        help="mu: the mean of the whole error, as in the released code, or of its rest, as in the paper",
        choices=("total", "rest"),
    )

    def correct(self, context: Context, net: nn.Module, full_precision: nn.Module, steps: int) -> nn.Module:
        """Measure along full-precision runs.

        Raises `UserError` when a step's predictions have nothing to do with the full-precision model's.
        """
        runs = Runs(context, net, full_precision, steps, self.runs)
        return runs.correct(runs.along_full_precision(self._compare))

    def _compare(self, expected: Tensor, found: Tensor) -> Match:
        fitted = match(expected, found)
        gain = fitted.gain if self.negative else max(fitted.gain, 1.0)
        axes = [0, *range(2, expected.dim())]
        explained = gain if self.bias == "rest" else 1.0
        return Match(gain, (found.double() - explained * expected.double()).mean(axes))
