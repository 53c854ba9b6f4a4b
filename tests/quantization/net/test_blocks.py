"""Blocks found by structure, and the data with which one is run alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers_nets import conditional_unet, dit, unet
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.precision import Precision
from pqbench.quantization.learning.block_data import BlockData, capture
from pqbench.quantization.learning.tuning import tune
from pqbench.quantization.net.blocks import block_names
from pqbench.quantization.net.layers import quantizable_layers
from pqbench.quantization.net.scope import quantize_layers

Call = Callable[[Tensor, Tensor], Tensor]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 3, 3, padding=1))

    def forward(self, x: Tensor, scale: float, *, shift: Tensor) -> tuple[Tensor, None]:
        return x + scale * self.body(x) + shift[:, None, None, None], None


class Plain(nn.Module):
    """Layers registered in another order than they run; a block called with positions, keywords, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 3, 1)
        self.residual = Residual()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Linear(2, 2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.first(x)
        h = self.act(h)
        return self.last(self.residual(h, 0.5, shift=t / 1000)[0])


NETS: dict[str, Callable[[], nn.Module]] = {
    "UNet2DModel": unet, "UNet2DConditionModel": conditional_unet, "DiTTransformer2DModel": dit, "plain": Plain,
}  # fmt: skip


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = NETS[request.param]().eval()
        for parameter in made.parameters():
            # Zero-initialised layers (DiT's) would make every output the same.
            nn.init.normal_(parameter, std=0.2)
        return made


@pytest.fixture
def example() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 9, 5, 7, 7, 3])


def blocks(net: nn.Module, example: tuple[Tensor, Tensor]) -> list[str]:
    return block_names(net, lambda: net(*example))


def executed(net: nn.Module, names: list[str], example: tuple[Tensor, Tensor]) -> list[str]:
    """`names` in the order in which they begin to run, each once."""
    order: list[str] = []
    hooks = [
        net.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.append(name)) for name in names
    ]
    with torch.no_grad():
        net(*example)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(order))


@torch.no_grad()
def test_every_layer_that_runs_is_in_exactly_one_block(net: nn.Module, example: tuple[Tensor, Tensor]) -> None:
    found = blocks(net, example)
    layers = executed(net, [name for name, _ in quantizable_layers(net)], example)
    owners = Counter(layer for layer in layers for block in found if layer == block or layer.startswith(f"{block}."))
    assert owners == Counter(layers)


def test_blocks_come_in_the_order_in_which_they_run(net: nn.Module, example: tuple[Tensor, Tensor]) -> None:
    found = blocks(net, example)
    assert found == executed(net, found, example)
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_the_blocks_are_the_residual_and_attention_blocks_and_what_is_outside(example: tuple[Tensor, Tensor]) -> None:
    net = unet()
    kinds = Counter(type(net.get_submodule(name)).__name__ for name in blocks(net, example))
    # 2 down, 3 with two shortcuts up ... counted from the architecture, not from the code under test.
    residual = sum(type(m).__name__ == "ResnetBlock2D" for m in net.modules())
    attention = sum(type(m).__name__ == "Attention" for m in net.modules())
    assert kinds == Counter(
        {"ResnetBlock2D": residual, "Attention": attention, "TimestepEmbedding": 1, "Conv2d": 4}
    )  # conv_in, conv_out, one downsampler, one upsampler


def test_a_transformer_block_falls_into_attention_and_lone_layers(example: tuple[Tensor, Tensor]) -> None:
    net = dit()
    kinds = Counter(type(net.get_submodule(name)).__name__ for name in blocks(net, example))
    assert kinds["Attention"] == 2
    assert "BasicTransformerBlock" not in kinds


def test_a_plain_net_has_its_own_blocks(example: tuple[Tensor, Tensor]) -> None:
    assert blocks(Plain(), example) == ["first", "residual", "last"]


def test_quantized_and_tuned_nets_have_the_same_blocks(net: nn.Module, example: tuple[Tensor, Tensor]) -> None:
    found = blocks(net, example)
    quantize_layers(net, Precision(4, 4), example)
    assert blocks(net, example) == found
    tune(net)
    assert blocks(net, example) == found


