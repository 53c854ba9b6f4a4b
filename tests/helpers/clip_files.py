"""What the fixture of that name holds."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pqbench.contracts import Weights
from pqbench.scoring.clip.nets import NETS, ClipNet


@dataclass(frozen=True)
class ClipFiles:
    """A small CLIP with random weights in the place of the net ViT-B-32, and its file in the folder of weights.

    net       as the table of nets has it
    weights   the file, a TorchScript as OpenAI publishes it
    """

    net: ClipNet
    weights: Path


def put_in_place(weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ClipFiles:
    """A copy of the small CLIP's file in a new folder of weights, and its net in the table."""
    from pqbench.scoring.metrics import clip_score
    from pqbench.testing.clip import TINY_NAME, TINY_SIZE

    folder.mkdir()
    shutil.copy(weights, folder)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    file = Weights(weights.name, f"https://example.org/{weights.name}", sha256)
    net = ClipNet(TINY_NAME, "nobody", file, TINY_SIZE)
    monkeypatch.setattr(clip_score, "NETS", {**NETS, "ViT-B-32": net})
    monkeypatch.setenv("PQBENCH_WEIGHTS", str(folder))
    return ClipFiles(net, folder / weights.name)
