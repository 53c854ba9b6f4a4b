"""What a block is given: targets of the full-precision net, inputs of the quantized prefix, in bounded memory."""

from __future__ import annotations

import copy

import pytest
import torch
from mini_denoiser import Example, MiniDenoiser, freeze, make_net
from torch import Tensor, nn

from pqbench.contracts.precision import Precision
from pqbench.quantization.learning.block_data import BlockData, MixedBlockData, capture
from pqbench.quantization.learning.block_source import BlockSource, Mixing
from pqbench.quantization.learning.row_store import MEMORY_LIMIT, StoredRows
from pqbench.quantization.net.blocks import block_names
from pqbench.quantization.net.scope import quantize_layers

COUNT = 10
EVERYTHING = torch.arange(COUNT)


class CountingDenoiser(MiniDenoiser):
    """Counts the samples that its input layer has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.conv_in.register_forward_hook(self._count)

    def _count(self, _module: nn.Module, args: tuple[Tensor], _output: object) -> None:
        self.seen += len(args[0])


@pytest.fixture
def samples() -> Example:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(COUNT, 4, 8, 8, generator=generator), torch.randint(0, 1000, (COUNT,), generator=generator)


def source(samples: Example, memory_limit: int = MEMORY_LIMIT, batch: int = 4) -> BlockSource:
    reference = make_net()
    net = copy.deepcopy(reference)
    blocks = block_names(net, lambda: net(*samples))
    quantize_layers(net, Precision(3, 8), samples)
    return BlockSource(freeze(net), reference, blocks, *samples, memory_limit=memory_limit, batch=batch)


@pytest.mark.parametrize("memory_limit", [MEMORY_LIMIT, 20_000, 0])
def test_inputs_are_the_prefixs_and_targets_full_precisions_wherever_they_are_kept(
    samples: Example, memory_limit: int
) -> None:
    with source(samples, memory_limit) as blocks, torch.no_grad():
        expected = capture(blocks.reference, [], blocks.blocks, samples, 4).outputs
        for block in blocks.blocks:
            inputs, _ = capture(blocks.net, [block], [], samples, 4).inputs[block]
            with blocks.data(block) as data:
                assert torch.equal(data.target[EVERYTHING], expected[block])
                assert all(torch.equal(rows[EVERYTHING], inputs[key]) for key, rows in data.arguments.items())
                if memory_limit == 0:
                    assert isinstance(data.target, StoredRows)
                    assert all(isinstance(rows, StoredRows) for rows in data.arguments.values())
                assert blocks._store.in_memory <= memory_limit
                torch.testing.assert_close(data.power(), expected[block].square().mean(), rtol=1e-5, atol=0)


def test_full_inputs_make_the_reference_answer_its_targets(samples: Example) -> None:
    with source(samples) as blocks, torch.no_grad():
        for block in blocks.blocks:
            with blocks.data(block, "full") as data:
                answer = data.call(blocks.reference.get_submodule(block), EVERYTHING)
                torch.testing.assert_close(answer, data.target[EVERYTHING], rtol=1e-4, atol=1e-5)


def test_mixed_inputs_take_each_element_from_one_of_the_two(samples: Example) -> None:
    with source(samples) as blocks:
        mixing = Mixing(0.3, torch.Generator().manual_seed(0))
        with blocks.data("attention", "full") as full:
            theirs = full.arguments[0][EVERYTHING]
        with blocks.data("attention", "mixed", mixing) as data:
            own = data.arguments[0][EVERYTHING]
            mixed, again = data.rows(EVERYTHING)[0], data.rows(EVERYTHING)[0]
    differ = own != theirs
    assert bool(differ.float().mean() > 0.9)
    assert bool(((mixed == own) | (mixed == theirs)).all())
    assert float((mixed == theirs)[differ].float().mean()) == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(mixed, again)


@pytest.mark.parametrize(("share", "which"), [(0.0, "own"), (1.0, "theirs")])
def test_mixing_has_its_two_ends(share: float, which: str) -> None:
    own, theirs, steps = torch.zeros(4, 3), torch.ones(4, 3), torch.arange(4)
    data = MixedBlockData(
        {0: own, "t": steps}, {}, own, None, {0: theirs, "t": steps + 7}, share, torch.Generator().manual_seed(0)
    )
    rows = data.rows(torch.tensor([2, 1]))
    assert torch.equal(rows[0], (own if which == "own" else theirs)[:2])
    assert torch.equal(rows["t"], torch.tensor([2, 1]))  # what is no number on a scale is not mixed


def test_the_reference_runs_once_for_all_blocks_whose_data_fits(samples: Example) -> None:
    runs = {}
    for memory_limit in (MEMORY_LIMIT, 0):
        blocks = source(samples, memory_limit)
        blocks.reference = reference = CountingDenoiser().eval()
        with blocks:
            for _ in range(2):
                for block in blocks.blocks:
                    with blocks.data(block):
                        pass
        runs[memory_limit] = reference.seen
    assert runs[MEMORY_LIMIT] == COUNT + 1  # one more sample to learn how large the blocks' answers are
    assert runs[0] > 2 * COUNT * (len(blocks.blocks) - 2)


def test_leaving_frees_everything_also_on_errors(samples: Example) -> None:
    blocks = source(samples, 0)
    with pytest.raises(ZeroDivisionError), blocks, blocks.data("attention") as data:
        raise ZeroDivisionError
    assert blocks._store._held == []
    for rows in (data.target, data.arguments[0]):
        with pytest.raises(ValueError, match="closed file"):
            rows[EVERYTHING]


def test_an_interrupted_capture_leaves_no_file(samples: Example) -> None:
    class Broken(nn.Module):
        def forward(self, _x: Tensor) -> Tensor:
            raise ZeroDivisionError

    blocks = source(samples, 0)
    blocks.net.norm = Broken()
    with pytest.raises(ZeroDivisionError), blocks, blocks.data("attention"):
        pass
    assert blocks._store._held == []


def test_power_of_rows_in_a_file_is_that_of_the_tensor() -> None:
    values = torch.randn(150, 7, generator=torch.Generator().manual_seed(0))
    stored = StoredRows(values.shape, values.dtype, values.device)
    stored[0:150] = values
    expected = values.double().square().mean()
    for target in (values, stored):
        assert float(BlockData({}, {}, target).power()) == pytest.approx(float(expected), rel=1e-6)
    stored.close()
