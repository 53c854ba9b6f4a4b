"""Trunks of LPIPS with seeded random weights, in the format of torchvision's files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pqbench.scoring.lpips import nets
from pqbench.scoring.weights.store import file_sha256

CLASSIFIERS = {
    "alex": {"1": (4096, 9216), "4": (4096, 4096), "6": (1000, 4096)},
    "vgg": {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)},
}


def write_trunk(net: str, path: Path, seed: int = 0) -> Path:
    """A state dict with torchvision's names and shapes; of the classifier, which is not used, a zero is stored."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, each in nets.NETS[net].layers().state_dict().items():
        values = torch.randn(each.shape, generator=generator)
        fan_in = each[0].numel()
        state[f"features.{name}"] = values * (0.1 if each.dim() == 1 else (2 / fan_in) ** 0.5)
    for name, shape in CLASSIFIERS[net].items():
        state[f"classifier.{name}.weight"] = torch.zeros(1, 1).expand(shape)
        state[f"classifier.{name}.bias"] = torch.zeros(1).expand(shape[0])
    # The format from before torch 1.6, as in torchvision's file of VGG-16 from 2017.
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def pin(net: str, path: Path, patch: pytest.MonkeyPatch) -> None:
    """Have a file of `write_trunk` stand for the published one, whose name it is kept under."""
    known = nets.NETS[net]
    size = path.stat().st_size
    weights = dataclasses.replace(known.weights, url=path.as_uri(), sha256=file_sha256(path), bytes=size)
    patch.setitem(nets.NETS, net, dataclasses.replace(known, weights=weights))
