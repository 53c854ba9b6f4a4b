"""A diffusers net with pqbench's calling convention."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators


class DiffusersDenoiser(nn.Module):
    """Calls a diffusers net as `net(x_t, t, *condition)` and returns its prediction as a plain tensor.

    Which conditions the net takes is read from its class and configuration: text embeddings where it has cross
    attention, class labels where it has a table or a layer for them. They come in the order of its own signature.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.conditions = condition_names(net)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> DiffusersDenoiser:
        """A net of this configuration with freshly initialised weights, in evaluation mode.

        `_class_name`, as in the config.json of diffusers, names its class: `UNet2DModel` where it is left out. Raises
        `UserError` when diffusers has no such class.
        """
        declare_missing_operators()
        import diffusers

        name = str(config.get("_class_name", "UNet2DModel"))
        kind = getattr(diffusers, name, None)
        if kind is None:
            raise UserError(f"diffusers {diffusers.__version__} has no class {name}: correct _class_name or update.")
        return cls(kind(**{key: value for key, value in config.items() if not key.startswith("_")})).eval()

    def forward(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """x_t (N, C, H, W), t (N,) int64, labels (N,) int64 or embeddings (N, L, D) -> prediction, (N, C, H, W).

        Raises `UserError` for another number of conditions than the net takes.
        """
        if len(condition) != len(self.conditions):
            wanted = ", ".join(("x_t", "t", *self.conditions))
            raise UserError(
                f"The {type(self.net).__name__} was given {len(condition)} conditions beside x_t and t: call it as "
                f"net({wanted})."
            )
        named = dict(zip(self.conditions, condition, strict=True))
        prediction: Tensor = self.net(x_t, timestep=t, **named, return_dict=False)[0]
        return prediction


def condition_names(net: nn.Module) -> tuple[str, ...]:
    """The arguments of a diffusers net that hold its condition: `encoder_hidden_states`, `class_labels`, or none."""
    config: Mapping[str, object] = getattr(net, "config", {})
    has_labels = any(config.get(setting) is not None for setting in ("num_class_embeds", "class_embed_type"))
    taken = {
        "encoder_hidden_states": config.get("cross_attention_dim") is not None,
        "class_labels": has_labels or config.get("norm_type") == "ada_norm_zero",
    }
    return tuple(name for name in inspect.signature(net.forward).parameters if taken.get(name))
