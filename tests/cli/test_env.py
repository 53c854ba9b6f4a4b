from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch

from pqbench import __version__
from pqbench.base import cpu, torchvision_shim
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
    assert cpu.cpu_facts()["model"] in shown
    assert " int8 " in next(line for line in shown.splitlines() if line.startswith("Kernels openvino "))


def test_the_processor_s_flags_are_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "model name\t: Some CPU\nflags\t\t: fpu amx_int8 avx2 sse4_1 avx512_vnni\n\nmodel name\t: Some CPU\n"
    )
    facts = cpu.cpu_facts(cpuinfo)
    assert (facts["model"], facts["flags"]) == ("Some CPU", ["amx_int8", "avx2", "avx512_vnni"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("flags: avx avx2 avx512f avx512bw avx512_vnni avx512_bf16", "avx512, vnni, bf16"),
        ("flags: sse4_1 avx avx2", "avx2"),
        ("flags: sse4_1", ""),
        ("Features: fp asimd asimddp i8mm sve bf16", "sve, bf16, i8mm"),
    ],
)
def test_instruction_sets_tell_cpus_of_one_name_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, words: str
) -> None:
    for cap in cpu.CAPS:
        monkeypatch.delenv(cap, raising=False)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name: AMD EPYC\n{flags}\n")
    found = cpu.instruction_set(cpuinfo)
    assert cpu.instruction_words(found) == words
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    capped = cpu.instruction_set(cpuinfo)
    assert capped == (*found, "ONEDNN_MAX_CPU_ISA=AVX2")
    assert cpu.instruction_words(capped).endswith("ONEDNN_MAX_CPU_ISA=AVX2")


def test_without_cpuinfo_the_flags_are_unknown_and_not_absent(tmp_path: Path) -> None:
    assert cpu.cpu_facts(tmp_path / "nothing")["flags"] is None


@pytest.mark.parametrize("mismatch", [True, False])
def test_a_torchvision_of_another_torch_is_named(monkeypatch: pytest.MonkeyPatch, mismatch: bool) -> None:
    monkeypatch.setattr(torchvision_shim, "declare_missing_operators", lambda: mismatch)
    notes = environment.environment()["notes"]
    assert [("built for another torch" in note, "nms" in note) for note in notes] == (
        [(True, True)] if mismatch else []
    )
