"""The precision of a method: how many bits its weights and its activations have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pqbench.base.errors import UserError

FULL_PRECISION_BITS = 32
QUANTIZED_BITS = range(2, 9)


@dataclass(frozen=True, order=True)
class Precision:
    """Bits of weights and activations, `w4a4`; 32 means full precision (no quantization).

    Raises `UserError` for bits that no grid has: allowed are 2 to 8, and 32.
    """

    w: int = FULL_PRECISION_BITS
    a: int = FULL_PRECISION_BITS

    def __post_init__(self) -> None:
        for key, bits in (("w", self.w), ("a", self.a)):
            if bits not in QUANTIZED_BITS and bits != FULL_PRECISION_BITS:
                raise UserError(f"{key}={bits} is not a precision: use 2 to 8 bits, or 32 for full precision.")

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Read `w4a8`. Raises `UserError` for anything else."""
        match = re.fullmatch(r"w(\d+)a(\d+)", text.strip().lower())
        if match is None:
            raise UserError(f"{text!r} is not a precision: write it like w4a8.")
        return cls(int(match[1]), int(match[2]))

    @property
    def quantizes(self) -> bool:
        """Whether anything is quantized at all."""
        return self != Precision()

    def __str__(self) -> str:
        return f"w{self.w}a{self.a}"
