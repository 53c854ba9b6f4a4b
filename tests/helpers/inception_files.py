"""What the fixture of that name holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InceptionFiles:
    """One Inception of FID with seeded random weights, in the formats of the published files.

    state    as torch-fidelity and pytorch-fid publish it
    script   as StyleGAN2-ADA publishes it, under the name that clean-fid looks for
    """

    state: Path
    script: Path
