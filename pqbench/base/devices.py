"""Where a net is, which card that is, and whether there is one."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import torch
from torch import nn

from pqbench.base.errors import UserError


def require_usable_device(device: str) -> None:
    """Raise `UserError` for a device that is unknown or that this machine lacks."""
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device {device} is not known: use cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available to this torch; use --device cpu.")


def device_of(net: nn.Module) -> torch.device:
    """The device of the first of a net's tensors; the CPU for a net without any."""
    first = next(chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def graphics_card(device: str) -> str:
    """The name of a CUDA device, `NVIDIA H100 80GB HBM3`; empty for the CPU and where there is no card."""
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return ""
    return torch.cuda.get_device_name(torch.device(device))


def card_facts(device: str) -> dict[str, str]:
    """For keys and protocols. Nothing for the CPU, whose facts are from before there were others."""
    card = graphics_card(device)
    return {"card": card} if card else {}


def driver(version: Path = Path("/sys/module/nvidia/version")) -> str:
    """The version of NVIDIA's driver; empty where it cannot be read."""
    try:
        return version.read_text().strip()
    except OSError:
        return ""
