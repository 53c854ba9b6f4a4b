"""Packing: integer codes of 2 to 8 bits in a dense row of bytes, two 4-bit codes to a byte.

The codes are one stream of bits, the lowest bit of each code first, in the order of the flattened tensor; signed codes
are stored in two's complement. Eight codes of b bits fill b bytes, so they are packed and unpacked as one 64-bit word.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from pqbench.base.errors import UserError
from pqbench.quantization.grids.grid import Grid


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int, signed: bool) -> Tensor:
    """Pack integer codes of any shape into (packed_size,) uint8.

    Signed codes lie in -2^(bits-1) ... 2^(bits-1) - 1, unsigned ones in 0 ... 2^bits - 1. Raises `UserError` for
    codes outside of that range and for bits other than 2 to 8.
    """
    grid = Grid(bits, symmetric=signed)
    if codes.numel() and not grid.low <= int(codes.min()) <= int(codes.max()) <= grid.high:
        raise UserError(
            f"Codes from {int(codes.min())} to {int(codes.max())} do not fit {bits} bits ({grid.low} to {grid.high})."
        )
    flat = codes.reshape(-1)
    groups = F.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    mask = (1 << bits) - 1
    words = torch.zeros(len(groups), dtype=torch.int64, device=codes.device)
    for place in range(8):
        words |= (groups[:, place].long() & mask) << (bits * place)
    octets = torch.stack([((words >> (8 * place)) & 0xFF).to(torch.uint8) for place in range(bits)], dim=1)
    return octets.view(-1)[: packed_size(flat.numel(), bits)].clone()


def unpack(packed: Tensor, bits: int, signed: bool, shape: Sequence[int]) -> Tensor:
    """The codes that `pack` packed, of the given shape: int8 when signed, else uint8.

    Raises `UserError` when the bytes are not as many as the shape needs (a truncated or mixed-up buffer).
    """
    grid = Grid(bits, symmetric=signed)
    count, expected = prod(shape), packed_size(prod(shape), bits)
    if packed.dtype != torch.uint8 or packed.dim() != 1 or len(packed) != expected:
        raise UserError(
            f"Packed codes of shape {tuple(shape)} at {bits} bits take {expected} bytes; found {packed.numel()} "
            f"values of type {packed.dtype}: the buffer is truncated or belongs to something else."
        )
    octets = F.pad(packed, (0, -len(packed) % bits)).view(-1, bits)
    words = torch.zeros(len(octets), dtype=torch.int64, device=packed.device)
    for place in range(bits):
        words |= octets[:, place].long() << (8 * place)
    mask, sign = (1 << bits) - 1, (1 << (bits - 1)) if signed else 0
    # (u ^ sign) - sign turns the two's complement of `bits` bits into a signed number.
    codes = [((((words >> (bits * place)) & mask) ^ sign) - sign).to(grid.dtype) for place in range(8)]
    return torch.stack(codes, dim=1).view(-1)[:count].reshape(tuple(shape))
