"""What both training commands write, and with what they were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pqbench.devices import graphics_card
from pqbench.errors import UserError
from pqbench.files import write_atomically


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; raises as `write_atomically` does."""
    write_atomically(path, save(dict(tensors), dict(metadata)))


def made_with(device: str) -> dict[str, str]:
    """What a file says of where it was made: the release of torch, and the card, or "CPU"."""
    return {"torch": torch.__version__, "device": graphics_card(device) or "CPU"}


def make_folder(folder: Path) -> None:
    """Make a folder for results. Raises `UserError` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made ({error.strerror}): choose another folder.") from None
