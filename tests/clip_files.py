"""What the fixture of that name holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pqbench.evaluation.clip.nets import ClipNet


@dataclass(frozen=True)
class ClipFiles:
    """A small CLIP with random weights in the place of the net ViT-B-32, and its file in the folder of weights.

    net       as the table of nets has it
    weights   the file, a TorchScript as OpenAI publishes it
    """

    net: ClipNet
    weights: Path
