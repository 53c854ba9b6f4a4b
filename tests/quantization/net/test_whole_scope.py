"""Everything at once: layers, attention operands and split shortcuts, through all that reads a quantized net."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers_nets import DIFFUSERS_NETS, make_diffusers_net
from mini_denoiser import Example, MiniDenoiser, freeze, make_net
from safetensors import safe_open
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.calibration import CalibrationSet
from pqbench.contracts.precision import Precision
from pqbench.distillation.parameter_groups import parameter_groups
from pqbench.inspection.audit import audit
from pqbench.quantization.checkpoint.io import load_checkpoint, read_header, save_checkpoint
from pqbench.quantization.learning.block_data import capture
from pqbench.quantization.learning.tunable_operand import TunableOperand, tunable_operands
from pqbench.quantization.learning.tuning import TunableLayer, settle, tune
from pqbench.quantization.net.attention import quantized_operands
from pqbench.quantization.net.blocks import block_names
from pqbench.quantization.net.layers import QuantizedLayer, activation_quantizers, quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.net.shortcuts import SplitLayer
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax, MovingAverage
from pqbench.quantization.ranges.rules import lp_search, minmax
from pqbench.training.loop import Training

DATA = Path(__file__).parent / "data"
PRODUCTS = {"UNet2DModel": 4, "UNet2DConditionModel": 8, "DiTTransformer2DModel": 2, "Transformer2DModel": 2}


@pytest.fixture
def images() -> Example:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(7)), torch.tensor([3, 8, 0])


def whole(kind: str, images: Example, precision: str = "w4a8", **options: object) -> nn.Module:
    """A calibrated net with everything quantized that there is."""
    net = make_diffusers_net(kind)
    settings: dict[str, object] = {"attention": True, "split_shortcuts": True, **options}
    quantize_layers(net, Precision.parse(precision), images, **settings)  # type: ignore[arg-type]
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t=images[0], t=images[1], workload="test"), MinMax, batch=2)
    return net


@pytest.mark.parametrize("kind", DIFFUSERS_NETS)
@torch.no_grad()
def test_at_eight_bits_it_answers_nearly_as_before(kind: str, images: Example) -> None:
    net, reference = whole(kind, images, "w8a8"), make_diffusers_net(kind)(*images)
    assert float((net(*images) - reference).norm() / reference.norm()) < 0.05
    assert all(int(q.zero_point) == 0 for name, q in quantized_operands(net) if name.endswith("softmax"))


@pytest.mark.parametrize("kind", DIFFUSERS_NETS)
@pytest.mark.parametrize("symmetric", [True, False])
@torch.no_grad()
def test_a_checkpoint_brings_it_back_bit_for_bit(kind: str, symmetric: bool, images: Example, tmp_path: Path) -> None:
    exempt = ["*.qk_product.k", "*resnets.0.conv_shortcut.parts.1"] if kind == "UNet2DModel" else []
    net = whole(kind, images, a_symmetric=symmetric, exempt=exempt, softmax_bits=6)
    path = tmp_path / "net.safetensors"
    save_checkpoint(net, path)
    loaded = load_checkpoint(path, DIFFUSERS_NETS[kind]().eval())
    assert torch.equal(loaded(*images), net(*images))
    before, after = net.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items())
    assert [str(q) for _, q in activation_quantizers(net)] == [str(q) for _, q in activation_quantizers(loaded)]
    verify(loaded)
    save_checkpoint(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", DIFFUSERS_NETS)
def test_blocks_are_those_of_the_net_before(kind: str, images: Example) -> None:
    net = make_diffusers_net(kind)
    before = block_names(net, lambda: net(*images))
    net = whole(kind, images)
    assert block_names(net, lambda: net(*images)) == before
    tune(net)
    assert block_names(net, lambda: net(*images)) == before
    outputs = capture(net, [], before, images).outputs
    with torch.no_grad():
        for name in before[:: max(1, len(before) // 4)]:
            arguments, fixed = capture(net, [name], [], images).inputs[name]
            positional = [value for key, value in sorted((arguments | fixed).items(), key=str) if isinstance(key, int)]
            named = {key: value for key, value in (arguments | fixed).items() if isinstance(key, str)}
            again = net.get_submodule(name)(*positional, **named)
            torch.testing.assert_close(again[0] if isinstance(again, tuple) else again, outputs[name])


def test_each_operand_gets_the_range_that_it_sees(example: Example) -> None:
    net = make_net()
    quantize_layers(net, Precision(32, 8), example, attention=True)
    calibrate_activations(net, CalibrationSet(x_t=example[0], t=example[1], workload="test"), MinMax, batch=1)
    seen: list[Tensor] = []
    reference = make_net()
    reference.attention.qkv.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        reference(*example)
    q, k, v = seen[0].double().chunk(3, -1)
    values = {"q": q, "k": k, "softmax": (q @ k.mT / 8**0.5).softmax(-1), "v": v}
    found = {name.rpartition(".")[2]: quantizer for name, quantizer in quantized_operands(net)}
    assert found.keys() == values.keys()
    for operand, value in values.items():
        ends = min(float(value.min()), 0), float(value.max())
        assert float(found[operand].scale) == pytest.approx((ends[1] - ends[0]) / 255, rel=1e-4)
        assert int(found[operand].zero_point) == round(-ends[0] * 255 / (ends[1] - ends[0]))


def test_a_searched_and_averaged_range_of_a_softmax_keeps_its_zero(example: Example) -> None:
    net = make_net()
    quantize_layers(net, Precision(4, 4), example, attention=True, softmax_bits=4)
    calibrate_weights(net, minmax)
    data = CalibrationSet(x_t=example[0], t=example[1], workload="test")
    calibrate_activations(net, data, lambda grid: MovingAverage(grid, lp_search), batch=1, quantized_prefix=True)
    verify(net)
    softmax = net.attention.sv_product.softmax
    assert (softmax.bits, int(softmax.zero_point)) == (4, 0)
    assert 0 < float(softmax.scale) < 1 / 15


def test_patterns_leave_out_operands_and_parts(images: Example) -> None:
    exempt = ["*.sv_product.softmax", "*mid_block.attentions*_product.*", "*up_blocks.1.*.conv_shortcut"]
    exempt += ["*up_blocks.0.resnets.0.conv_shortcut.parts.*", "*up_blocks.0.resnets.1.conv_shortcut.parts.1"]
    net = whole("UNet2DModel", images, exempt=exempt)
    operands = {name: quantizer.bits for name, quantizer in quantized_operands(net)}
    assert not any("mid_block" in name for name in operands)
    assert {bits for name, bits in operands.items() if name.endswith("softmax")} == {32}
    assert {bits for name, bits in operands.items() if not name.endswith("softmax")} == {8}
    splits = {name: split for name, split in net.named_modules() if isinstance(split, SplitLayer)}
    assert splits.keys() == {"net.up_blocks.0.resnets.1.conv_shortcut"}
    found = audit(net, images, Precision(4, 8))
    assert "attention operand softmax (3)" in found.full_precision_operations
    assert "Attention products (1)" in found.full_precision_operations
    shortcuts = {name for name in found.full_precision_layers if "conv_shortcut" in name}
    assert shortcuts == {
        "net.up_blocks.0.resnets.0.conv_shortcut",
        "net.up_blocks.0.resnets.1.conv_shortcut.parts.1",
        "net.up_blocks.1.resnets.0.conv_shortcut",
        "net.up_blocks.1.resnets.1.conv_shortcut",
    }


@pytest.mark.parametrize("softmax_bits", [1, 9, 16, 0])
def test_bits_that_a_softmax_cannot_have(net: MiniDenoiser, example: Example, softmax_bits: int) -> None:
    with pytest.raises(UserError, match=f"softmax_bits={softmax_bits} is not possible"):
        quantize_layers(net, Precision(4, 4), example, attention=True, softmax_bits=softmax_bits)


@pytest.mark.parametrize("kind", DIFFUSERS_NETS)
def test_the_audit_counts_attention_at_the_bits_of_its_operands(kind: str, images: Example) -> None:
    plain, net = whole(kind, images, attention=False), whole(kind, images, "w4a4")
    products = f"Attention products ({PRODUCTS[kind]})"
    assert products in audit(plain, images).full_precision_operations
    found = audit(net, images, Precision(4, 4))
    assert not any("roduct" in kind or "operand" in kind for kind in found.full_precision_operations)
    assert set(found.wider_layers.items()) == {
        (name, "a8") for name, _ in quantized_operands(net) if name.endswith("softmax")
    }
    assert 4 < found.average_activation_bits < 6
    assert audit(whole(kind, images, "w4a8"), images).average_activation_bits == 8


def test_the_average_of_activation_bits_by_hand(example: Example) -> None:
    net = make_net()
    quantize_layers(net, Precision(4, 4), example, attention=True, softmax_bits=6)
    layers = 2 * (48 + 64 * 288 + 16 * 288 + 16 * 192 + 16 * 64 + 64 * 288)
    each_product = 2 * 16 * 16 * 8
    total = layers + 2 * each_product
    expected = (4 * layers + 4 * each_product + (4 + 6) / 2 * each_product) / total
    assert audit(freeze(net), example, Precision(4, 4)).average_activation_bits == pytest.approx(expected)


class Odd(nn.Module):
    """Convolutions that cannot be quantized beside one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 1)
        self.padded = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        result: Tensor = self.up(self.padded(self.plain(x)))
        return result


