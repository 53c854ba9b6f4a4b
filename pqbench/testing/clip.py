"""CLIP with seeded random weights, in the files that the genuine ones are published in.

For tests where nothing can be fetched: towers, tokens and file formats are the real ones, scores mean nothing.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from pqbench.base.torchvision_shim import declare_missing_operators

TINY: Final[Mapping[str, Any]] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
"""A CLIP of two layers a tower, with the whole vocabulary."""
TINY_NAME: Final = "pqbench-tiny"
TINY_SIZE: Final = 64

_HALF = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
_HALF_TOO = ("text_projection", "visual.proj")


def declare_tiny(folder: Path) -> None:
    """Make the configuration `TINY` known to open_clip, by a file in a folder."""
    path = folder / f"{TINY_NAME}.json"
    path.write_text(json.dumps(TINY))
    _open_clip().add_model_config(path)


def random_clip(architecture: str, seed: int = 0) -> Any:
    """A model of open_clip, in evaluation mode; its norms and biases are random too, so that each matters."""
    open_clip = _open_clip()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = open_clip.CLIP(**open_clip.get_model_config(architecture))
        for parameter in net.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    return net.eval().requires_grad_(False)


def published_state(net: Any) -> dict[str, Tensor]:
    """The state as OpenAI publishes it: matrices in float16, and three numbers beside the weights."""
    half = {
        f"{name}.{part}"
        for name, module in net.named_modules()
        if isinstance(module, _HALF)
        for part, _ in module.named_parameters(recurse=False)
    }
    state = {
        name: value.half() if name in half or name in _HALF_TOO else value for name, value in net.state_dict().items()
    }
    numbers = {"input_resolution": net.visual.image_size[0], "context_length": 77, "vocab_size": net.vocab_size}
    return state | {name: torch.tensor(number) for name, number in numbers.items()}


def write_torchscript(net: Any, path: Path) -> None:
    """As OpenAI publishes it: a TorchScript archive of a module with these weights."""
    root = nn.Module()
    for name, value in published_state(net).items():
        *parents, last = name.split(".")
        owner = root
        for parent in parents:
            if not hasattr(owner, parent):
                owner.add_module(parent, nn.Module())
            owner = getattr(owner, parent)
        owner.register_buffer(last, value)
    with warnings.catch_warnings():
        # TorchScript is deprecated, and what is published is TorchScript.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(root), str(path))


def write_safetensors(net: Any, path: Path) -> None:
    """As LAION publishes it."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)


def _open_clip() -> Any:
    declare_missing_operators()
    import open_clip

    return open_clip
