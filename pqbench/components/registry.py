"""The typed registry: from a kind and a name to a component class."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from pqbench.base.errors import UserError
from pqbench.base.text import did_you_mean
from pqbench.base.version import __version__
from pqbench.components.builtin import BUILTINS
from pqbench.components.hookspecs import HOOKS
from pqbench.components.loader import LoadResult, load
from pqbench.components.provenance import Provenance, same_distribution, source_hash
from pqbench.components.registered import Failure, Registered
from pqbench.components.sources import Source, installed_sources, is_blocked, local_sources, require_known

if TYPE_CHECKING:
    from pqbench.contracts import (
        CalibrationSampler,
        Component,
        Correction,
        Distiller,
        Engine,
        FeatureExtractor,
        ImageMetric,
        Kind,
        Method,
        Quantizer,
        Workload,
    )

OWN_DISTRIBUTION: Final = "pqbench"
NOUNS: Final[Mapping[Kind, str]] = {kind: kind for kind in HOOKS} | {"calibration": "calibration sampler"}


class Registry:
    """All components that can be named. Plugins are loaded once, when a name is not a built-in's.

    A bare name is looked up among the built-ins first; `distribution:name` says exactly which one is meant.
    """

    def __init__(
        self, sources: Callable[[], Iterable[Source]], builtins: Mapping[Kind, Mapping[str, str]] = BUILTINS
    ) -> None:
        self._sources = sources
        self._builtins = builtins
        self._loaded_builtins: dict[tuple[Kind, str], Registered[Any]] = {}

    @classmethod
    def discover(cls, folder: Path | None = None, blocked: Collection[str] = ()) -> Registry:
        """The registry of what is installed and of the `pqbench_plugins.py` in `folder` (default: the current one).

        blocked    entry points or distributions that are left out, as by `-p no:NAME`

        Raises `UserError` for a blocked name that nothing here has.
        """

        def found() -> list[Source]:
            return [*installed_sources(), *local_sources(folder or Path.cwd())]

        if blocked:
            require_known(blocked, found())
        return cls(lambda: [source for source in found() if not is_blocked(source, blocked)])

    @overload
    def find(self, kind: Literal["workload"], name: str) -> Registered[Workload]: ...
    @overload
    def find(self, kind: Literal["calibration"], name: str) -> Registered[CalibrationSampler]: ...
    @overload
    def find(self, kind: Literal["quantizer"], name: str) -> Registered[Quantizer]: ...
    @overload
    def find(self, kind: Literal["distiller"], name: str) -> Registered[Distiller]: ...
    @overload
    def find(self, kind: Literal["correction"], name: str) -> Registered[Correction]: ...
    @overload
    def find(self, kind: Literal["engine"], name: str) -> Registered[Engine]: ...
    @overload
    def find(self, kind: Literal["extractor"], name: str) -> Registered[FeatureExtractor]: ...
    @overload
    def find(self, kind: Literal["metric"], name: str) -> Registered[ImageMetric]: ...
    @overload
    def find(self, kind: Literal["method"], name: str) -> Registered[Method]: ...
    def find(self, kind: Kind, name: str) -> Registered[Any]:
        """The component of this kind and name, with its provenance.

        Raises `UserError` for an unknown name (nearest names, all names and where each comes from), for a name that two
        distributions claim, and for a built-in that cannot be imported here.
        """
        distribution, _, bare = name.rpartition(":")
        if bare in self._builtins.get(kind, {}) and distribution in ("", OWN_DISTRIBUTION):
            return self._builtin(kind, bare)
        matches = [
            entry
            for entry in self._third_party.registered
            if (entry.kind, entry.name) == (kind, bare)
            and (not distribution or same_distribution(entry.provenance.distribution, distribution))
        ]
        if len(matches) == 1:
            return matches[0]
        raise UserError(self._ambiguous(kind, name, matches) if matches else self._unknown(kind, name))

    @overload
    def get(self, kind: Literal["workload"], name: str) -> type[Workload]: ...
    @overload
    def get(self, kind: Literal["calibration"], name: str) -> type[CalibrationSampler]: ...
    @overload
    def get(self, kind: Literal["quantizer"], name: str) -> type[Quantizer]: ...
    @overload
    def get(self, kind: Literal["distiller"], name: str) -> type[Distiller]: ...
    @overload
    def get(self, kind: Literal["correction"], name: str) -> type[Correction]: ...
    @overload
    def get(self, kind: Literal["engine"], name: str) -> type[Engine]: ...
    @overload
    def get(self, kind: Literal["extractor"], name: str) -> type[FeatureExtractor]: ...
    @overload
    def get(self, kind: Literal["metric"], name: str) -> type[ImageMetric]: ...
    @overload
    def get(self, kind: Literal["method"], name: str) -> type[Method]: ...
    def get(self, kind: Any, name: str) -> type[Any]:
        """The class of this kind and name. Raises `UserError` as `find` does."""
        found: Registered[Any] = self.find(kind, name)
        return found.component

    def names(self, kind: Kind) -> dict[str, list[str]]:
        """Name -> where it comes from (`pqbench-fp 0.1.0`, `built-in`), without importing built-ins."""
        names: dict[str, list[str]] = {name: ["built-in"] for name in self._builtins.get(kind, {})}
        for entry in self._third_party.registered:
            if entry.kind == kind:
                names.setdefault(entry.name, []).append(str(entry.provenance))
        return dict(sorted(names.items()))

    def components(self) -> tuple[Registered[Component], ...]:
        """Every component, built-ins that can be imported included, by kind and name."""
        entries = list(self._third_party.registered)
        for kind, names in self._builtins.items():
            for name in names:
                try:
                    entries.append(self._builtin(kind, name))
                except UserError:
                    continue  # shown by `failures`
        kinds = list(HOOKS)
        return tuple(sorted(entries, key=lambda entry: (kinds.index(entry.kind), entry.qualified_name)))

    def failures(self) -> tuple[Failure, ...]:
        """Plugins and built-ins that could not be registered, and why."""
        failures = list(self._third_party.failures)
        for kind, names in self._builtins.items():
            for name in names:
                try:
                    self._builtin(kind, name)
                except UserError as error:
                    failures.append(Failure(name, OWN_DISTRIBUTION, __version__, str(error)))
        return tuple(failures)

    def plugin_failures(self) -> tuple[Failure, ...]:
        """`failures` without the built-ins, none of which is imported for it."""
        return tuple(self._third_party.failures)

    @cached_property
    def _third_party(self) -> LoadResult:
        return load(self._sources())

    def _builtin(self, kind: Kind, name: str) -> Registered[Any]:
        if (kind, name) not in self._loaded_builtins:
            self._loaded_builtins[kind, name] = _import_builtin(kind, name, self._builtins[kind][name])
        return self._loaded_builtins[kind, name]

    def _ambiguous(self, kind: Kind, name: str, matches: list[Registered[Component]]) -> str:
        claims = " and ".join(str(entry.provenance) for entry in matches)
        choices = " or ".join(entry.qualified_name for entry in matches)
        return f"The {NOUNS[kind]} {name!r} is claimed by {claims}: write {choices} to choose."

    def _unknown(self, kind: Kind, name: str) -> str:
        names = self.names(kind)
        hint = did_you_mean(name.lower().rpartition(":")[2], names, most=3)
        listing = ", ".join(f"{known} ({', '.join(origins)})" for known, origins in names.items()) or "none"
        failed = "; ".join(map(str, self._third_party.failures))
        broken = f" These plugins could not be loaded: {failed}" if failed else ""
        return f"There is no {NOUNS[kind]} {name!r}.{hint} There are: {listing}.{broken}"


def _import_builtin(kind: Kind, name: str, path: str) -> Registered[Any]:
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
        component = getattr(module, attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"The built-in {NOUNS[kind]} {name} cannot be imported ({error}): reinstall pqbench."
        ) from error
    # Helpers of a built-in live beside it, so its folder is its source.
    digest = source_hash([Path(str(module.__file__)).parent])
    return Registered(kind, component, Provenance(OWN_DISTRIBUTION, __version__, "built-in", digest))
