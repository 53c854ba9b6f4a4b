"""The distiller `pd`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pqbench.contracts import Teachers, parameter
from pqbench.distillation import Guide, HalvingDistiller, halved_teacher

BIBTEX = """@inproceedings{salimans2022progressive,
  title     = {Progressive Distillation for Fast Sampling of Diffusion Models},
  author    = {Salimans, Tim and Ho, Jonathan},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2022},
  eprint    = {2202.00512},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True)
class ProgressiveDistillation(HalvingDistiller):
    """One student DDIM step must land where two steps of its teacher land (Algorithm 2); then the student teaches.

    The student starts from the net that it is given, on its grids: the quantized one, or the full-precision model where
    nothing was quantized (`fp[distiller=pd]`). `teacher` says whose steps the first halving merges.
    """

    name: ClassVar[str] = "pd"
    summary: ClassVar[str] = "half the steps: one step lands where two of the teacher's do (progressive distillation)"
    references: ClassVar[tuple[str, ...]] = (BIBTEX,)
    calibration: ClassVar[str] = "trajectories"
    deviations: ClassVar[tuple[str, ...]] = (
        "The student may be quantized, and then its teacher may be too; the paper distils in full precision.",
        "x_t come from FP denoising runs at the student's steps; the paper adds noise to training images, at any time.",
        "The loss is taken in the net's own prediction space: of v that is the paper's weight SNR + 1, of epsilon its "
        "weight SNR; the truncated max(SNR, 1) in x-space diverges for a net that predicts epsilon.",
        "The learning rate warms up and falls as half a cosine, in units of each layer's weight steps; the paper's "
        "falls linearly. A halving takes `iterations` updates, far fewer than the paper's by default.",
    )

    teacher: str = parameter(
        "quantized",
        help="teacher of the first halving; each later one's is the student of the halving before",
        choices=("quantized", "full_precision"),
    )

    def guides(self, teachers: Teachers, teacher: nn.Module, halving: int) -> Sequence[Guide]:
        """The one teacher of this halving."""
        if halving == 1 and self.teacher == "full_precision":
            return (halved_teacher("full-precision model", teachers.full_precision, 1.0, halving),)
        return (halved_teacher("teacher", teacher, 1.0, halving),)
