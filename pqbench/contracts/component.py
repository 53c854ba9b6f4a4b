"""What every plugin of every kind declares about itself."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Literal

Kind = Literal[
    "workload", "calibration", "quantizer", "distiller", "correction", "engine", "extractor", "metric", "method"
]
KINDS: tuple[Kind, ...] = (
    "workload",
    "calibration",
    "quantizer",
    "distiller",
    "correction",
    "engine",
    "extractor",
    "metric",
    "method",
)

API_VERSION = 1
"""The version of these contracts; a component that declares another one is refused at registration."""


class Component(ABC):
    """Base of all contracts. A component is a frozen dataclass whose fields are made by `parameter`.

    One without parameters may be a plain class.

    name         what users write; lower case letters, digits, `_` and `-`
    summary      one line for `pqbench plugins list`
    references   BibTeX entries of the papers it implements
    deviations   where it differs on purpose from its paper, one sentence each
    devices      where it runs
    """

    kind: ClassVar[Kind]
    name: ClassVar[str]
    summary: ClassVar[str] = ""
    api_version: ClassVar[int] = API_VERSION
    references: ClassVar[tuple[str, ...]] = ()
    deviations: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
