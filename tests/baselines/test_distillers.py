"""The distillers pd, qkd and, beside them, cad: their contracts, what they learn, and what they refuse."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from pqbench_pd import ProgressiveDistillation
from pqbench_pqcad.cad import CalibrationAssistedDistillation
from pqbench_qkd import QuantizedKnowledgeDistillation
from torch import Tensor, nn
from trained_student import Scene, same

from pqbench.base.errors import UserError
from pqbench.calibration.interval import Interval
from pqbench.calibration.trajectories import Trajectories
from pqbench.components import Registry
from pqbench.components.grammar import parse_methods
from pqbench.contracts import Budget, Context, Distiller, Precision, Teachers
from pqbench.contracts.parameters import BUDGETS
from pqbench.contracts.schedule import PREDICTIONS
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.distillation.trained import LAST_GOOD
from pqbench.methods.composition import compose
from pqbench.quantization.checkpoint.io import load_checkpoint
from pqbench.quantization.net.layers import quantized_layers
from pqbench.quantization.net.verify import verify
from pqbench.testing import check_distiller

SHORT = {"iterations": 6, "batch": 4}
DISTILLERS: list[Distiller] = [
    ProgressiveDistillation(**SHORT),
    ProgressiveDistillation(**SHORT, teacher="full_precision"),
    ProgressiveDistillation(**SHORT, halvings=2),
    QuantizedKnowledgeDistillation(**SHORT),
    CalibrationAssistedDistillation(**SHORT),
    CalibrationAssistedDistillation(**SHORT, halvings=2),
]


class Refuses(nn.Module):
    """A teacher that must not be asked."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("this teacher has no share in the targets")


def images(net: nn.Module, scene: Scene, steps: int) -> Tensor:
    """What a net makes of noise that no calibration set holds."""
    workload = scene.workload
    noise = initial_noise(11, range(32), workload.shape, "held out")
    return ddim_sample(net, workload.schedule(), workload.timesteps(steps), noise, prediction=workload.prediction)


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).square().mean())


@pytest.mark.parametrize("distiller", DISTILLERS, ids=str)
def test_the_contract_of_distillers_holds(distiller: Distiller) -> None:
    check_distiller(distiller, sampler=Trajectories(runs=8))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_half_the_steps_land_nearer_to_the_full_run_than_the_teacher_with_half_its_steps(prediction: str) -> None:
    """In full precision, where the two-step target can be reached: distillation without quantization."""
    scene = Scene(prediction, bits=32, runs=64)
    student = scene.distill(ProgressiveDistillation(iterations=300, batch=32, weight_lr=0.1, other_lr=5e-3))
    goal = images(scene.workload.denoiser(), scene, 4)
    assert distance(images(student, scene, 2), goal) < 0.5 * distance(images(scene.teacher, scene, 2), goal)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_two_halvings_of_a_quantized_teacher_leave_a_quarter_of_the_steps(prediction: str) -> None:
    scene = Scene(prediction, bits=8, runs=64)
    distiller = ProgressiveDistillation(iterations=150, halvings=2)
    assert distiller.step_share == Fraction(1, 4)
    context = scene.context()
    student = scene.distill(distiller, context)
    verify(student)
    goal = images(scene.workload.denoiser(), scene, 4)
    assert distance(images(student, scene, 1), goal) < 0.8 * distance(images(scene.teacher, scene, 1), goal)
    assert [row["halving"] for row in context.trace] == sorted(row["halving"] for row in context.trace)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_matching_brings_the_student_nearer_to_full_precision_at_the_same_steps(prediction: str) -> None:
    scene = Scene(prediction, bits=4, runs=64)
    distiller = QuantizedKnowledgeDistillation(iterations=200)
    assert distiller.step_share == 1
    student = scene.distill(distiller)
    data, right = scene.calibration, scene.workload.denoiser()
    with torch.no_grad():
        errors = [distance(net(data.x_t, data.t), right(data.x_t, data.t)) for net in (student, scene.teacher)]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("distiller", DISTILLERS, ids=str)
def test_the_student_keeps_the_bits_and_kinds_of_its_grids(distiller: Distiller, tmp_path: Path) -> None:
    scene = Scene()
    student = scene.distill(distiller)
    before, after = dict(quantized_layers(scene.teacher)), dict(quantized_layers(student))
    assert before.keys() == after.keys()
    for name, layer in after.items():
        old = before[name]
        assert (layer.w_bits, layer.w_symmetric) == (old.w_bits, old.w_symmetric)
        assert (layer.activation.bits, layer.activation.symmetric) == (old.activation.bits, old.activation.symmetric)
        assert len(layer.codes.unique()) <= 2**layer.w_bits
    verify(student)
    assert not same(student, scene.teacher)


def test_the_teacher_that_was_chosen_is_the_only_one_asked() -> None:
    scene = Scene()
    for choice, teachers in (
        ("quantized", Teachers(scene.teachers().quantized, Refuses())),
        ("full_precision", Teachers(Refuses(), scene.teachers().full_precision)),
    ):
        distiller = ProgressiveDistillation(**SHORT, teacher=choice)
        student = copy.deepcopy(scene.teacher)
        verify(distiller.distill(scene.context(), student, teachers, scene.calibration))


