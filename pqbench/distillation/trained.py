"""Bases of distillers that train a student to predict targets: parameters, training, and the halving of steps."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from pqbench.contracts import CalibrationSet, Context, Distiller, Teachers, parameter
from pqbench.distillation.guides import Guide, shared_target
from pqbench.distillation.parameter_groups import parameter_groups
from pqbench.distillation.targets import student_samples, student_timesteps
from pqbench.quantization.checkpoint.io import save_checkpoint
from pqbench.quantization.learning.tuning import settle, tune
from pqbench.training.loop import TRACE_POINTS, Training, train
from pqbench.training.state import Keep
from pqbench.training.watch import DivergedError

LAST_GOOD = "last-good.safetensors"
"""The packed checkpoint of a student that diverged, as it was before."""


@dataclass(frozen=True)
class TrainedDistiller(Distiller):
    """A distiller whose student is trained on its grids; `learn` does it.

    The student is on the grids at every iteration, and so is what the packed file holds: gradients pass straight
    through the rounding to a float copy of the weights, and to the step sizes. A killed training goes on from its last
    state.
    """

    iterations: int = parameter(4000, quick=150, full=40_000, low=1, high=10_000_000, help="training iterations")
    batch: int = parameter(32, low=1, high=4096, help="samples in an iteration")
    weight_lr: float = parameter(0.02, low=0.0, high=1.0, help="learning rate of weights, in weight steps")
    step_lr: float = parameter(0.004, low=0.0, high=1.0, help="learning rate of the log step sizes")
    other_lr: float = parameter(1e-3, low=0.0, high=1.0, help="learning rate of biases and normalisation")

    def learn(
        self,
        context: Context,
        student: nn.Module,
        guides: Sequence[Guide],
        calibration: CalibrationSet,
        *,
        halving: int = 0,
        halvings: int = 0,
    ) -> nn.Module:
        """Train `student`, in place, on those samples that it visits after `halving` halvings of the context's steps.

        halvings   in all: with several, each has its own states, and its number in the trace

        Raises `UserError` when the calibration set does not fit those steps, and when the training diverges: the
        student is then left frozen in its last good state, which is also kept as a packed checkpoint in the scratch.
        """
        index = student_samples(context.timesteps(), calibration.t, halving)
        x_t, t, *condition = calibration.inputs(index, context.device)
        suffix = f"-{halving}" if halvings > 1 else ""
        target = shared_target(context, guides, x_t, t, f"targets{suffix}", condition)
        training = Training(self.iterations, self.batch, self.weight_lr, self.step_lr, self.other_lr)
        path = None if context.scratch is None else context.scratch / f"training{suffix}.safetensors"
        keep = Keep(path, context.trace, context.earlier)
        generator = context.generator(self.name if halving < 2 else f"{self.name}/{halving}")
        report = self._reporter(context, {"halving": halving} if halvings > 1 else {})
        student = student.to(context.device)
        try:
            with _tuned(student):
                groups = parameter_groups(student, training)
                train(student, groups, x_t, t, target, training, generator, report, keep, condition)
        except DivergedError as error:
            # A row must not show half a distillation as if it were the method: the cell fails, and says why.
            context.trace.append({"event": str(error)})
            raise DivergedError(f"{error}{_kept(context, student)}") from None
        return student

    def _reporter(self, context: Context, which: dict[str, int]) -> Callable[[int, float], None]:
        every = max(1, self.iterations // TRACE_POINTS)
        title = " ".join(["distillation", *(f"{name} {value}" for name, value in which.items())])

        def report(iteration: int, loss: float) -> None:
            if iteration % every == 0 or iteration == self.iterations:
                context.trace.append({**which, "iteration": iteration, "loss": round(loss, 6)})
            context.progress(iteration, self.iterations, title)

        return report


@dataclass(frozen=True)
class HalvingDistiller(TrainedDistiller):
    """A distiller whose student makes 2^halvings steps in one; each halving's student is the next one's teacher.

    The calibration set serves all halvings: each one's student learns at those of its time steps that it visits.
    """

    halvings: int = parameter(1, low=1, high=10, help="times that the steps are halved: 2 leaves a quarter of them")

    @property
    def step_share(self) -> Fraction:
        """1/2 for each halving."""
        return Fraction(1, 2**self.halvings)

    @abstractmethod
    def guides(self, teachers: Teachers, teacher: nn.Module, halving: int) -> Sequence[Guide]:
        """Whom the student of a halving (1, 2, ...) learns from.

        teacher   the net that is halved: the quantized teacher, then the student of the halving before
        """

    def distill(
        self, context: Context, student: nn.Module, teachers: Teachers, calibration: CalibrationSet
    ) -> nn.Module:
        """Halve the steps again and again. Raises `UserError` when they cannot be halved so often; see `learn`."""
        student_timesteps(context.timesteps(), self.halvings)
        teacher = teachers.quantized
        for halving in range(1, self.halvings + 1):
            guides = self.guides(teachers, teacher, halving)
            student = self.learn(context, student, guides, calibration, halving=halving, halvings=self.halvings)
            if halving < self.halvings:
                teacher = copy.deepcopy(student)
        return student


def halved_teacher(name: str, net: nn.Module, share: float, halving: int) -> Guide:
    """The net that a halving halves: two of its steps, which are those that the halvings before left."""
    return Guide(name, net, share, every=2 ** (halving - 1), merged=2)


@contextmanager
def _tuned(student: nn.Module) -> Iterator[None]:
    """Within this context the student can be trained; after it, whatever happens, it is made of integers again."""
    tune(student)
    try:
        yield
    finally:
        settle(student)


def _kept(context: Context, student: nn.Module) -> str:
    """Keep a student that diverged, and say where."""
    if context.scratch is None:
        return ""
    path = context.scratch / LAST_GOOD
    save_checkpoint(student, path)
    return f" That state is kept in {path}."
