"""The corrections `ptqd` and `drift`: their contract, what they undo, and that each looks where it says."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from pqbench_pqcad.drift import Drift
from pqbench_ptqd.correction import PtqdCorrection
from torch import Tensor, nn
from translated import VTiny, XTiny

from pqbench.base.errors import UserError
from pqbench.contracts import Context, Correction, Precision
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.quantization.checkpoint.io import save_checkpoint
from pqbench.quantization.correction.runs import PURPOSE
from pqbench.quantization.net.output_correction import corrected
from pqbench.testing import check_correction
from pqbench.testing.conditional import TinyLabelled
from pqbench.testing.tiny import TinyWorkload

WORKLOAD = TinyWorkload()


class Spoilt(nn.Module):
    """The full-precision model with a prediction that is too small and shifted, more so in later steps."""

    def __init__(self, net: nn.Module, gain: float, bias: float) -> None:
        super().__init__()
        self.net, self.gain, self.bias = net, gain, bias

    def forward(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        right: Tensor = self.net(x_t, t, *condition)
        return self.gain * right + self.bias


def context(steps: int = WORKLOAD.steps) -> Context:
    return Context(WORKLOAD, Precision(4, 4), steps)


def corrected_by(correction: Correction, net: nn.Module, steps: int = WORKLOAD.steps) -> tuple[nn.Module, Context]:
    made = context()
    return correction.correct(made, net, WORKLOAD.denoiser(), steps), made


@pytest.mark.parametrize("correction", [Drift(runs=4), PtqdCorrection(runs=4)])
def test_the_contract_of_corrections(correction: Correction) -> None:
    check_correction(correction)
    check_correction(correction, workload=TinyLabelled())


@pytest.mark.parametrize("correction", [Drift(runs=8, bias=True), PtqdCorrection(runs=8, negative=True, bias="rest")])
@pytest.mark.parametrize(("gain", "bias"), [(0.9, 0.0), (1.2, -0.1), (0.95, 0.2)])
def test_a_gain_and_a_bias_are_undone_so_that_images_are_those_of_full_precision(
    correction: Correction, gain: float, bias: float
) -> None:
    net, _ = corrected_by(correction, Spoilt(WORKLOAD.denoiser(), gain, bias))
    noise = initial_noise(5, range(3), WORKLOAD.shape)
    args = WORKLOAD.schedule(), WORKLOAD.timesteps(WORKLOAD.steps), noise
    torch.testing.assert_close(ddim_sample(net, *args), ddim_sample(WORKLOAD.denoiser(), *args), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("correction", [Drift(runs=8), PtqdCorrection(runs=8)])
def test_a_model_of_a_single_step_is_corrected_and_packed(correction: Correction, tmp_path: Path) -> None:
    net = correction.correct(context(), Spoilt(WORKLOAD.denoiser(), 0.9, 0.0), WORKLOAD.denoiser(), 1)
    save_checkpoint(net, tmp_path / "model.safetensors")
    made = corrected(net)
    assert made is not None
    assert made.time_steps.tolist() == WORKLOAD.timesteps(1).tolist()


def test_as_published_a_negative_correlation_is_left_and_the_whole_mean_error_is_taken_off() -> None:
    net, _ = corrected_by(PtqdCorrection(runs=8), Spoilt(WORKLOAD.denoiser(), 0.9, 0.2))
    made = corrected(net)
    assert made is not None
    assert made.gain.tolist() == [1.0] * WORKLOAD.steps
    first = int(WORKLOAD.timesteps(WORKLOAD.steps)[0])
    x = initial_noise(0, range(8), WORKLOAD.shape, PURPOSE)
    right = WORKLOAD.denoiser()(x, torch.full((8,), first)).detach()
    place = made.time_steps.tolist().index(first)
    torch.testing.assert_close(made.bias[place], (0.2 - 0.1 * right).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_a_positive_correlation_is_undone_as_published() -> None:
    net, _ = corrected_by(PtqdCorrection(runs=8), Spoilt(WORKLOAD.denoiser(), 1.1, 0.0))
    made = corrected(net)
    assert made is not None
    torch.testing.assert_close(made.gain, torch.full((WORKLOAD.steps,), 1.1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("correction", [Drift(runs=4), PtqdCorrection(runs=4, negative=True)])
def test_a_net_that_has_nothing_to_do_with_full_precision_is_refused(correction: Correction) -> None:
    with pytest.raises(UserError, match=r"At time step \d+ .* nothing to do with .*: a correction cannot mend that"):
        corrected_by(correction, Spoilt(WORKLOAD.denoiser(), -0.1, 0.0))


def test_as_published_an_unrelated_prediction_is_no_gain_either() -> None:
    net, _ = corrected_by(PtqdCorrection(runs=4), Spoilt(WORKLOAD.denoiser(), -0.1, 0.0))
    made = corrected(net)
    assert made is not None
    assert made.gain.tolist() == [1.0] * WORKLOAD.steps


@pytest.mark.parametrize("workload", [VTiny(), XTiny()], ids=lambda workload: workload.prediction)
@pytest.mark.parametrize("correction", [Drift(runs=8), PtqdCorrection(runs=8, negative=True, bias="rest")])
def test_a_gain_on_another_prediction_is_undone_too(correction: Correction, workload: TinyWorkload) -> None:
    net = correction.correct(
        Context(workload, Precision(4, 4), 4), Spoilt(workload.denoiser(), 0.9, 0.0), workload.denoiser(), 4
    )
    made = corrected(net)
    assert made is not None
    torch.testing.assert_close(made.gain, torch.full((4,), 0.9), rtol=1e-3, atol=0)


def test_steps_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="3 steps do not divide 4"):
        corrected_by(Drift(runs=2), WORKLOAD.denoiser(), 3)


def test_without_a_bias_drift_has_none() -> None:
    net, made = corrected_by(Drift(runs=4, bias=False), Spoilt(WORKLOAD.denoiser(), 0.9, 0.0))
    correction = corrected(net)
    assert correction is not None
    assert not bool(correction.bias.any())
    assert [row["time_step"] for row in made.trace] == WORKLOAD.timesteps(WORKLOAD.steps).tolist()


class TooSmallAtFirst(nn.Module):
    """Right but for the first step, where what it predicts is another thing than what full precision does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.seen.append(x_t.clone())
        right: Tensor = self.net(x_t, t)
        first = (t == WORKLOAD.timesteps(WORKLOAD.steps)[0]).view(-1, 1, 1, 1)
        return torch.where(first, right + 0.5 * right.abs(), right)


