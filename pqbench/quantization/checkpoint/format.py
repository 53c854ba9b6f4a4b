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

from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.base.files import write_atomically
from pqbench.base.tensor_memory import memory_of

FORMAT = "pqbench"
VERSION = 3
"""The newest version that is read, and written where a file needs it; a file is written in the oldest that holds it.

1   codes and scales, one scale an output channel; static activations
2   scales of groups, dynamic activations, the time steps of activation tables; split layers and attention operands
3   a correction of the output
"""

_SINCE: dict[int, dict[str, object]] = {
    2: {"group_size": 0, "a_dynamic": False, "time_steps": (), "splits": (), "attentions": ()},
    3: {"corrected": False},
}
"""What each version added, with the value that stands for its absence."""
_ABSENT = {name: absent for added in _SINCE.values() for name, absent in added.items()}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_serializer(mode="wrap")
    def _without_what_is_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        kept: dict[str, Any] = serialize(self)
        return {name: value for name, value in kept.items() if name not in _ABSENT or value != _ABSENT[name]}

    def oldest_version(self) -> int:
        """The oldest version that has all that is set."""
        used = self.model_dump().keys()
        return max((version for version, added in _SINCE.items() if used & added.keys()), default=1)


class StoredLayer(_Frozen):
    """One quantized layer: what it computes, its grids, and the shape of its weight."""

    name: str
    operation: str
    w_bits: int
    w_symmetric: bool
    a_bits: int
    a_symmetric: bool
    shape: tuple[int, ...]
    group_size: int = 0
    a_dynamic: bool = False


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
    time_steps   those of its activation tables; empty when it has none
    corrected    whether its output is corrected (see `pqbench.quantization.net.output_correction`)
    """

    format: Literal["pqbench"] = "pqbench"
    version: int = 1
    layers: tuple[StoredLayer, ...] = ()
    splits: tuple[StoredSplit, ...] = ()
    attentions: tuple[StoredAttention, ...] = ()
    facts: dict[str, JsonValue] = {}
    time_steps: tuple[int, ...] = ()
    corrected: bool = False

    @classmethod
    def of(cls, layers: tuple[StoredLayer, ...], **others: Any) -> Header:
        """A header of the oldest version that holds all of this; `others` are further fields by name."""
        header = cls(layers=layers, **others)
        oldest = max(part.oldest_version() for part in (header, *layers))
        return header.model_copy(update={"version": oldest})


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
        digest.update(memory_of(tensor))
    return digest.hexdigest()
