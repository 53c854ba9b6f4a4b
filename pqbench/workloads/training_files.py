"""What both training commands write, and with what they were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pqbench.devices import graphics_card
from pqbench.errors import UserError


def save_atomically(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file beside `path` and rename it, so that a kill leaves the old one whole."""
    temporary = path.with_suffix(".tmp")
    save_file(dict(tensors), temporary, dict(metadata))
    temporary.replace(path)


def made_with(device: str) -> dict[str, str]:
    """What a file says of where it was made: the release of torch, and the card, or "CPU"."""
    return {"torch": torch.__version__, "device": graphics_card(device) or "CPU"}


def make_folder(folder: Path) -> None:
    """Make a folder for results. Raises `UserError` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made ({error.strerror}): choose another folder.") from None