@pytest.mark.parametrize(("correction", "own"), [(Drift(runs=4), True), (PtqdCorrection(runs=4), False)])
def test_each_looks_along_the_runs_that_it_says(correction: Correction, own: bool) -> None:
    net = TooSmallAtFirst(WORKLOAD.denoiser())
    seen = net.seen
    done, _ = corrected_by(correction, net)
    looked_at = torch.stack(seen)
    follower = done if own else WORKLOAD.denoiser()
    states: list[Tensor] = []
    noise = initial_noise(0, range(4), WORKLOAD.shape, PURPOSE)
    timesteps = WORKLOAD.timesteps(WORKLOAD.steps)
    ddim_sample(follower, WORKLOAD.schedule(), timesteps, noise, lambda _, x: states.append(x.clone()))
    torch.testing.assert_close(looked_at, torch.stack(states), rtol=1e-4, atol=1e-4)


def test_a_student_with_half_the_steps_is_held_against_two_steps_of_full_precision() -> None:
    steps = WORKLOAD.steps // 2
    net, _ = corrected_by(Drift(runs=16), copy.deepcopy(WORKLOAD.denoiser()), steps)
    made = corrected(net)
    assert made is not None
    assert made.time_steps.tolist() == WORKLOAD.timesteps(WORKLOAD.steps)[::2].tolist()
    # The same net in one step does not land where it lands in two: there is something to undo.
    assert float((made.gain - 1).abs().max()) > 1e-4
