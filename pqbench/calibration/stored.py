"""A calibration set from a file, which stands where a method names a calibration sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pqbench.base.errors import UserError
from pqbench.contracts.calibration import CalibrationSampler, CalibrationSet
from pqbench.contracts.context import Context
from pqbench.contracts.workload import Workload

SUFFIX = ".safetensors"


def is_path(name: str) -> bool:
    """Whether what stands behind `calibration=` is a file's path: it ends in .safetensors or has a slash in it."""
    return name.endswith(SUFFIX) or "/" in name


@dataclass(frozen=True)
class StoredCalibration(CalibrationSampler):
    """Hands out the set of a file, as `pqbench calibrate` writes it. It is made by `at`, not found by its name.

    digest   of the set when the method was composed: what decides results, wherever the file lies
    facts    what made the set, from the file
    """

    name: ClassVar[str] = "file"
    summary: ClassVar[str] = "a calibration set from a file"

    path: Path
    digest: str
    facts: Mapping[str, str]

    @classmethod
    def at(cls, text: str) -> StoredCalibration:
        """The set at a path, where `~` is the user's home. Raises `UserError` when no whole set is there."""
        path = Path(text).expanduser()
        found = _load(path)
        return cls(path, found.digest, found.facts)

    def require_fits(self, workload: Workload) -> None:
        """Raise `UserError`, which names the file, unless its set was drawn from this workload's model."""
        try:
            self._unchanged().require_fits(workload)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def sample(self, context: Context) -> CalibrationSet:
        """The file's set. Raises `UserError` when it is another one by now."""
        return self._unchanged()

    def _unchanged(self) -> CalibrationSet:
        found = _load(self.path)
        if found.digest != self.digest:
            raise UserError(f"{self.path} has changed since the run was planned: give the command again.")
        return found


def _load(path: Path) -> CalibrationSet:
    if not path.is_file():
        raise UserError(f"There is no calibration set at {path}: `pqbench calibrate SAMPLER -o {path}` draws one.")
    return CalibrationSet.load(path)