@pytest.mark.parametrize("batch", [6, 4])
@torch.no_grad()
def test_a_block_run_alone_answers_as_it_did_in_the_net(
    net: nn.Module, example: tuple[Tensor, Tensor], batch: int
) -> None:
    index = torch.tensor([4, 0, 5])
    found = blocks(net, example)
    outputs = capture(net, [], found, example, batch).outputs
    for name in found:
        arguments, fixed = capture(net, [name], [], example, batch).inputs[name]
        data = BlockData(arguments, fixed, outputs[name])
        assert len(data.target) == len(example[0])
        assert {len(value) for value in arguments.values()} == {len(example[0])}
        torch.testing.assert_close(data.call(net.get_submodule(name), index), data.target[index], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_outputs_are_those_of_one_pass_over_everything(net: nn.Module, example: tuple[Tensor, Tensor]) -> None:
    found = blocks(net, example)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, output: Any) -> None:
            seen[name] = (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    hooks = [net.get_submodule(name).register_forward_hook(keep(name)) for name in found]
    net(*example)
    for hook in hooks:
        hook.remove()
    for name, output in capture(net, [], found, example, 4).outputs.items():
        torch.testing.assert_close(output, seen[name], rtol=1e-4, atol=1e-5)
        assert output.is_contiguous()
    assert not any(module._forward_hooks for module in net.modules())


def test_arguments_by_position_by_name_and_constant_are_kept_apart(example: tuple[Tensor, Tensor]) -> None:
    arguments, fixed = capture(Plain(), ["residual"], [], example, 4).inputs["residual"]
    assert arguments.keys() == {0, "shift"}
    assert fixed == {1: 0.5}


class Shared(nn.Module):
    """One layer that runs twice in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


def test_a_block_that_runs_twice_is_seen_at_its_first_call(example: tuple[Tensor, Tensor]) -> None:
    net = Shared()
    arguments, fixed = capture(net, ["layer"], [], example, 4).inputs["layer"]
    data = BlockData(arguments, fixed, capture(net, [], ["layer"], example, 4).outputs["layer"])
    everything = torch.arange(len(example[0]))
    torch.testing.assert_close(data.call(net.layer, everything), data.target)
    torch.testing.assert_close(arguments[0], example[0])


class Attending(nn.Module):
    """A block that gets a tensor without a row a sample: the same for all batches, or one that follows the batch."""

    def __init__(self, follow: bool) -> None:
        super().__init__()
        self.block = Offset()
        self.follow = follow

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        offset = x.mean((0, 2, 3)) if self.follow else torch.arange(3.0)
        result: Tensor = self.block(x, (offset,))
        return result


class Offset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, offset: tuple[Tensor]) -> Tensor:
        result: Tensor = self.two(self.one(x) + offset[0].view(1, -1, 1, 1))
        return result


def test_a_constant_tensor_is_no_row_a_sample(example: tuple[Tensor, Tensor]) -> None:
    net = Attending(follow=False)
    arguments, fixed = capture(net, ["block"], [], example, 4).inputs["block"]
    assert arguments.keys() == {0}
    data = BlockData(arguments, fixed, capture(net, [], ["block"], example).outputs["block"])
    torch.testing.assert_close(data.call(net.block, torch.tensor([5])), data.target[5:])


class Tabled(nn.Module):
    """A block that gets a table by name, of as many rows as there are samples in a batch."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.block = Mixed()
        self.register_buffer("table", torch.arange(3.0 * rows).view(rows, 3))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        result: Tensor = self.block(x, table=self.table, mask=None)
        return result


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, table: Tensor, mask: Tensor | None) -> Tensor:
        result: Tensor = self.two(self.one(x) + table.mean(0).view(1, -1, 1, 1))
        return result


@pytest.mark.parametrize("batch", [3, 6, 64])
def test_a_table_as_long_as_a_batch_is_no_row_a_sample(example: tuple[Tensor, Tensor], batch: int) -> None:
    net = Tabled(rows=min(batch, 6))
    arguments, fixed = capture(net, ["block"], [], example, batch).inputs["block"]
    assert (arguments.keys(), fixed.keys()) == ({0}, {"table", "mask"})
    data = BlockData(arguments, fixed, capture(net, [], ["block"], example).outputs["block"])
    torch.testing.assert_close(data.call(net.block, torch.tensor([5, 1])), data.target[[5, 1]])


def test_an_argument_that_varies_without_rows_is_refused(example: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match=r"Block block cannot be reconstructed: its argument 1 .*exempt='block"):
        capture(Attending(follow=True), ["block"], [], example, 4).inputs["block"]


_PERMUTED = """
import torch
from torch import Tensor, nn
from pqbench.quantization.learning.block_data import BlockData, capture

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(4, 8)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    def forward(self, x):
        return x + self.two(self.one(self.norm(x)))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
    def forward(self, x, t):
        return self.block(x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).reshape(x.shape))

torch.manual_seed(0)
net, x, t = Net(), torch.randn(6, 8, 8, 8), torch.zeros(6, dtype=torch.long)
arguments, fixed = capture(net, ["block"], [], (x, t)).inputs["block"]
assert arguments[0].is_contiguous(), arguments[0].stride()
data = BlockData(arguments, fixed, capture(net, [], ["block"], (x, t)).outputs["block"])
for _ in range(3):
    data.call(net.block, torch.randperm(6)[:4]).square().mean().backward()
print("done")
"""


def test_gradients_through_a_block_that_was_fed_permuted_strides() -> None:
    """In a process of its own: torch 2.13's CPU GroupNorm backward crashes on inputs that keep such strides."""
    done = subprocess.run([sys.executable, "-c", _PERMUTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
