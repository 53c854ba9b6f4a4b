"""What the commands that make a bundled workload share: files, what they were made with, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pqbench.base.devices import graphics_card
from pqbench.base.errors import UserError
from pqbench.base.files import write_atomically


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; raises as `write_atomically` does."""
    write_atomically(path, save(dict(tensors), dict(metadata)))


def made_with(device: str) -> dict[str, str]:
    """What a file says of where it was made: the release of torch, and the card, or "CPU"."""
    return {"torch": torch.__version__, "device": graphics_card(device) or "CPU"}


def exit_status(work: Callable[[], None]) -> int:
    """Do the work of a command: 0, or 1 with a `UserError` as one sentence on standard error."""
    try:
        work()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def make_folder(folder: Path) -> None:
    """Make a folder for results. Raises `UserError` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made ({error.strerror}): choose another folder.") from None
