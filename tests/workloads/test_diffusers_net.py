"""The wrapper of diffusers nets: conditions reach the argument that is meant for them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from pqbench.base.errors import UserError
from pqbench.workloads.diffusers_net import DiffusersDenoiser

UNET: Mapping[str, object] = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "attention_head_dim": 8,
    "norm_num_groups": 4,
}  # fmt: skip
CROSS: Mapping[str, object] = {
    **UNET, "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0",
    "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",), "cross_attention_dim": 6,
}  # fmt: skip
TRANSFORMER: Mapping[str, object] = {
    "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 3, "num_layers": 1, "norm_num_groups": 3,
}  # fmt: skip
CONFIGS: dict[str, tuple[Mapping[str, object], tuple[str, ...]]] = {
    "unconditional": (UNET, ()),
    "labels": ({**UNET, "num_class_embeds": 4}, ("class_labels",)),
    "labels by layer": ({**UNET, "class_embed_type": "timestep"}, ("class_labels",)),
    "text": (CROSS, ("encoder_hidden_states",)),
    "text and labels": ({**CROSS, "num_class_embeds": 4}, ("encoder_hidden_states", "class_labels")),
    "dit": (
        {
            **TRANSFORMER, "_class_name": "DiTTransformer2DModel", "sample_size": 8, "patch_size": 2,
            "num_embeds_ada_norm": 4,
        },
        ("class_labels",),
    ),
    "transformer": (
        {**TRANSFORMER, "_class_name": "Transformer2DModel", "cross_attention_dim": 6},
        ("encoder_hidden_states",),
    ),
    "transformer without text": ({**TRANSFORMER, "_class_name": "Transformer2DModel"}, ()),
}  # fmt: skip
VALUES = {"class_labels": torch.tensor([3, 1]), "encoder_hidden_states": torch.linspace(-2, 2, 60).view(2, 5, 6)}


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_conditions_reach_the_net_in_the_order_of_its_signature(name: str) -> None:
    config, names = CONFIGS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DiffusersDenoiser.from_config(config)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    assert (net.conditions, net.training) == (names, False)
    x_t, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([7, 900])
    values = [VALUES[each] for each in names]
    expected = net.net(x_t, timestep=t, **dict(zip(names, values, strict=True)), return_dict=False)[0]
    assert torch.equal(net(x_t, t, *values), expected)
    for place in range(len(values)):
        others = [value.flip(0) if i == place else value for i, value in enumerate(values)]
        assert not torch.allclose(net(x_t, t, *others), expected)
    for wrong in (values[1:] if values else [t], [*values, t]):
        with pytest.raises(
            UserError, match=rf"given {len(wrong)} conditions .*net\({', '.join(('x_t', 't', *names))}\)"
        ):
            net(x_t, t, *wrong)


def test_a_class_that_diffusers_does_not_have() -> None:
    with pytest.raises(UserError, match=r"diffusers .* has no class UNet3000: correct _class_name"):
        DiffusersDenoiser.from_config({"_class_name": "UNet3000"})
