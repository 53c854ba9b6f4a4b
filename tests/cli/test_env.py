from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch

from pqbench import __version__
from pqbench.base import torchvision_shim
from pqbench.cli.main import run_command_line
from pqbench.run import environment


def test_env_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["pqbench"] == __version__
    assert facts["packages"]["torch"] == version("torch")
    assert facts["threads"]["torch"] == torch.get_num_threads()
    assert facts["memory_bytes"] == psutil.virtual_memory().total


def test_env_as_text_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["env"]) == 0
    shown = capsys.readouterr().out
    assert version("torch") in shown
    assert environment.cpu_facts()["model"] in shown


def test_the_processor_s_flags_are_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n\nmodel name\t: Some CPU\n")
    facts = environment.cpu_facts(cpuinfo)
    assert (facts["model"], facts["flags"]) == ("Some CPU", ["avx2", "avx512_vnni", "amx_int8"])


def test_without_cpuinfo_the_flags_are_unknown_and_not_absent(tmp_path: Path) -> None:
    assert environment.cpu_facts(tmp_path / "nothing")["flags"] is None


@pytest.mark.parametrize("mismatch", [True, False])
def test_a_torchvision_of_another_torch_is_named(monkeypatch: pytest.MonkeyPatch, mismatch: bool) -> None:
    monkeypatch.setattr(torchvision_shim, "declare_missing_operators", lambda: mismatch)
    notes = environment.environment()["notes"]
    assert [("built for another torch" in note, "nms" in note) for note in notes] == (
        [(True, True)] if mismatch else []
    )
