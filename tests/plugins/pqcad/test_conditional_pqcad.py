"""PQCAD's parts on conditional nets: C_DC under each trajectory's condition, and a student that keeps its contract."""

from __future__ import annotations

import pytest
import torch
from pqbench_pqcad.cad import CalibrationAssistedDistillation
from pqbench_pqcad.stratified import PURPOSE, Stratified

from pqbench.contracts import Context, Precision
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.testing import check_calibration_sampler, check_distiller
from pqbench.testing.conditional import TinyLabelled, TinyText
from pqbench.testing.tiny import TinyWorkload

WORKLOADS = [TinyLabelled(), TinyText()]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_each_point_comes_from_the_run_under_the_condition_beside_it(workload: TinyLabelled | TinyText) -> None:
    sampler = Stratified(trajectories=3, rho=0.0, batch=2)
    check_calibration_sampler(sampler, workload=workload)
    drawn = sampler.sample(Context(workload, Precision(), workload.steps, seed=4))
    drawn.require_fits(workload)
    for i in range(len(drawn)):
        seen: dict[int, torch.Tensor] = {}
        condition = tuple(each[i : i + 1] for each in drawn.condition)
        ddim_sample(
            workload.denoiser(), workload.schedule(), workload.timesteps(4),
            initial_noise(4, [i % 3], workload.shape, PURPOSE),
            lambda k, x, kept=seen: kept.update({int(workload.timesteps(4)[k]): x.clone()}), condition=condition,
        )  # fmt: skip
        torch.testing.assert_close(drawn.x_t[i], seen[int(drawn.t[i])][0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_a_student_of_a_conditional_teacher_keeps_its_contract(workload: TinyLabelled | TinyText) -> None:
    check_distiller(
        CalibrationAssistedDistillation(iterations=2, batch=4), workload=workload, sampler=Stratified(trajectories=4)
    )


class PredictsV(TinyWorkload):
    """The tiny workload under the claim that its net predicts v."""

    prediction = "v"


def test_the_set_says_what_its_model_predicts() -> None:
    workload = PredictsV()
    drawn = Stratified(trajectories=2).sample(Context(workload, Precision(), workload.steps))
    assert drawn.prediction == "v"
    drawn.require_fits(workload)
