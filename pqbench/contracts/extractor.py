"""Extractors by name: what turns images into features, independent of any workload."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pqbench.contracts.component import Component, Kind
from pqbench.contracts.workload import Extractor


@dataclass(frozen=True)
class Weights:
    """A file of weights, as it is published.

    file      its name in the folder of weights
    url       where it comes from
    sha256    what it must be; empty where nobody has pinned it: the hash of what was fetched is then recorded
    bytes     its size; 0: unknown
    licence   under which it is published
    """

    file: str
    url: str
    sha256: str = ""
    bytes: int = 0
    licence: str = ""


class FeatureExtractor(Component):
    """Makes an `Extractor` from a file of weights."""

    kind: ClassVar[Kind] = "extractor"

    @abstractmethod
    def weights(self) -> Weights | None:
        """The file that it needs, None when it needs none. Raises `UserError` when its parameters mean nothing."""

    @abstractmethod
    def open(self, weights: Path | None, sha256: str) -> Extractor:
        """The extractor, its net on the CPU, frozen and in evaluation mode.

        weights   the file, verified to be what `weights` describes or given by the user; None: it needs none
        sha256    of that file, empty without one

        Files are read with safetensors, with `weights_only=True` or, where their hash is pinned, as TorchScript.
        Raises `UserError` for a file that does not hold what it should.
        """