def test_layers_that_cannot_be_quantized_stay_and_are_listed(images: Example) -> None:
    net = Odd()
    assert quantize_layers(net, Precision(4, 4), images) == ["plain"]
    assert audit(freeze(net), images).full_precision_layers == ("padded", "up")


class TorchsAttention(nn.Module):
    """Torch's attention module: its layers are no modules that run, and its products cannot be reached."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        tokens = self.first(x).flatten(2).mT
        result: Tensor = self.attention(tokens, tokens, tokens)[0]
        return result


def test_attention_that_cannot_be_reached_is_listed(images: Example) -> None:
    net = TorchsAttention().eval()
    assert quantize_layers(net, Precision(4, 4), images, attention=True) == ["first"]
    found = audit(freeze(net), images, Precision(4, 4))
    assert found.full_precision_operations == ("MultiheadAttention products (1)",)
    assert set(found.full_precision_layers) == {"attention.in_proj_weight", "attention.out_proj"}
    first, inside = 3 * 64 * 3 * 8, 3 * (64 * 8 * 24 + 64 * 8 * 8 + 2 * 64 * 64 * 8)
    assert found.average_activation_bits == pytest.approx((4 * first + 32 * inside) / (first + inside))


def test_patterns_of_operands_and_parts_are_known_at_every_precision(images: Example) -> None:
    exempt = ["*.sv_product.softmax", "*.conv_shortcut.parts.1"]
    for precision in ("w4a32", "w32a32"):
        net = make_diffusers_net("UNet2DModel")
        settings = {"attention": True, "split_shortcuts": True}
        quantize_layers(net, Precision.parse(precision), images, exempt=exempt, **settings)
        assert not list(quantized_operands(net))
        assert any(isinstance(module, SplitLayer) for module in net.modules()) == (precision == "w4a32")


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.ConvTranspose2d(4, 3, 3), "A ConvTranspose2d cannot be quantized, only Conv2d, Conv1d and Linear can"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "circular padding cannot be quantized"),
    ],
)
def test_a_layer_that_cannot_be_quantized_says_so_when_it_is_asked_for(layer: nn.Module, says: str) -> None:
    with pytest.raises(UserError, match=says):
        QuantizedLayer(layer, 4, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", DIFFUSERS_NETS)
@torch.no_grad()
def test_tuning_and_settling_change_nothing(kind: str, images: Example) -> None:
    net = whole(kind, images, "w4a4")
    output, before = net(*images), {name: value.clone() for name, value in net.state_dict().items()}
    tune(net)
    assert len(list(tunable_operands(net))) == 4 * PRODUCTS[kind]
    assert torch.equal(net(*images), output)
    settle(net)
    assert not any(isinstance(module, (TunableLayer, TunableOperand)) for module in net.modules())
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_step_sizes_of_operands_are_learned_and_the_zero_of_a_softmax_is_not(images: Example) -> None:
    net = whole("UNet2DModel", images, "w4a4")
    before = {name: (float(q.scale), int(q.zero_point)) for name, q in quantized_operands(net)}
    tune(net)
    training = Training(iterations=3, batch=2, weight_lr=0.0, step_lr=0.02, other_lr=0.0)
    groups = parameter_groups(net.requires_grad_(True), training)
    operands = dict(tunable_operands(net))
    for operand in operands.values():
        peaks = {id(p): group["peak"] for group in groups for p in group["params"]}  # type: ignore[attr-defined]
        assert peaks[id(operand.input_theta)] == training.step_lr
    optimizer = torch.optim.Adam([{"params": group["params"], "lr": group["peak"]} for group in groups])
    for _ in range(3):
        optimizer.zero_grad()
        net(*images).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        tuned = net(*images)
        settle(net.requires_grad_(False))
        torch.testing.assert_close(net(*images), tuned, rtol=1e-3, atol=1e-4)
    verify(net)
    for name, operand in quantized_operands(net):
        assert float(operand.scale) != before[name][0], name
        assert not name.endswith("softmax") or int(operand.zero_point) == 0


def test_an_operand_takes_the_width_that_was_set_while_tuned(example: Example) -> None:
    net = make_net()
    quantize_layers(net, Precision(8, 8), example, attention=True)
    tune(freeze(net))
    for _, operand in tunable_operands(net):
        operand.set_input_grid(3, torch.tensor([0.5]), torch.tensor([2]))
    settle(net)
    verify(net)
    assert {(q.bits, float(q.scale)) for _, q in quantized_operands(net)} == {(3, 0.5)}
    assert {name.rpartition(".")[2]: int(q.zero_point) for name, q in quantized_operands(net)} == {
        "q": 2, "k": 2, "softmax": 0, "v": 2,
    }  # fmt: skip


def test_an_operand_that_is_not_what_it_says_is_named(example: Example) -> None:
    net = make_net()
    quantize_layers(net, Precision(4, 4), example, attention=True)
    freeze(net)
    net.attention.sv_product.softmax.zero_point.fill_(3)
    with pytest.raises(
        UserError, match=r"Operand attention\.sv_product\.softmax is not at a8: its zero-point is not 0"
    ):
        verify(net)
    net.attention.sv_product.softmax.zero_point.fill_(0)
    net.attention.qk_product.k.scale.fill_(0)
    with pytest.raises(UserError, match=r"Operand attention\.qk_product\.k is not at a4: A scale"):
        verify(net)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("DiTTransformer2DModel", "no layer net.up_blocks"), ("plain", "no layer net.up_blocks")],
)
def test_a_split_of_another_architecture(kind: str, says: str, images: Example, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(whole("UNet2DModel", images), path)
    other = make_net() if kind == "plain" else make_diffusers_net(kind)
    with pytest.raises(UserError, match=f"another architecture: this one has {says}"):
        load_checkpoint(path, other)


def test_a_split_layer_of_other_channels(images: Example, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(whole("UNet2DModel", images), path)
    other = make_diffusers_net("UNet2DModel")
    other.net.up_blocks[0].resnets[0].conv_shortcut = nn.Conv2d(31, 16, 1)
    with pytest.raises(UserError, match=r"another architecture: .*conv_shortcut is a Conv2d here, a layer split into"):
        load_checkpoint(path, other)


def test_an_architecture_without_the_attention(example: Example, tmp_path: Path) -> None:
    net = make_net()
    quantize_layers(net, Precision(4, 4), example, attention=True, exempt=["attention.qkv", "attention.out"])
    save_checkpoint(freeze(net), tmp_path / "net.safetensors")
    other = make_net()
    del other.attention
    with pytest.raises(UserError, match="another architecture: this one has no attention attention"):
        load_checkpoint(tmp_path / "net.safetensors", other)


def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    """`data/version1.safetensors` was written by pqbench at d4e4c1d: w4a6, ends at w8a8, attention.out exempt."""
    old, new = DATA / "version1.safetensors", tmp_path / "new.safetensors"
    assert read_header(old).version == 1
    net = load_checkpoint(old, make_net(seed=99))
    bits = {name: (layer.w_bits, layer.activation.bits) for name, layer in quantized_layers(net)}
    assert bits == {"embed": (4, 6), "conv_out": (8, 8), "conv_in": (8, 8), "down": (4, 6), "attention.qkv": (4, 6)}
    verify(net)
    save_checkpoint(net, new, {"method": "rtn"})
    with safe_open(old, "pt") as before, safe_open(new, "pt") as after:
        assert list(before.keys()) == list(after.keys())
        assert all(torch.equal(before.get_tensor(name), after.get_tensor(name)) for name in after.keys())  # noqa: SIM118
