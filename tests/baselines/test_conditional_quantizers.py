"""Quantizers on nets with class labels and text embeddings: their contracts, and what reconstruction brings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conditional_nets import CONDITIONAL
from pqbench_pqcad.progressive import ProgressiveQuantizer
from pqbench_ptq4dm.quantizer import Ptq4dmQuantizer
from pqbench_qdiffusion.quantizer import QDiffusionQuantizer
from pqbench_rtn.quantizer import MinMaxQuantizer
from torch import Tensor, nn

from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSet, Context, Precision, Quantizer
from pqbench.quantization.learning.block_data import capture
from pqbench.quantization.learning.block_source import BlockSource
from pqbench.quantization.learning.reconstruction import lp_error
from pqbench.quantization.net.blocks import block_names
from pqbench.testing import check_quantizer
from pqbench.testing.conditional import TinyConditional, TinyText

QUANTIZERS = {
    "minmax": MinMaxQuantizer(),
    "minmax with tables": MinMaxQuantizer(time_tables=True),
    "ptq4dm": Ptq4dmQuantizer(candidates=5),
    "qdiffusion": QDiffusionQuantizer(iterations=2, a_iterations=2, batch=8),
    "progressive": ProgressiveQuantizer(start=4, weight_budget=2, activation_budget=2, minimum=2, batch=8, ramp=1),
}
IMPROVEMENTS: dict[str, tuple[str, Quantizer, Quantizer]] = {
    "rounding": (
        "w3a32",
        QDiffusionQuantizer(iterations=0, a_iterations=0),
        QDiffusionQuantizer(iterations=30, lr=0.05, a_iterations=0, batch=16),
    ),
    "progressive": (
        "w4a4",
        MinMaxQuantizer(),
        ProgressiveQuantizer(start=5, weight_budget=8, activation_budget=6, minimum=4, batch=16, ramp=2),
    ),
}


@pytest.fixture(params=CONDITIONAL, ids=lambda workload: workload.name)
def workload(request: pytest.FixtureRequest) -> TinyConditional:
    found: TinyConditional = request.param
    return found


def drawn(workload: TinyConditional, samples: int = 16, seed: int = 0) -> CalibrationSet:
    return Uniform(samples=samples).sample(Context(workload, Precision(), workload.steps, seed=seed))


@pytest.mark.parametrize(
    # Block by block twice over, several times: half a minute.
    "quantizer",
    [pytest.param(name, marks=[pytest.mark.slow] if name == "qdiffusion" else []) for name in QUANTIZERS],
)
def test_quantizers_keep_their_contract_on_conditional_nets(quantizer: str, workload: TinyConditional) -> None:
    """Among it: the packed checkpoint brings back a net that answers bit for bit as the quantized one."""
    check_quantizer(QUANTIZERS[quantizer], workload=workload, sampler=Uniform(samples=8))


def relative_errors(net: nn.Module, reference: nn.Module, blocks: list[str], inputs: tuple[Tensor, ...]) -> Tensor:
    """|net - reference|^2 / |reference|^2 of every block's output, each net running by itself."""
    found, wanted = (capture(each, [], blocks, inputs).outputs for each in (net, reference))
    errors = [(found[b][:] - wanted[b][:]).square().sum() / wanted[b][:].square().sum() for b in blocks]
    return torch.stack(errors)


def quantized(quantizer: Quantizer, workload: TinyConditional, precision: str, data: CalibrationSet) -> nn.Module:
    with torch.enable_grad():
        return quantizer.quantize(
            Context(workload, Precision.parse(precision), workload.steps), workload.denoiser(), data
        )


@pytest.mark.parametrize("learned", IMPROVEMENTS)
@torch.no_grad()
def test_reconstruction_lowers_the_errors_of_blocks_on_samples_it_has_not_seen(
    learned: str, workload: TinyConditional
) -> None:
    text, nearest, quantizer = IMPROVEMENTS[learned]
    calibration, held_out = drawn(workload), drawn(workload, seed=5).inputs()
    reference = workload.denoiser()
    blocks = block_names(reference, lambda: reference(*held_out))
    nets = [quantized(each, workload, text, calibration) for each in (nearest, quantizer)]
    errors = [relative_errors(net, reference, blocks, held_out) for net in nets]
    assert float(errors[1].mean()) < float(errors[0].mean())
    assert float(errors[1][-1]) < float(errors[0][-1])  # the last block's output is the net's


def objective(net: nn.Module, reference: nn.Module, blocks: list[str], inputs: tuple[Tensor, ...]) -> float:
    """What step sizes are learned by: L_2.4 errors of blocks on full-precision inputs, over their targets'; mean."""
    error, index, found = lp_error(2.4), torch.arange(len(inputs[0])), []
    with BlockSource(net, reference, blocks, *inputs) as source:
        for block in blocks:
            with source.data(block, "full") as data:
                target = data.target[index]
                answer = data.call(net.get_submodule(block), index)
                found.append(float(error(answer, target) / error(torch.zeros_like(target), target)))
    return sum(found) / len(found)


@torch.no_grad()
def test_step_sizes_lower_the_error_by_which_they_are_learned(workload: TinyConditional) -> None:
    """On samples that were not seen, and without the softmax output.

    Its step size of about 0.001 is no longer than one of Adam's steps and falls to its floor, with conditions and
    without, and attention blocks then end worse than they began.
    """
    calibration, held_out = drawn(workload), drawn(workload, seed=5).inputs()
    reference = workload.denoiser()
    blocks = block_names(reference, lambda: reference(*held_out))
    start = QDiffusionQuantizer(iterations=0, a_iterations=0, softmax_bits=32)
    learned = replace(start, a_iterations=30, a_lr=3e-3, batch=16)
    nets = [quantized(each, workload, "w32a3", calibration) for each in (start, learned)]
    before, after = (objective(net, reference, blocks, held_out) for net in nets)
    assert after < before


@torch.no_grad()
def test_blocks_are_fed_the_conditions_of_their_samples(workload: TinyConditional) -> None:
    """Run alone in another order on its captured arguments, each block answers as in a whole forward."""
    inputs, index = drawn(workload, 6).inputs(), torch.tensor([4, 0, 5])
    reference, net = workload.denoiser(), workload.denoiser()
    blocks = block_names(net, lambda: net(*inputs))
    whole = capture(reference, [], blocks, [each[index] for each in inputs]).outputs
    with BlockSource(net, reference, blocks, *inputs, batch=4) as source:
        for block in blocks:
            with source.data(block) as data:
                answer = data.call(net.get_submodule(block), index)
                torch.testing.assert_close(answer, whole[block], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cross_attention_is_a_block_that_gets_embeddings_by_name() -> None:
    workload = TinyText()
    inputs, net = drawn(workload, 6).inputs(), workload.denoiser()
    blocks = [name for name in block_names(net, lambda: net(*inputs)) if name.endswith("attn2")]
    assert len(blocks) == 3
    with BlockSource(net, workload.denoiser(), blocks, *inputs, batch=4) as source:
        for block in blocks:
            with source.data(block) as data:
                assert torch.equal(data.arguments["encoder_hidden_states"][torch.arange(6)], inputs[2])
                assert data.fixed == {"attention_mask": None}
