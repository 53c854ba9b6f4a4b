"""The file of a packed checkpoint: one safetensors file whose metadata holds a versioned JSON header.

Everything is written in one order (safetensors sorts the tensors, the metadata is a single JSON text with sorted keys),
so the same content gives the same bytes. A digest over header and tensors finds what safetensors does not look for:
changed values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pqbench.errors import UserError
from pqbench.files import write_atomically

FORMAT = "pqbench"
VERSION = 2
"""1: quantized layers; 2: split layers and attention operands as well. Files of all versions up to this are read."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredLayer(_Frozen):
    """One quantized layer: what it computes, its grids, and the shape of its weight."""

    name: str
    operation: str
    w_bits: int
    w_symmetric: bool
    a_bits: int
    a_symmetric: bool
    shape: tuple[int, ...]


class StoredSplit(_Frozen):
    """One layer that is split into parts, and the input channels of each."""

    name: str
    widths: tuple[int, ...]


class StoredAttention(_Frozen):
    """One module whose attention is quantized: the bits of its operands (q, k, softmax, v), and the grid of q, k, v."""

    name: str
    bits: dict[str, int]
    symmetric: bool


class Header(_Frozen):
    """What a checkpoint says about itself.

    layers       its quantized layers, in the order of the net; the parts of split layers are among them
    splits       its split layers
    attentions   its quantized attentions
    facts        what the writer wanted kept with the weights
    """

    format: Literal["pqbench"] = "pqbench"
    version: int = VERSION
    layers: tuple[StoredLayer, ...] = ()
    splits: tuple[StoredSplit, ...] = ()
    attentions: tuple[StoredAttention, ...] = ()
    facts: dict[str, JsonValue] = {}


def write_file(path: Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint atomically. Raises `UserError` when the disk is full."""
    text = json.dumps(header.model_dump(), sort_keys=True, separators=(",", ":"))
    # One entry, "<digest> <header>": safetensors writes several in no particular order.
    metadata = {FORMAT: f"{_digest(text, tensors)} {text}"}
    write_atomically(path, save(dict(tensors), metadata))


def read_file(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read a checkpoint whole.

    Raises `UserError` when the file is missing, truncated, changed, no checkpoint of pqbench, or of a newer version.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}.")
    try:
        with safe_open(path, "pt") as file:
            envelope = (file.metadata() or {}).get(FORMAT)
            # Copies: what safetensors returns is a view of the file, which may change or go away.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or is no checkpoint ({error}): make it again.") from None
    if envelope is None:
        raise UserError(f"{path} is a safetensors file, but no checkpoint written by pqbench.")
    return _parse(path, envelope, tensors), tensors


def _parse(path: Path, envelope: str, tensors: Mapping[str, Tensor]) -> Header:
    damaged = UserError(f"{path} was changed or damaged after it was written (its digest does not fit): make it again.")
    digest, _, text = envelope.partition(" ")
    try:
        version = json.loads(text)["version"]
    except (ValueError, TypeError, KeyError):
        raise damaged from None
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"{path} has checkpoint format {version}; this pqbench reads formats up to {VERSION}: upgrade pqbench."
        )
    if digest != _digest(text, tensors):
        raise damaged
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path} has a header that this pqbench does not understand: {error}") from None


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the header's text and of every tensor with its name, type and shape."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        octets: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(octets)
    return digest.hexdigest()
