"""Diagnostics against runs and errors that are followed by hand in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from mini_denoiser import make_net
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.schedule import NoiseSchedule
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.inspection.diagnostics import diagnose
from pqbench.inspection.diagnostics_result import Diagnosis, snr_db

Maker = Callable[..., nn.Module]
SCHEDULE = NoiseSchedule.linear(1000, 1e-4, 5e-3)
TIMESTEPS = torch.tensor([900, 500, 100])
SHAPE = (4, 8, 8)


def diagnosed(quantized: nn.Module, **options: object) -> Diagnosis:
    return diagnose(make_net(), quantized, SCHEDULE, TIMESTEPS, SHAPE, title="trial", images=3, **options)


def visited() -> list[Tensor]:
    """What the full-precision net sees at each step."""
    seen: list[Tensor] = []
    noise = initial_noise(0, range(3), SHAPE, "diagnosis")
    ddim_sample(make_net(), SCHEDULE, TIMESTEPS, noise, lambda k, x: seen.append(x.clone()))
    return seen


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).pow(2).sum() / expected.double().pow(2).sum())


@torch.no_grad()
def test_errors_are_those_of_both_nets_on_the_full_precision_run(quantized: Maker) -> None:
    net, full = quantized("w4a4", end_bits=8), make_net()
    found = diagnosed(net)
    assert found.layers == ("embed", "conv_in", "down", "attention.qkv", "attention.out", "conv_out")
    assert found.timesteps == (900, 500, 100)
    for k, x in enumerate(visited()):
        t = TIMESTEPS[k].expand(3)
        assert found.output_errors[k] == pytest.approx(relative(net(x, t), full(x, t)))
        time = torch.sin(t[:, None] * full.frequencies)
        embeds = [each.embed(time) for each in (net, full)]
        assert found.layer_errors[0][k] == pytest.approx(relative(*embeds))
        convolved = [each.conv_in(x) for each in (net, full)]
        assert found.layer_errors[1][k] == pytest.approx(relative(*convolved))
        # The second layer sees what the quantized first ones made of their input.
        hidden = [c + e[:, :, None, None] for c, e in zip(convolved, embeds, strict=True)]
        down = [each.down(each.activation(each.norm(h))) for each, h in zip((net, full), hidden, strict=True)]
        assert found.layer_errors[2][k] == pytest.approx(relative(*down))


def test_the_net_itself_has_no_error() -> None:
    found = diagnosed(make_net())
    assert set(found.output_errors) == {0.0}
    assert {row["snr_db"] for row in found.rows()} == {math.inf}


def test_more_bits_mean_less_error(quantized: Maker) -> None:
    eight, four = diagnosed(quantized("w8a8")), diagnosed(quantized("w4a4"))
    assert all(a < b for a, b in zip(eight.output_errors, four.output_errors, strict=True))


def test_a_layer_that_was_left_out_has_the_error_of_its_input(quantized: Maker) -> None:
    found = diagnosed(quantized("w4a4", exempt=["embed", "conv_out"]))
    errors = dict(zip(found.layers, found.layer_errors, strict=True))
    assert errors["embed"] == (0.0, 0.0, 0.0)  # reads t alone
    assert min(errors["conv_out"]) > 0


def test_it_can_be_repeated_and_written(quantized: Maker) -> None:
    found = diagnosed(quantized("w4a4"))
    assert diagnosed(quantized("w4a4")) == found
    assert Diagnosis.model_validate_json(found.model_dump_json()) == found
    assert diagnosed(quantized("w4a4"), seed=1) != found
    rows = found.rows()
    assert len(rows) == 7 * 3
    assert rows[-1] == {
        "layer": "",
        "t": 100,
        "step": 2,
        "relative_error": found.output_errors[2],
        "snr_db": -10 * math.log10(found.output_errors[2]),
    }


def test_hooks_are_gone_afterwards(quantized: Maker) -> None:
    net = quantized("w4a4")
    diagnosed(net)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_broken_net_and_another_net_are_refused(quantized: Maker) -> None:
    net = quantized("w4a4")
    net.down.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match="down of one of the nets is NaN"):
        diagnosed(net)

    class Other(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    with pytest.raises(UserError, match="not the same model"):
        diagnosed(Other())


def test_decibels() -> None:
    assert snr_db(0.01) == pytest.approx(20)
    assert snr_db(1.0) == 0
    assert snr_db(0.0) == math.inf
