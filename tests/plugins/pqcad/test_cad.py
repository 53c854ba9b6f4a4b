"""CAD: what the student learns from whom, on which grids, and what is left when it diverges."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
import torch
from pqbench_pqcad.cad import CalibrationAssistedDistillation
from pqbench_pqcad.stratified import Stratified
from small_denoiser import SmallWorkload, calibration, context
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts import CalibrationSet, Context, Teachers
from pqbench.contracts.precision import Precision
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.merged import merged_prediction
from pqbench.diffusion.noise import initial_noise
from pqbench.distillation.guides import shared_target
from pqbench.distillation.targets import student_timesteps
from pqbench.quantization.net.layers import quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import lp_search

QUICK = {"iterations": 100, "batch": 16}


class Refuses(nn.Module):
    """A teacher that must not be asked."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("this teacher has no share in the targets")


@pytest.fixture(scope="module")
def c_dc() -> CalibrationSet:
    return Stratified(trajectories=48).sample(context())


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return make_teacher(Precision(4, 4))


@pytest.fixture(scope="module")
def students(teacher: nn.Module, c_dc: CalibrationSet) -> dict[float, nn.Module]:
    """One student that follows the quantized teacher alone, and one that follows the full-precision model alone."""
    return {lam: distill(teacher, c_dc, lam=lam) for lam in (0.0, 1.0)}


def make_teacher(precision: Precision) -> nn.Module:
    net, data = SmallWorkload().denoiser(), calibration()
    quantize_layers(net, precision, (data.x_t[:2], data.t[:2]), end_bits=8)
    calibrate_weights(net, lp_search)
    calibrate_activations(net, data, MinMax)
    return net.requires_grad_(False)


def distill(
    teacher: nn.Module,
    c_dc: CalibrationSet,
    *,
    job: Context | None = None,
    teachers: Teachers | None = None,
    **changed: Any,
) -> nn.Module:
    both = teachers or Teachers(teacher, SmallWorkload().denoiser())
    component = CalibrationAssistedDistillation(**{**QUICK, **changed})
    return component.distill(job or context(), copy.deepcopy(teacher), both, c_dc)


def targets(net: nn.Module, data: CalibrationSet) -> Tensor:
    workload = SmallWorkload()
    return merged_prediction(net, workload.schedule(), workload.timesteps(4), data.x_t, data.t)


@torch.no_grad()
def distance(net: nn.Module, target: Tensor, data: CalibrationSet) -> float:
    return float((net(data.x_t, data.t) - target).square().mean())


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_student_comes_nearer_to_the_targets_of_its_loss(c_dc: CalibrationSet, lam: float) -> None:
    # At 4 bits the rounding errors of a quantized teacher are in its targets, and its copy begins with the very same
    # ones: no other student can be as near to lam = 0. At 8 bits they do not matter.
    teacher = make_teacher(Precision(4, 8))
    quantized, full_precision = targets(teacher, c_dc), targets(SmallWorkload().denoiser(), c_dc)

    # The loss less its least value, lam (1 - lam) |eps_q - eps_fp|^2, which no student can go below.
    mixed = (1 - lam) * quantized + lam * full_precision
    student = distill(teacher, c_dc, lam=lam)
    assert distance(student, mixed, c_dc) < 0.9 * distance(teacher, mixed, c_dc)


def test_its_gradient_is_that_of_the_published_loss(teacher: nn.Module, c_dc: CalibrationSet) -> None:
    """The two targets are mixed once: same gradient, to rounding, as the weighted sum of two distances."""
    lam = 0.3
    job = context()
    guides = CalibrationAssistedDistillation(lam=lam).guides(Teachers(teacher, SmallWorkload().denoiser()), teacher, 1)
    mixed = shared_target(job, guides, c_dc.x_t, c_dc.t)
    quantized, full_precision = targets(teacher, c_dc), targets(SmallWorkload().denoiser(), c_dc)
    prediction = torch.randn_like(mixed).requires_grad_()
    (one,) = torch.autograd.grad((prediction - mixed).square().sum(), prediction)
    both = (1 - lam) * (prediction - quantized).square().sum() + lam * (prediction - full_precision).square().sum()
    (two,) = torch.autograd.grad(both, prediction)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_without_the_full_precision_share_that_model_is_never_asked(teacher: nn.Module, c_dc: CalibrationSet) -> None:
    distill(teacher, c_dc, lam=0.0, iterations=2, teachers=Teachers(teacher, Refuses()))


def test_with_the_full_precision_share_alone_the_teacher_is_never_asked(
    teacher: nn.Module, c_dc: CalibrationSet
) -> None:
    distill(teacher, c_dc, lam=1.0, iterations=2, teachers=Teachers(Refuses(), SmallWorkload().denoiser()))


def test_the_share_decides_whom_the_student_resembles(students: dict[float, nn.Module], c_dc: CalibrationSet) -> None:
    full_precision = targets(SmallWorkload().denoiser(), c_dc)
    assert distance(students[1.0], full_precision, c_dc) < distance(students[0.0], full_precision, c_dc)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_student_keeps_its_grids(teacher: nn.Module, students: dict[float, nn.Module], lam: float) -> None:
    student = students[lam]
    verify(student)
    before = {name: (layer.w_bits, layer.activation.bits) for name, layer in quantized_layers(teacher)}
    after = {name: (layer.w_bits, layer.activation.bits) for name, layer in quantized_layers(student)}
    assert after == before
    for (_, old), (_, new) in zip(quantized_layers(teacher), quantized_layers(student), strict=True):
        assert not torch.equal(old.codes, new.codes)
    assert all(not parameter.requires_grad for parameter in student.parameters())


