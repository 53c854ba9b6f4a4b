"""`pqbench`: the commands, and what the user sees when something goes wrong."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final

import typer

from pqbench.base.errors import UserError
from pqbench.base.version import __version__
from pqbench.cli.shared.interrupts import interrupts_between_imports
from pqbench.cli.shared.lazy import CommandRef, LazyGroup

EXIT_USER_ERROR: Final = 2
EXIT_BROKEN_PIPE: Final = 1
EXIT_INTERRUPTED: Final = 130


class Commands(LazyGroup):
    """All commands of `pqbench`."""

    refs: ClassVar[Mapping[str, CommandRef]] = {
        "run": CommandRef("pqbench.cli.run:run", "Run methods on a workload and write their table."),
        "plan": CommandRef("pqbench.cli.plan:plan", "Show what a run would do, without doing it."),
        "report": CommandRef("pqbench.cli.report:report", "Make tables and figures from a run's records."),
        "compare": CommandRef("pqbench.cli.compare:compare", "Test which rows of a run, or of two, are better."),
        "calibrate": CommandRef(
            "pqbench.cli.calibrate:calibrate", "Draw a calibration set into a file that any method can use."
        ),
        "audit": CommandRef("pqbench.cli.audit:audit", "Count the bits that packed checkpoints really hold."),
        "diagnose": CommandRef(
            "pqbench.cli.diagnose:diagnose", "Measure error by layer and time step of a run's cells."
        ),
        "fetch": CommandRef(
            "pqbench.cli.fetch:fetch", "Get the weights that extractors and metrics need, or list them."
        ),
        "export": CommandRef("pqbench.cli.export:export", "Write a model into a folder that runs without pqbench."),
        "ladder": CommandRef("pqbench.cli.ladder:ladder", "Check what must hold of a method's quantizer."),
        "methods": CommandRef("pqbench.cli.methods:app", "See the methods, their components and their ablations."),
        "score": CommandRef("pqbench.cli.score:score", "Score images that anything made, under a protocol."),
        "plugins": CommandRef("pqbench.cli.plugins:app", "See which methods and components are installed."),
        "env": CommandRef("pqbench.cli.env:env", "Show the environment that results depend on."),
    }

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the command; Ctrl-C is told apart from a command's own exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _InterruptedError from None


class _InterruptedError(Exception):
    """Ctrl-C, carried past the CLI library, which would leave without a word."""


app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pqbench {__version__}")
        raise typer.Exit


@app.callback()
def pqbench(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Compare compression methods for diffusion models under one protocol."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: run the command line and leave with its exit code."""
    sys.exit(run_command_line(sys.argv[1:] if arguments is None else arguments))


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    0 done; 1 a cell failed or is missing, or the reader of our output went away; 2 the user can mend it: one sentence
    on stderr; 130 interrupted.
    """
    try:
        with interrupts_between_imports():
            code = _invoke(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _complain(f"Error: {error}", EXIT_USER_ERROR)
    except (_InterruptedError, KeyboardInterrupt):
        return _complain(
            "Interrupted. What was finished is kept; the same command goes on from there.", EXIT_INTERRUPTED
        )
    except BrokenPipeError:
        # Python flushes stdout once more when it ends; by then it must lead somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno is None:
            raise  # a library's own error in the clothes of the system's: a bug, which is not to be hidden
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _complain(f"Error: {_in_words(error)}; what was finished is kept.", EXIT_USER_ERROR)
        where = f" for {error.filename}" if error.filename else ""
        return _complain(
            f"Error: No space is left on the disk{where}: free some and run the same command again; "
            "what was finished is kept.",
            EXIT_USER_ERROR,
        )


def _invoke(arguments: Sequence[str]) -> int:
    """Hand over to the CLI library, which leaves by `SystemExit` whatever happens."""
    command = typer.main.get_command(app)
    try:
        command.main(args=list(arguments), prog_name="pqbench")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def _in_words(error: OSError) -> str:
    """`FILE cannot be used (reason): mend that ...`, as far as the system says which file it is."""
    subject = f"{error.filename} cannot be used" if error.filename else "The system refused a file or a device"
    return f"{subject} ({error.strerror}): mend that and give the same command again"


def _complain(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