def test_the_student_of_a_halving_teaches_the_next() -> None:
    """Two halvings are two distillations, the second with the first one's student as its teacher at half the steps."""
    scene = Scene()
    once, twice = ProgressiveDistillation(**SHORT), ProgressiveDistillation(**SHORT, halvings=2)
    student = scene.distill(once)
    (guide,) = twice.guides(scene.teachers(), student, 2)
    assert (guide.net, guide.every, guide.merged, guide.share) == (student, 2, 2, 1.0)
    by_hand = twice.learn(scene.context(), copy.deepcopy(student), [guide], scene.calibration, halving=2, halvings=2)
    assert same(scene.distill(twice), by_hand)


@pytest.mark.parametrize("steps", [1, 5, 25])
@pytest.mark.parametrize("make", [ProgressiveDistillation, CalibrationAssistedDistillation])
def test_odd_and_single_steps_are_refused(make: type[Distiller], steps: int) -> None:
    scene = Scene()
    with pytest.raises(
        UserError, match=f"{steps} sampling steps cannot be halved: give it an even number of at least 2"
    ):
        scene.distill(make(**SHORT), scene.context(steps=steps))


def test_steps_that_cannot_be_halved_so_often_are_refused_before_any_work() -> None:
    scene = Scene()
    with pytest.raises(UserError, match="4 sampling steps cannot be halved 3 times: give it a multiple of 8"):
        scene.distill(ProgressiveDistillation(**SHORT, halvings=3), scene.context(progress=_never))


def _never(done: int, total: int, message: str) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize("distiller", DISTILLERS, ids=str)
def test_a_calibration_set_of_another_step_count_is_refused(distiller: Distiller) -> None:
    scene = Scene()
    scene.calibration = Trajectories(runs=2).sample(scene.context(steps=8))
    with pytest.raises(UserError, match=r"which the teacher's 4 steps never visit.*another schedule or step count"):
        scene.distill(distiller)


def test_a_calibration_set_without_the_students_steps_is_refused() -> None:
    scene = Scene()
    scene.calibration = Interval(samples=8, every=2).sample(scene.context())
    scene.distill(ProgressiveDistillation(**SHORT))
    with pytest.raises(UserError, match="has no sample at 2 of the 4 steps that the student visits"):
        scene.distill(QuantizedKnowledgeDistillation(**SHORT))


def test_a_teacher_that_answers_with_nan_is_named() -> None:
    scene = Scene()
    scene.teacher.get_parameter("norm.bias").fill_(float("nan"))
    with pytest.raises(UserError, match=r"The teacher answers the calibration set with NaN .*: it cannot teach"):
        scene.distill(ProgressiveDistillation(**SHORT))


def test_full_precision_cannot_be_matched_with_itself() -> None:
    with pytest.raises(UserError, match="nothing to teach a student in full precision"):
        Scene(bits=32).distill(QuantizedKnowledgeDistillation(**SHORT))


@pytest.mark.parametrize("make", [ProgressiveDistillation, QuantizedKnowledgeDistillation])
def test_a_student_that_diverges_leaves_its_last_good_state(make: type[Distiller], tmp_path: Path) -> None:
    scene = Scene()
    context = scene.context(tmp_path)
    distiller = make(iterations=50, batch=8, weight_lr=1e3, step_lr=1e3, other_lr=1e3)
    with pytest.raises(UserError, match=r"diverged at iteration \d+ of 50 .*lower weight_lr") as caught:
        scene.distill(distiller, context)
    path = tmp_path / LAST_GOOD
    assert str(caught.value).endswith(f"That state is kept in {path}.")
    good = load_checkpoint(path, scene.workload.architecture())
    verify(good)
    data = scene.calibration
    with torch.no_grad():
        assert bool(torch.isfinite(good(data.x_t, data.t)).all())
    assert "diverged" in context.trace[-1]["event"]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(
    ("text", "steps", "parts"),
    [
        ("ptq4dm[distiller=pd]", 10, {"calibration", "quantizer", "distiller", "distiller_calibration"}),
        (
            "pqcad[distiller=pd,halvings=2]",
            5,
            {"calibration", "quantizer", "distiller", "distiller_calibration", "correction"},
        ),
        ("pqcad[halvings=2]", 5, {"calibration", "quantizer", "distiller", "distiller_calibration", "correction"}),
        ("rtn[distiller=qkd]", 20, {"calibration", "quantizer", "distiller", "distiller_calibration"}),
        ("fp[distiller=pd,teacher=full_precision]", 10, {"distiller", "distiller_calibration"}),
    ],
)
def test_they_compose(text: str, steps: int, parts: set[str], budget: Budget) -> None:
    (spec,) = parse_methods(text)
    composition = compose(spec, Registry.discover(), budget)
    assert composition.steps(20) == steps
    assert composition.parts().keys() == parts


def test_trajectories_are_the_runs_of_the_sampler() -> None:
    scene = Scene("v", runs=3)
    workload, data = scene.workload, scene.calibration
    seen: list[Tensor] = []
    noise = initial_noise(0, range(3), workload.shape, "calibration/trajectories")
    ddim_sample(
        workload.denoiser(), workload.schedule(), workload.timesteps(4), noise, lambda _, x: seen.append(x), "v"
    )
    assert torch.equal(data.x_t, torch.cat(seen))
    assert data.t.tolist() == workload.timesteps(4).repeat_interleave(3).tolist()
    assert (data.prediction, data.workload) == ("v", workload.fingerprint())
    again: dict[str, Any] = {"workload": workload, "precision": Precision(), "steps": 4}
    assert Trajectories(runs=3).sample(Context(**again)).digest == data.digest
    assert Trajectories(runs=3).sample(Context(**again, seed=1)).digest != data.digest
