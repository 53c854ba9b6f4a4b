"""One way to hash facts, used for stage keys, cells and protocols."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(facts: Any) -> str:
    """JSON with sorted keys and no spaces: equal facts give equal text. Raises TypeError for what JSON cannot hold."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(facts: Any) -> str:
    """sha256 of the canonical text, 64 hex digits."""
    return hashlib.sha256(canonical(facts).encode()).hexdigest()
