"""CLIP's two towers as open_clip builds them, on weights from a verified file: nothing goes online."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.scoring.clip.nets import ClipNet
from pqbench.scoring.clip.pixels import clip_pixels
from pqbench.scoring.extractors.files import read_state, read_torchscript

CONTEXT: Final = 77
"""Tokens that a text tower reads, its start and end among them."""
MISSING: Final = 'it needs open_clip, which is not installed: `pip install "pqbench[clip]"`'

_AT_ONCE: Final = {"cpu": 16, "cuda": 128}
_NO_WEIGHTS: Final = ("input_resolution", "context_length", "vocab_size")
"""What OpenAI's archives hold beside the weights."""


def is_installed() -> bool:
    """Whether open_clip is there; it is not imported."""
    return importlib.util.find_spec("open_clip") is not None


@dataclass(frozen=True)
class ClipEncoder:
    """Embeds images and texts; memory does not grow with their number, but for what is returned.

    net         open_clip's model, frozen and in float32
    tokenizer   its byte-pair encoding
    """

    net: Any
    tokenizer: Any
    size: int
    device: torch.device

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """(N, 1 or 3, H, W) uint8 -> (N, D) float64, of length one."""
        found = [self.net.encode_image(clip_pixels(few.to(self.device), self.size)) for few in self._few(images)]
        return _unit(torch.cat(found))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, D) float64, of length one. What lies beyond `CONTEXT` tokens is cut off."""
        tokens: Tensor = self.tokenizer(list(texts), context_length=CONTEXT)
        return _unit(torch.cat([self.net.encode_text(few.to(self.device)) for few in self._few(tokens)]))

    def is_cut(self, text: str) -> bool:
        """Whether the text has more tokens than are read."""
        return len(self.tokenizer.encode(text)) + 2 > CONTEXT

    def _few(self, rows: Tensor) -> tuple[Tensor, ...]:
        return torch.split(rows, _AT_ONCE.get(self.device.type, _AT_ONCE["cpu"]))


def open_encoder(net: ClipNet, weights: Path, device: str = "cpu") -> ClipEncoder:
    """The net with the weights of a file whose hash has been verified.

    Raises `UserError` when the file is damaged or belongs to another net.
    """
    open_clip = _open_clip()
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(net.architecture))
    try:
        model.load_state_dict(_state(weights), assign=True)
    except RuntimeError:
        raise UserError(f"{weights} does not hold the weights of CLIP {net.architecture}.") from None
    # The only tensor that no file holds: what keeps a token from those after it.
    model.attn_mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu_(1)
    model = model.to(device).eval().requires_grad_(False)
    return ClipEncoder(model, open_clip.SimpleTokenizer(context_length=CONTEXT), net.size, torch.device(device))


def _state(weights: Path) -> dict[str, Tensor]:
    """The weights in float32, by open_clip's names, which are OpenAI's."""
    is_script = weights.suffix != ".safetensors"
    held = dict(read_torchscript(weights).state_dict()) if is_script else read_state(weights)
    return {name: value.float() for name, value in held.items() if name not in _NO_WEIGHTS}


def _unit(embeddings: Tensor) -> Tensor:
    return functional.normalize(embeddings.double().cpu(), dim=1)


def _open_clip() -> Any:
    if not is_installed():
        raise UserError(f"CLIP cannot be opened: {MISSING}.")
    # open_clip imports torchvision for its transforms.
    declare_missing_operators()
    import open_clip

    return open_clip
