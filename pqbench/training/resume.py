"""State that a killed training goes on from: one file, whole or not there, that is known to belong to the same job.

A file says what it belongs to (a digest of everything that decides the work) and carries a digest of itself, so a
truncated, changed or foreign one is noticed; the work then starts again. Writing is rationed by time: at most about
2 % of it goes into states.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pqbench.base.files import write_atomically
from pqbench.base.tensor_memory import memory_of

SECONDS_APART = 30.0
"""Between two states of one training, at least: what a kill may cost."""
COST_APART = 50.0
"""Between two states, in units of what writing the last one took: large nets keep theirs less often."""

_KEY = "pqbench-resume"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """What a state holds: tensors on the CPU, plain data, and the seconds that led to it."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    seconds: float


class ResumeFile:
    """One state, replaced as the work goes on.

    path      of the file; None: nothing is kept
    belongs   digest of everything that decides the work (see `digest_of`)
    """

    def __init__(self, path: Path | None, belongs: str) -> None:
        self.path = path
        self.belongs = belongs
        self._began = self._saved_at = time.monotonic()
        self._took = 0.0
        self._earlier = 0.0

    def due(self) -> bool:
        """Whether it is time to keep a state again."""
        wait = max(SECONDS_APART, COST_APART * self._took)
        return self.path is not None and time.monotonic() - self._saved_at >= wait

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the file. Raises `UserError` when it cannot be written, `NoSpaceError` when the disk is full."""
        if self.path is None:
            return
        started = time.monotonic()
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        spent = self._earlier + started - self._began
        text = json.dumps({"belongs": self.belongs, "seconds": spent, "facts": facts})
        write_atomically(self.path, save(kept, {_KEY: f"{digest_of(text, kept)} {text}"}))
        self._saved_at = time.monotonic()
        self._took = self._saved_at - started

    def load(self) -> Saved | None:
        """The state of the same work, or None; of a file that is damaged or belongs to other work, a line is logged."""
        if self.path is None or not self.path.exists():
            return None
        try:
            digest, text, tensors = _read(self.path)
            whole = digest == digest_of(text, tensors)
            content = json.loads(text) if whole else {}
        except (SafetensorError, OSError, ValueError):
            whole, content = False, {}
        if whole and content["belongs"] == self.belongs:
            self._earlier = content["seconds"]
            return Saved(tensors, content["facts"], self._earlier)
        why = "belongs to other work" if whole else "is truncated or damaged"
        _log.warning("%s %s: it is ignored, and this part of the work starts again.", self.path, why)
        return None


def digest_of(facts: object, tensors: Mapping[str, Tensor] | Iterable[Tensor] = ()) -> str:
    """sha256 of plain data and of tensors: their order or names, types, shapes and values."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    named = sorted(tensors.items()) if isinstance(tensors, Mapping) else list(enumerate(tensors))
    for name, tensor in named:
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(memory_of(tensor))
    return digest.hexdigest()


def _read(path: Path) -> tuple[str, str, dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        digest, _, text = (file.metadata() or {}).get(_KEY, "").partition(" ")
        # Copies: what safetensors returns is a view of the file, which is about to be replaced.
        return digest, text, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
