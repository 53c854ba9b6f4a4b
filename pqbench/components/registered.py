"""What loading leaves: components with their provenance, and failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pqbench.components.provenance import Provenance
from pqbench.components.sources import Source

if TYPE_CHECKING:
    from pqbench.contracts import Component, Kind

C = TypeVar("C", bound="Component", covariant=True)


@dataclass(frozen=True)
class Registered(Generic[C]):
    """A component class that passed its checks, and where it comes from."""

    kind: Kind
    component: type[C]
    provenance: Provenance

    @property
    def name(self) -> str:
        """As the component declares it; not unique across distributions."""
        return self.component.name

    @property
    def qualified_name(self) -> str:
        """`distribution:name`, which is never ambiguous."""
        return f"{self.provenance.distribution}:{self.name}"


@dataclass(frozen=True)
class Failure:
    """A plugin, or one of its components, that could not be registered, and why."""

    entry_point: str
    distribution: str
    version: str
    error: str

    @classmethod
    def of(cls, source: Source, error: str) -> Failure:
        """A failure of this source."""
        return cls(source.entry_point, source.distribution, source.version, error)

    def __str__(self) -> str:
        return f"{self.entry_point} ({f'{self.distribution} {self.version}'.strip()}): {self.error}"
