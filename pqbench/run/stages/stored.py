"""Tensors on disk that need not fit into memory: written part by part, read batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pqbench.base.files import write_atomically
from pqbench.base.tensor_memory import memory_of
from pqbench.scoring.images.sources import batch_of

IMAGES = "images"
"""The name of the tensor in a file of images."""

_NAMES = {torch.uint8: "U8", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}


@dataclass(frozen=True)
class StoredImages:
    """The images in a file (N, C, H, W) uint8, of which one batch is in memory at a time."""

    path: Path

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        _, channels, height, width = self.shape
        batch = batch_of((channels, height, width))
        for start in range(0, len(self), batch):
            yield self[start : min(start + batch, len(self))]

    def __getitem__(self, rows: slice) -> Tensor:
        with safe_open(self.path, "pt") as file:
            images: Tensor = file.get_slice(IMAGES)[rows]
        return images

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        with safe_open(self.path, "pt") as file:
            return tuple(file.get_slice(IMAGES).get_shape())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file of tensors on the CPU, written from where they are: no copy of them is made in memory."""
    # The widest types first, as the format wants for their alignment.
    ordered = dict(sorted(tensors.items(), key=lambda each: (-each[1].dtype.itemsize, each[0])))

    def content() -> Iterator[bytes | memoryview]:
        yield _header({name: (tensor.dtype, tensor.shape) for name, tensor in ordered.items()}, metadata)
        for tensor in ordered.values():
            yield memory_of(tensor)

    write_atomically(path, content())


def _header(
    tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """How a file begins whose tensors follow one another in this order."""
    facts: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        facts[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(facts, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def write_parts(path: Path, name: str, shape: tuple[int, ...], parts: Iterable[Tensor], dtype: torch.dtype) -> None:
    """A safetensors file with one tensor, whose rows arrive in parts: the same bytes as if it were written whole.

    Raises ValueError when the parts do not add up to the shape; then nothing is written.
    """

    def content() -> Iterator[bytes | memoryview]:
        yield _header({name: (dtype, shape)})
        rows = 0
        for part in parts:
            if part.dtype != dtype or tuple(part.shape[1:]) != shape[1:]:
                raise ValueError(f"A part of {part.dtype} {tuple(part.shape)} does not fit into {dtype} {shape}.")
            rows += len(part)
            yield part.contiguous().numpy().tobytes()
        if rows != shape[0]:
            raise ValueError(f"The parts have {rows} rows, not {shape[0]}.")

    write_atomically(path, content())
