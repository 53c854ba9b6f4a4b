"""Prompts that a user gives by a path: a text for each image of a source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pqbench.base.errors import UserError
from pqbench.scoring.images.sources import ImageSource
from pqbench.scoring.prompts import texts_sha256


@dataclass(frozen=True)
class GivenPrompts:
    """The prompts in a file.

    texts   (N,), that of image i at place i
    """

    path: Path
    texts: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """Of the texts, as of a run with one seed."""
        return texts_sha256([self.texts])


def read_prompts(path: Path, images: ImageSource) -> GivenPrompts:
    """The prompts for `images`, in UTF-8: lines (.txt), or a list or an object from file names to prompts (.json).

    Lines and lists follow the images: rows of an array, files of a folder in the order of their names.

    Raises `UserError`, one sentence, for a file that cannot be read, has not one prompt for each image, has blank
    lines, or has lines for a folder whose names sort otherwise than their numbers count.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark of UTF-8 in front
    except OSError as error:
        raise UserError(f"The prompts {path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UserError(f"The prompts {path} are not text in UTF-8: save them so.") from None
    match path.suffix.lower():
        case ".txt":
            texts = _in_order(path, _lines(path, text), images)
        case ".json":
            texts = _of_json(path, text, images)
        case _:
            raise UserError(f"{path} is neither a .txt file, a line for each image, nor a .json file of prompts.")
    return GivenPrompts(path, texts)


def _lines(path: Path, text: str) -> list[str]:
    lines = text.removesuffix("\n").split("\n")
    if blank := next((number for number, line in enumerate(lines, start=1) if not line.strip()), 0):
        raise UserError(
            f"Line {blank} of {path} is blank: remove it, or give a .json list if an empty prompt is meant."
        )
    return lines


def _of_json(path: Path, text: str, images: ImageSource) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"The prompts {path} are not JSON ({error}).") from None
    if isinstance(found, dict):
        return _by_name(path, found, images)
    if isinstance(found, list):
        return _in_order(path, found, images)
    raise UserError(f"The prompts {path} are neither a list nor an object from file names to prompts.")


def _in_order(path: Path, texts: list[Any], images: ImageSource) -> tuple[str, ...]:
    if len(texts) != len(images):
        raise UserError(f"{path} has {len(texts)} prompts for the {len(images)} images of {images.path}: one each.")
    images.require_order(f"the prompts {path} can follow", "Give a .json object from file names to prompts.")
    return _texts(path, texts)


def _by_name(path: Path, texts: dict[str, Any], images: ImageSource) -> tuple[str, ...]:
    if not images.names:
        raise UserError(f"{path} has prompts by file names, and {images.path} is no folder: give a list.")
    if missing := [name for name in images.names if name not in texts]:
        raise UserError(f"{path} has no prompt for {missing[0]}, nor for {len(missing) - 1} other images.")
    return _texts(path, [texts[name] for name in images.names])


def _texts(path: Path, texts: list[Any]) -> tuple[str, ...]:
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"Prompt {place} of {path} is {text!r}: prompts are texts.")
    return tuple(texts)
