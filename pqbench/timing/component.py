"""The workload and the engine that a timing spec names."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pqbench.base.errors import UserError

if TYPE_CHECKING:
    from pqbench.contracts import Kind


def component(kind: Kind, name: str) -> Any:
    """A component's class: `module:Class`, or a name of the registry (which may be `distribution:name`).

    Raises `UserError` for what cannot be found.
    """
    module, _, attribute = name.partition(":")
    if attribute[:1].isupper():
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"The {kind} {name} cannot be imported ({error}).") from error
    from pqbench.components import Registry

    return Registry.discover().get(kind, name)
