"""A bundled workload's files: a card that holds their sha256, and tensors that are read only if they match it."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pqbench.base.errors import UserError

CARD: Final = "card.json"
_ADVICE: Final = "reinstall pqbench (`pip install --force-reinstall --no-deps pqbench`)"


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Assets:
    """The folder of a bundled workload. Every problem with a file is a `UserError` that names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def card(self) -> dict[str, Any]:
        """The contents of card.json."""
        path = self.folder / CARD
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): {_ADVICE}.") from None
        if not isinstance(card, dict) or not isinstance(card.get("sha256"), dict):
            raise UserError(f"{path} is not the card of a bundled workload: {_ADVICE}.")
        return card

    def sha256(self, file: str) -> str:
        """What the card says that the file's sha256 is."""
        try:
            return str(self.card["sha256"][file])
        except KeyError:
            raise UserError(f"{self.folder / CARD} does not list {file}: {_ADVICE}.") from None

    def tensors(self, file: str) -> dict[str, Tensor]:
        """The tensors of a file, from the very bytes whose sha256 was checked against the card."""
        path = self.folder / file
        expected = self.sha256(file)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): {_ADVICE}.") from None
        found = hashlib.sha256(raw).hexdigest()
        if found != expected:
            raise UserError(
                f"{path} is truncated or was changed (sha256 {found[:12]}..., "
                f"the card says {expected[:12]}...): {_ADVICE}."
            )
        try:
            return load(raw)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file ({error}): {_ADVICE}.") from None
