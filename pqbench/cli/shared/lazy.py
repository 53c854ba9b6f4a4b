"""Commands that are imported when they are called, and not before.

Mechanism: a `LazyGroup` knows each command by a `CommandRef`, the module and the attribute that hold it and one line of
help. Listing commands (`--help`, completion of names) is answered from these lines. Only running a command, asking for
its own help or completing its options imports the module. The attribute is a function with typer annotations, or a
`typer.Typer` for a group of commands. So a command's module may import what it likes, and one that is broken or missing
breaks only itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from pqbench.base.errors import UserError


@dataclass(frozen=True)
class CommandRef:
    """Where a command is (`module:attribute`) and its line in the list of commands."""

    path: str
    help: str


class LazyGroup(TyperGroup):
    """A group whose commands are given by `refs`; subclass it and set them."""

    refs: ClassVar[Mapping[str, CommandRef]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Stand-ins with their line of help are all that a listing, or the search for the nearest name, looks at.
        self.commands = {name: TyperCommand(name, help=ref.help) for name, ref in self.refs.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The real command for these arguments; its module is imported here."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        if name is None or stand_in is None:
            return name, stand_in, rest
        return name, _import(name, self.refs[name]), rest


def _import(name: str, ref: CommandRef) -> Any:
    module_name, _, attribute = ref.path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise UserError(f"The command {name} cannot be loaded ({error}): reinstall pqbench.") from error
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(name, help=ref.help if not found.__doc__ else None)(found)
    return typer.main.get_command(app)