def test_the_teachers_are_left_alone(teacher: nn.Module, c_dc: CalibrationSet) -> None:
    full_precision = SmallWorkload().denoiser().requires_grad_(False)
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in (teacher, full_precision)]
    distill(teacher, c_dc, iterations=5, teachers=Teachers(teacher, full_precision))
    for net, state in zip((teacher, full_precision), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_half_the_steps_land_nearer_to_the_full_run_than_the_teacher_with_half_its_steps(
    teacher: nn.Module, c_dc: CalibrationSet
) -> None:
    workload = SmallWorkload()
    noise = initial_noise(11, range(32), workload.shape, "held out")
    goal = ddim_sample(workload.denoiser(), workload.schedule(), workload.timesteps(4), noise)
    half = student_timesteps(workload.timesteps(4))
    assert torch.equal(half, workload.timesteps(int(4 * CalibrationAssistedDistillation().step_share)))
    errors = [
        (ddim_sample(net, workload.schedule(), half, noise) - goal).square().mean()
        for net in (distill(teacher, c_dc, lam=1.0, iterations=300), teacher)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_the_seed_decides_everything(teacher: nn.Module, c_dc: CalibrationSet) -> None:
    first, again, other = (
        distill(teacher, c_dc, iterations=10, job=context(seed=seed)).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_trace_is_the_loss_curve(teacher: nn.Module, c_dc: CalibrationSet) -> None:
    job = context()
    distill(teacher, c_dc, job=job, iterations=450, batch=4)
    iterations = [row["iteration"] for row in job.trace]
    assert iterations == sorted(set(iterations))
    assert iterations[-1] == 450
    assert 200 <= len(iterations) <= 226
    assert job.trace[-1]["loss"] < job.trace[0]["loss"]


@pytest.mark.parametrize("rate", ["weight_lr", "step_lr", "other_lr"])
def test_a_student_that_diverges_fails_and_is_left_in_its_last_good_state(
    teacher: nn.Module, c_dc: CalibrationSet, rate: str
) -> None:
    student, job = copy.deepcopy(teacher), context()
    # Far out of the range that the parameter allows to users: at 1.0 this small net only wobbles.
    rates = {"weight_lr": 0.0, "step_lr": 0.0, "other_lr": 0.0, rate: 1e3}
    component = CalibrationAssistedDistillation(iterations=50, batch=16, lam=1.0, **rates)
    goal = targets(SmallWorkload().denoiser(), c_dc)
    with pytest.raises(UserError, match=r"diverged at iteration \d+ of 50 .*lower weight_lr.*last good state"):
        component.distill(job, student, Teachers(teacher, SmallWorkload().denoiser()), c_dc)
    verify(student)
    assert distance(student, goal, c_dc) <= 1.2 * distance(teacher, goal, c_dc)
    assert "diverged" in job.trace[-1]["event"]


@pytest.mark.parametrize("steps", [1, 5, 25])
def test_steps_that_cannot_be_halved_are_refused(teacher: nn.Module, c_dc: CalibrationSet, steps: int) -> None:
    with pytest.raises(UserError, match="cannot be halved"):
        distill(teacher, c_dc, job=context(steps=steps))


def test_a_calibration_set_of_another_step_count_is_refused(teacher: nn.Module) -> None:
    drawn = Stratified(trajectories=4).sample(context(steps=20))
    with pytest.raises(UserError, match=r"which the teacher's 4 steps never visit: .* draw it again for this run"):
        distill(teacher, drawn)


def test_samples_at_steps_of_the_teacher_alone_are_left_out(teacher: nn.Module) -> None:
    data = calibration()
    keep = torch.isin(data.t, student_timesteps(SmallWorkload().timesteps(4)))
    fewer = CalibrationSet(data.x_t[keep], data.t[keep], data.workload)
    first, second = (distill(teacher, drawn, iterations=5).state_dict() for drawn in (data, fewer))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_halvings_land_nearer_to_the_full_run_than_the_teacher_with_a_quarter_of_its_steps(
    teacher: nn.Module, c_dc: CalibrationSet
) -> None:
    workload, job = SmallWorkload(), context()
    noise = initial_noise(11, range(32), workload.shape, "held out")
    goal = ddim_sample(workload.denoiser(), workload.schedule(), workload.timesteps(4), noise)
    student = distill(teacher, c_dc, job=job, lam=1.0, iterations=200, halvings=2)
    assert CalibrationAssistedDistillation(halvings=2).step_share == Fraction(1, 4)
    errors = [
        (ddim_sample(net, workload.schedule(), workload.timesteps(1), noise) - goal).square().mean()
        for net in (student, teacher)
    ]
    assert errors[0] < 0.8 * errors[1]
    assert [row["iteration"] for row in job.trace if row["halving"] == 2][-1] == 200


def test_in_every_halving_the_full_precision_target_is_where_its_own_steps_land(teacher: nn.Module) -> None:
    """Two students on: four steps of the full-precision model, and two of the student before."""
    full_precision = SmallWorkload().denoiser()
    first, second = CalibrationAssistedDistillation(lam=0.5).guides(Teachers(teacher, full_precision), teacher, 2)
    assert (first.net, first.every, first.merged) == (teacher, 2, 2)
    assert (second.net, second.every, second.merged) == (full_precision, 1, 4)
