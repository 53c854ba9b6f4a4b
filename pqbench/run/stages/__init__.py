"""What each stage does: one function a stage, from input folders to an output folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pqbench.contracts.context import ProgressCallback
from pqbench.run.stage import Stage, StageName
from pqbench.run.stages.compress import calibrate, correct, distill, export, quantize
from pqbench.run.stages.images import features, reference, sample
from pqbench.run.stages.measure import parity, score, time

StageFunction = Callable[[Stage, Path, Mapping[str, Path], ProgressCallback], None]
"""(stage, output folder, input folders by role, progress)."""

STAGE_FUNCTIONS: Mapping[StageName, StageFunction] = {
    "export": export,
    "calibrate": calibrate,
    "quantize": quantize,
    "distill": distill,
    "correct": correct,
    "sample": sample,
    "features": features,
    "reference": reference,
    "score": score,
    "time": time,
    "parity": parity,
}
