"""A net whose prediction is corrected: what it computes, and that the correction is a part of it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.inspection.audit import audit
from pqbench.inspection.stored_bits import audit_file
from pqbench.quantization.checkpoint.format import read_file, write_file
from pqbench.quantization.checkpoint.io import load_checkpoint, read_header, save_checkpoint
from pqbench.quantization.net.output_correction import correct_output, corrected
from pqbench.testing.checks.models import answer, round_to_nearest
from pqbench.testing.tiny import TinyWorkload

WORKLOAD = TinyWorkload()


class Echo(nn.Module):
    """Predicts what it sees."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t


def echo(time_steps: list[int] | None = None) -> nn.Module:
    steps = torch.tensor(time_steps or [900, 500, 100])
    return correct_output(Echo(), steps, torch.tensor([2.0, 4.0, 0.5]), torch.tensor([[1.0, 0.0]] * 3))


def test_each_sample_is_corrected_with_the_values_of_its_own_time_step() -> None:
    x = torch.full((3, 2, 1, 1), 9.0)
    made = echo()(x, torch.tensor([100, 900, 500]))
    assert made.flatten(1).tolist() == [[16.0, 18.0], [4.0, 4.5], [2.0, 2.25]]


def test_a_time_step_between_two_takes_the_nearer_one_and_one_number_serves_the_whole_batch() -> None:
    x = torch.full((2, 2, 1, 1), 9.0)
    assert torch.equal(echo()(x, torch.tensor([880, 720])), echo()(x, torch.tensor([900, 900])))
    assert torch.equal(echo()(x, torch.tensor(5)), echo()(x, torch.tensor([100, 100])))


def test_a_correction_of_nothing_changes_nothing() -> None:
    net, t = WORKLOAD.denoiser(), WORKLOAD.timesteps(WORKLOAD.steps)
    before = answer(net, WORKLOAD)
    correct_output(net, t, torch.ones(len(t)), torch.zeros(len(t), WORKLOAD.shape[0]))
    assert torch.equal(answer(net, WORKLOAD), before)


def corrected_net() -> nn.Module:
    net, t = round_to_nearest(WORKLOAD), WORKLOAD.timesteps(WORKLOAD.steps)
    gain, bias = torch.linspace(0.8, 1.2, len(t)), torch.linspace(-1, 1, len(t) * WORKLOAD.shape[0])
    return correct_output(net, t, gain, bias.view(len(t), -1))


def test_a_checkpoint_brings_the_correction_back_bit_for_bit(tmp_path: Path) -> None:
    net = corrected_net()
    save_checkpoint(net, tmp_path / "net.safetensors")
    again = load_checkpoint(tmp_path / "net.safetensors", WORKLOAD.architecture())
    assert torch.equal(answer(again, WORKLOAD), answer(net, WORKLOAD))
    assert not torch.equal(answer(net, WORKLOAD), answer(round_to_nearest(WORKLOAD), WORKLOAD))
    assert read_header(tmp_path / "net.safetensors").version == 3


def test_without_a_correction_files_stay_in_the_older_format(tmp_path: Path) -> None:
    save_checkpoint(round_to_nearest(WORKLOAD), tmp_path / "net.safetensors")
    assert read_header(tmp_path / "net.safetensors").version == 1


def test_a_copy_has_a_correction_of_its_own() -> None:
    net = corrected_net()
    other = copy.deepcopy(net)
    before = answer(net, WORKLOAD)
    correction = corrected(other)
    assert correction is not None
    correction.gain.mul_(2)
    assert torch.equal(answer(net, WORKLOAD), before)
    assert not torch.equal(answer(other, WORKLOAD), before)


def test_the_audit_lists_it_among_the_operations_in_floating_point() -> None:
    t = WORKLOAD.timesteps(WORKLOAD.steps)[:1]
    found = audit(corrected_net(), (torch.zeros(1, *WORKLOAD.shape), t))
    assert "OutputCorrection (1)" in found.full_precision_operations


@pytest.mark.parametrize(
    ("gain", "bias", "words"),
    [
        ([1.0], [[0.0]] * 2, "as many gains"),
        ([1.0, 1.0], [[0.0]], "a row of biases for each"),
        ([1.0, 0.0], [[0.0]] * 2, "finite and above 0"),
        ([1.0, float("nan")], [[0.0]] * 2, "finite and above 0"),
        ([1.0, 1.0], [[0.0], [float("inf")]], "finite"),
    ],
)
def test_values_that_cannot_be_are_refused(gain: list[float], bias: list[list[float]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        correct_output(Echo(), torch.tensor([9, 5]), torch.tensor(gain), torch.tensor(bias))


def test_it_is_told_the_time_by_name_as_well_and_says_so_when_it_is_not() -> None:
    x, t = torch.full((3, 2, 1, 1), 9.0), torch.tensor([100, 900, 500])
    assert torch.equal(echo()(x, t=t), echo()(x, t))
    with pytest.raises(UserError, match=r"call it as net\(x_t, t\)"):
        echo()(x_t=x, t=None)


def test_the_net_comes_back_frozen() -> None:
    net = WORKLOAD.denoiser().requires_grad_(True)
    t = WORKLOAD.timesteps(WORKLOAD.steps)
    correct_output(net, t, torch.ones(len(t)), torch.zeros(len(t), WORKLOAD.shape[0]))
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_the_audit_of_the_file_counts_it_as_no_weight(tmp_path: Path) -> None:
    net, path = corrected_net(), tmp_path / "net.safetensors"
    save_checkpoint(net, path)
    t = WORKLOAD.timesteps(WORKLOAD.steps)[:1]
    file, own = audit_file(path), audit(net, (torch.zeros(1, *WORKLOAD.shape), t))
    assert file.corrected
    assert file.average_weight_bits == pytest.approx(own.average_weight_bits, rel=1e-9)
    assert not [layer.name for layer in file.float_layers if "correction" in layer.name]
    layers = sum(layer.bytes for layer in file.layers) + sum(layer.bytes for layer in file.float_layers)
    assert layers + file.other_bytes + file.header_bytes == file.file_bytes


def test_a_file_that_lost_its_correction_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(round_to_nearest(WORKLOAD), path)
    header, tensors = read_file(path)
    write_file(path, header.model_copy(update={"corrected": True, "version": 3}), tensors)
    with pytest.raises(UserError, match="its output is corrected, and holds no"):
        load_checkpoint(path, WORKLOAD.architecture())


def test_a_second_correction_is_refused() -> None:
    with pytest.raises(UserError, match="already"):
        correct_output(echo(), torch.tensor([9]), torch.ones(1), torch.zeros(1, 2))
