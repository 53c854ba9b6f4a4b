"""A rung of the ladder, and the limits that decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BITS: Final = (2, 3, 4, 6, 8)
"""Widths at which more bits must not be worse."""
NEAR_BITS: Final = 8
"""The width that must be near full precision, and that of the operand which is not varied."""
ERROR_LIMIT: Final = 0.05
"""Largest relative error of one step at W8A8. Round to nearest has 0.027 on the bundled net (0.058 at W8A6), 0.041 on
the untrained one for tests.
"""
PSNR_LIMIT: Final = 22.0
"""Smallest mean PSNR, in dB, of images at W8A8 to full precision's of the same noise. Round to nearest has 27.9 on the
bundled net at W8A8, and 17 at W4A8.
"""
WORSE_SHARE: Final = 0.05
"""Share of an error by which more bits may be worse: a search or a training that starts elsewhere ends elsewhere."""


@dataclass(frozen=True)
class Rung:
    """One check.

    name       short and stable: `identity`, `near`, `weights`, `activations`, `packed`, `engine openvino`
    checked    what must hold
    measured   what was found
    limit      what is allowed
    look_at    where the mistake is likely to be when it does not hold
    """

    name: str
    checked: str
    measured: str
    limit: str
    passed: bool
    look_at: str
