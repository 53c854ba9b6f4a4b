"""The distiller `qkd`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from torch import nn

from pqbench.contracts import CalibrationSet, Context, Teachers, UserError
from pqbench.distillation import Guide, TrainedDistiller
from pqbench.quantization import quantized_layers

BIBTEX = """@inproceedings{he2024efficientdm,
  title     = {{EfficientDM}: Efficient Quantization-Aware Fine-Tuning of Low-Bit Diffusion Models},
  author    = {He, Yefei and Liu, Jing and Wu, Weijia and Zhou, Hong and Zhuang, Bohan},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2024},
  eprint    = {2310.03270},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True)
class QuantizedKnowledgeDistillation(TrainedDistiller):
    """|eps_student(x_t, t) - eps_FP(x_t, t)|^2 on the full-precision model's own trajectories; no step is saved.

    That loss, without any training data, is what EfficientDM fine-tunes a quantized denoiser with. Where the denoiser
    predicts v or x, these are matched.
    """

    name: ClassVar[str] = "qkd"
    summary: ClassVar[str] = "matches the FP model's prediction on its trajectories, at the same steps (as EfficientDM)"
    references: ClassVar[tuple[str, ...]] = (BIBTEX,)
    calibration: ClassVar[str] = "trajectories"
    step_share: ClassVar[Fraction] = Fraction(1)
    deviations: ClassVar[tuple[str, ...]] = (
        "All weights are trained, on their grids; EfficientDM trains a LoRA of rank 32 that it quantizes with them.",
        "Activations keep the parameter sets that the quantizer gave them, one for all time steps by default; "
        "EfficientDM learns a scale and a zero-point for each time step.",
        "x_t come from deterministic runs of the benchmark's sampler and are shuffled over all steps; EfficientDM goes "
        "down runs with eta = 1, step by step.",
        "Bits and exempt layers are the quantizer's; EfficientDM leaves shortcuts and down-sampling in full precision.",
    )

    def distill(
        self, context: Context, student: nn.Module, teachers: Teachers, calibration: CalibrationSet
    ) -> nn.Module:
        """Train on every sample of the set; raises `UserError` for a student that is not quantized, and see `learn`."""
        if next(quantized_layers(student), None) is None:
            raise UserError(
                f"{self.name} has nothing to teach a student in full precision, which is its own teacher: give a "
                "quantizer, or a distiller that saves steps (distiller=pd)."
            )
        guide = Guide("full-precision model", teachers.full_precision, 1.0, merged=1)
        return self.learn(context, student, [guide], calibration)
