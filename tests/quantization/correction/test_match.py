"""The gain and the bias between two nets' predictions, against the normal equations and against SciPy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress
from torch import Tensor

from pqbench.quantization.correction.match import match


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    gain=st.floats(0.05, 20),
    biases=st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_what_only_a_gain_and_a_bias_spoilt_is_restored(gain: float, biases: list[float], seed: int) -> None:
    expected = noise(5, len(biases), 3, 2, seed=seed).double()
    bias = torch.tensor(biases, dtype=torch.float64)
    found = gain * expected + bias.view(1, -1, 1, 1)
    fitted = match(expected, found)
    assert fitted.gain == pytest.approx(gain, rel=1e-9)
    torch.testing.assert_close(fitted.bias, bias, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fitted.undo(found), expected, rtol=1e-8, atol=1e-8)


def test_with_one_channel_it_is_the_line_of_a_linear_regression() -> None:
    expected = noise(40, 1, 4, 4)
    found = 0.9 * expected + 0.2 + 0.5 * noise(40, 1, 4, 4, seed=1)
    line = linregress(expected.double().flatten().numpy(), found.double().flatten().numpy())
    fitted = match(expected, found)
    assert fitted.gain == pytest.approx(line.slope, rel=1e-9)
    assert float(fitted.bias) == pytest.approx(line.intercept, abs=1e-9)


def test_the_residual_of_a_fit_has_no_part_of_what_was_expected_and_no_mean_in_any_channel() -> None:
    expected = noise(16, 3, 4, 4)
    found = 0.8 * expected + noise(1, 3, 1, 1, seed=1) + 0.3 * noise(16, 3, 4, 4, seed=2)
    fitted = match(expected, found)
    rest = found.double() - fitted.gain * expected.double() - fitted.bias.view(1, -1, 1, 1)
    assert rest.mean((0, 2, 3)).abs().max() < 1e-12
    assert abs(float((rest * expected.double()).sum())) < 1e-9


def test_without_a_bias_the_line_goes_through_zero() -> None:
    expected, shift = noise(8, 2, 3, 3) + 1, 0.5
    fitted = match(expected, expected + shift, bias=False)
    wanted = float((expected.double() * (expected + shift).double()).sum() / expected.double().square().sum())
    assert fitted.gain == pytest.approx(wanted, rel=1e-12)
    assert fitted.bias.tolist() == [0.0, 0.0]


def test_predictions_that_go_the_other_way_have_a_negative_gain() -> None:
    expected = noise(8, 2, 3, 3)
    assert match(expected, -2 * expected).gain == pytest.approx(-2)


def test_an_all_zero_prediction_of_full_precision_has_no_gain() -> None:
    fitted = match(torch.zeros(4, 2, 3, 3), torch.ones(4, 2, 3, 3))
    assert fitted.gain == 1
    assert fitted.bias.tolist() == [1.0, 1.0]
