"""The command line as a user meets it: exit codes, one sentence an error, and nothing heavy for `--help`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from processes import started

from pqbench import __version__
from pqbench.cli import main
from pqbench.cli.shared.lazy import CommandRef

ROOT = Path(main.__file__).parents[2]
HEAVY = ("torch", "openvino", "matplotlib", "pandas", "numpy", "pluggy")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for the code of a command `trial(...)`, which is then one of pqbench's commands."""
    file = tmp_path / "trial_command.py"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trial_command", raising=False)
    refs = {**main.Commands.refs, "trial": CommandRef("trial_command:trial", "For a test.")}
    monkeypatch.setattr(main.Commands, "refs", refs)
    return file


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["rnu"], []])
def test_what_needs_no_command_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
        import sys
        from pqbench.cli.main import run_command_line
        run_command_line({arguments!r})
        sys.exit(", ".join(set({HEAVY!r}) & set(sys.modules)) or 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.replace("Usage", "")[-200:] if done.returncode else "") == (0, "")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_command_line(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, ref in main.Commands.refs.items():
        assert f"  {name}" in shown
        assert ref.help in shown


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_command_line(["--version"]) == 0
    assert capsys.readouterr().out == f"pqbench {__version__}\n"


def test_a_misspelt_command_answers_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_command_line(["plugns"]) == 2
    assert "Did you mean 'plugins'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return None", 0, ""),
        ("raise typer.Exit(1)", 1, ""),
        (
            "raise UserError('The folder is full of eels: empty it.')",
            2,
            "Error: The folder is full of eels: empty it.\n",
        ),
        (
            "raise KeyboardInterrupt",
            130,
            "Interrupted. What was finished is kept; the same command goes on from there.\n",
        ),
        (
            f"raise PermissionError({errno.EACCES}, 'Permission denied', 'notes.txt')",
            2,
            "Error: notes.txt cannot be used (Permission denied): mend that and give the same command again; "
            "what was finished is kept.\n",
        ),
        (
            f"raise OSError({errno.EIO}, 'Input/output error')",
            2,
            "Error: The system refused a file or a device (Input/output error): mend that and give the same command "
            "again; what was finished is kept.\n",
        ),
        (
            f"raise OSError({errno.ENOSPC}, 'full', 'records.jsonl')",
            2,
            "Error: No space is left on the disk for records.jsonl: free some and run the same command again; "
            "what was finished is kept.\n",
        ),
    ],
)
def test_how_a_command_ends(
    command: Path, capsys: pytest.CaptureFixture[str], body: str, code: int, message: str
) -> None:
    command.write_text(f"import typer\nfrom pqbench.base.errors import UserError\n\ndef trial() -> None:\n    {body}\n")
    assert main.run_command_line(["trial"]) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("bug", [ZeroDivisionError, OSError])
def test_a_bug_is_not_hidden(command: Path, bug: type[Exception]) -> None:
    command.write_text(f"def trial() -> None:\n    raise {bug.__name__}('2 is not 3')\n")
    with pytest.raises(bug, match="2 is not 3"):
        main.run_command_line(["trial"])


def test_a_command_takes_its_own_options(command: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.write_text("def trial(count: int = 1) -> None:\n    '''Count.'''\n    print(count + 1)\n")
    assert main.run_command_line(["trial", "--count", "41"]) == 0
    assert capsys.readouterr().out == "42\n"
    assert main.run_command_line(["trial", "--count", "many"]) == 2
    assert main.run_command_line(["trial", "--help"]) == 0
    assert "Count." in capsys.readouterr().out


def test_a_command_that_cannot_be_imported_breaks_only_itself(
    command: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.write_text("import a_module_that_nobody_has\n")
    assert main.run_command_line(["trial"]) == 2
    assert "The command trial cannot be loaded" in capsys.readouterr().err
    assert main.run_command_line(["--help"]) == 0


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    with started(
        [sys.executable, "-c", "import sys; from pqbench.cli.main import main; input(); main(['--help'])"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.close()
        writer.stdin.write("go\n")
        writer.stdin.flush()
        assert writer.stderr.read() == ""
        assert writer.wait() == 1


def test_ctrl_c_ends_a_real_process_with_one_line(tmp_path: Path) -> None:
    code = """
        import sys
        from pqbench.cli import main
        from pqbench.cli.shared.lazy import CommandRef
        def trial():
            print("started", flush=True)
            sys.stdin.read()
        main.Commands.refs = {"trial": CommandRef("__main__:trial", "For a test.")}
        main.main(["trial"])
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    with started(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait() == 130
    assert errors == "Interrupted. What was finished is kept; the same command goes on from there.\n"
