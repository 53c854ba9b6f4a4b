"""`pqbench plugins list`: what is there, where it comes from, and what could not be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pqbench import __version__
from pqbench.cli.main import run_command_line

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def broken_local_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder whose `pqbench_plugins.py` cannot be imported."""
    (tmp_path / "pqbench_plugins.py").write_text("raise RuntimeError('half written')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # put back afterwards, with what loading the file adds


def test_the_json_document(capsys: Capture) -> None:
    assert run_command_line(["plugins", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    tiny = [row for row in document["components"] if (row["kind"], row["name"]) == ("workload", "tiny")]
    assert [(row["distribution"], row["version"]) for row in tiny] == [("pqbench", __version__)]
    assert [row["distribution"] for row in document["failures"] if "half written" in row["error"]] == ["local"]


def test_the_table_ends_with_the_failures(capsys: Capture) -> None:
    assert run_command_line(["plugins", "list"]) == 0
    table, failures = capsys.readouterr().out.split("could not be loaded:")
    assert table.startswith("kind ")
    assert "half written" in failures
    assert "half written" not in table


def test_strict_fails_when_something_could_not_be_loaded(capsys: Capture) -> None:
    assert run_command_line(["plugins", "list", "--strict"]) == 1
    assert "half written" in capsys.readouterr().out


def test_a_plugin_is_left_out_on_demand(capsys: Capture) -> None:
    assert run_command_line(["plugins", "list", "-p", "no:local"]) == 0
    assert "half written" not in capsys.readouterr().out


def test_an_option_that_is_not_understood_is_one_sentence(capsys: Capture) -> None:
    assert run_command_line(["plugins", "list", "-p", "local"]) == 2
    assert capsys.readouterr().err == (
        "Error: -p local is not understood: write -p no:NAME to leave the plugin NAME out.\n"
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("pqbench-rtm", "no:pqbench-rtn"), ("Pqbench_Plugin", "no:pqbench_plugins"), ("rtm", "no:rtn")],
)
def test_a_plugin_that_is_not_there_cannot_be_left_out(capsys: Capture, name: str, nearest: str) -> None:
    assert run_command_line(["plugins", "list", "-p", f"no:{name}"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"Error: -p no:{name} leaves nothing out. Did you mean {nearest}")
    listing = line.split("are: ")[1].rstrip(".").split(", ")
    assert {"local", "pqbench_plugins", "pqbench-rtn", "rtn"} <= set(listing)
