from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pqbench.base.errors import UserError
from pqbench.workloads.assets import Assets, file_sha256

FILE = "weights.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"w": torch.arange(100.0)}, tmp_path / FILE)
    write_card(tmp_path)
    return tmp_path


def write_card(folder: Path) -> None:
    (folder / "card.json").write_text(json.dumps({"sha256": {FILE: file_sha256(folder / FILE)}}))


def test_whole_files_are_read(folder: Path) -> None:
    assert torch.equal(Assets(folder).tensors(FILE)["w"], torch.arange(100.0))


def test_a_truncated_file_is_named_with_advice(folder: Path) -> None:
    raw = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(raw[:-10])
    with pytest.raises(UserError, match=rf"{FILE} is truncated or was changed .*reinstall pqbench"):
        Assets(folder).tensors(FILE)


def test_one_changed_bit_is_found(folder: Path) -> None:
    raw = bytearray((folder / FILE).read_bytes())
    raw[-1] ^= 1
    (folder / FILE).write_bytes(raw)
    with pytest.raises(UserError, match=FILE):
        Assets(folder).tensors(FILE)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / FILE).unlink()
    with pytest.raises(UserError, match=rf"{FILE} cannot be read \(No such file"):
        Assets(folder).tensors(FILE)


def test_a_file_that_the_card_does_not_list_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"does not list other\.safetensors"):
        Assets(folder).tensors("other.safetensors")


def test_a_file_that_is_not_safetensors_is_refused_even_with_the_right_hash(folder: Path) -> None:
    (folder / FILE).write_bytes(b"not tensors")
    write_card(folder)
    with pytest.raises(UserError, match="not a safetensors file"):
        Assets(folder).tensors(FILE)


@pytest.mark.parametrize("text", ['{"sha256": {', "[]", "{}"])
def test_a_broken_card_is_named(folder: Path, text: str) -> None:
    (folder / "card.json").write_text(text)
    with pytest.raises(UserError, match=r"card\.json .*reinstall"):
        Assets(folder).tensors(FILE)
