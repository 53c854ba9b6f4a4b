"""Loading of plugins, each by itself: what is wrong with one is kept as its failure and stops nothing else.

pluggy's own loading stops at the first entry point that fails to import, drops the second of two entry points with one
name, and passes misspelt hooks; so every source gets a plugin manager of its own and is checked before it is asked.
"""

from __future__ import annotations

import difflib
import inspect
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pluggy

from pqbench.components import hookspecs
from pqbench.components.facts import problems
from pqbench.components.hookspecs import GROUP, HOOK_PREFIX, HOOKS
from pqbench.components.provenance import Provenance, package_location, source_hash
from pqbench.components.registered import Failure, Registered
from pqbench.components.sources import Source

if TYPE_CHECKING:
    from pqbench.contracts import Component, Kind


class PluginError(Exception):
    """What is wrong with a plugin, one sentence."""


@dataclass
class LoadResult:
    """What was registered, and what could not be."""

    registered: list[Registered[Component]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def load(sources: Iterable[Source]) -> LoadResult:
    """Load every source. Nothing that plugin code raises leaves this function, Ctrl-C excepted."""
    result = LoadResult()
    for source in sources:
        try:
            offered = _offered_by(source)
        except PluginError as error:
            result.failures.append(Failure.of(source, str(error)))
            continue
        except (Exception, SystemExit) as error:
            result.failures.append(Failure.of(source, _describe(error)))
            continue
        for kind, components in offered.items():
            for component in components:
                _register(result, source, kind, component)
    return result


def _offered_by(source: Source) -> dict[Kind, list[object]]:
    """Whatever the hooks of one plugin return, unchecked but for being lists."""
    plugin = source.load()
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for complaint in _complaints(manager, plugin):
        raise PluginError(complaint)
    manager.register(plugin, name=source.entry_point)
    manager.check_pending()
    implemented = {kind: hook for kind, hook in HOOKS.items() if getattr(manager.hook, hook).get_hookimpls()}
    if not implemented:
        raise PluginError(f"it has no hook, so it registers nothing; the hooks are {_listing()}.")
    return {kind: _call(manager, hook) for kind, hook in implemented.items()}


def _complaints(manager: pluggy.PluginManager, plugin: object) -> Iterator[str]:
    """Functions that look like hooks and would be passed over in silence."""
    known = list(HOOKS.values())
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None and not (name.startswith(HOOK_PREFIX) and inspect.isroutine(getattr(plugin, name))):
            continue
        hook = (options["specname"] if options else None) or name
        if hook not in known:
            nearest = difflib.get_close_matches(hook, known, n=1, cutoff=0)[0]
            yield f"{hook} is no hook. Did you mean {nearest}? The hooks are {_listing()}."
        elif options is None:
            yield f"{name} is not marked as a hook: put @hookimpl (from pqbench import hookimpl) above it."


def _call(manager: pluggy.PluginManager, hook: str) -> list[object]:
    offered: list[object] = []
    for returned in getattr(manager.hook, hook)():
        if not isinstance(returned, (list, tuple)):
            raise PluginError(f"{hook} returned {returned!r}; it must return a list of classes.")
        offered.extend(returned)
    return offered


def _register(result: LoadResult, source: Source, kind: Kind, candidate: object) -> None:
    """Keep a component whose facts hold, or the reason why it was refused."""
    found = problems(kind, candidate)
    if found:
        shown = getattr(candidate, "name", None) or getattr(candidate, "__name__", repr(candidate))
        result.failures.append(Failure.of(source, f"{kind} {shown} is refused: {'; '.join(found)}."))
        return
    component = cast("type[Component]", candidate)
    same = [r for r in result.registered if (r.kind, r.name) == (kind, component.name)]
    own = [r for r in same if r.provenance.distribution == source.distribution]
    if any(r.component is not component for r in own):
        text = f"{kind} {component.name} is registered twice by {source.distribution}: the first one is kept."
        result.failures.append(Failure.of(source, text))
    if not own:
        result.registered.append(Registered(kind, component, _provenance(source, component)))


def _provenance(source: Source, component: type[Component]) -> Provenance:
    locations = {package_location(source.module), package_location(component.__module__)} - {None}
    digest = source_hash(location for location in locations if location is not None)
    return Provenance(source.distribution, source.version, source.entry_point, digest)


def _describe(error: BaseException) -> str:
    """The exception in one line, with the last place in a file that it passed; of a syntax error, its own place."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text


def _listing() -> str:
    return ", ".join(HOOKS.values())
