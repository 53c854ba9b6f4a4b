"""Images and statistics that a user gives by a path: folders, .npz and .safetensors files."""

from __future__ import annotations

import hashlib
import math
import os
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.scoring.images.damage import DAMAGE

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Files of a folder that are images; others are left alone."""
NAMES = ("images", "arr_0", "samples")
"""What arrays of images are called; one that stands alone may have any name."""
_LOSSY = frozenset({".jpeg", ".jpg", ".tif", ".tiff", ".webp"})
"""Files whose pixels may depend on who decodes them; TIFF and WebP are containers of both kinds."""
_BATCH_BYTES = 1 << 25
_LONGEST_NAME = 255
"""Characters that a file's name has at most."""
_MODES = {"L": "L", "1": "L", "RGB": "RGB", "P": "RGB"}


@dataclass(frozen=True)
class ImageSource(ABC):
    """Images of one shape, read batch by batch.

    count   how many there are
    shape   (C, H, W)
    """

    path: Path
    count: int
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.count

    @property
    def batch(self) -> int:
        """Images that are read at once: the same for all sources of one shape."""
        return batch_of(self.shape)

    @property
    def libraries(self) -> tuple[str, ...]:
        """What decides the pixels beside the file (see `pqbench.scoring.libraries`)."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images' files, in their order, relative to the folder; empty for images that have none."""
        return ()

    def require_order(self, what: str, remedy: str) -> None:
        """Raise `UserError` when names with numbers do not sort as they count: 10.png comes before 2.png.

        what, remedy   ends of the two sentences: what is it that follows the images' order, what to do instead
        """
        counted = sorted(self.names, key=_counted)
        if first := next((name for name, other in zip(self.names, counted, strict=True) if name != other), ""):
            raise UserError(
                f"Files of {self.path} do not sort as they count (see {first}), so it is not clear which image {what}. "
                f"{remedy}"
            )

    @abstractmethod
    def __iter__(self) -> Iterator[Tensor]:
        """Batches (N, C, H, W) uint8. Raises `UserError` for what cannot be read."""

    @cached_property
    def sha256(self) -> str:
        """Of the file; of a folder, over the names and contents of its images."""
        return _file_sha256(self.path)


def batch_of(shape: tuple[int, int, int]) -> int:
    """Images of a shape that are held at once: 32 MB of them, at most 512."""
    return max(1, min(512, _BATCH_BYTES // math.prod(shape)))


@dataclass(frozen=True)
class ImageFolder(ImageSource):
    """The images in a folder and below, in the order of their names."""

    files: tuple[Path, ...]

    @classmethod
    def at(cls, path: Path) -> ImageFolder:
        """Look at every image's size.

        Raises `UserError` for an empty folder, mixed sizes, unreadable images and folders in it that cannot be read.
        """
        files = tuple(sorted(_image_files(path)))
        if not files:
            raise UserError(f"{path} has no images in it ({', '.join(sorted(SUFFIXES))}).")
        first = _header(files[0])
        for file in files[1:]:
            if (here := _header(file)) != first:
                one, other = (each.relative_to(path).as_posix() for each in (files[0], file))
                raise UserError(
                    f"{path} mixes images: {one} is {in_words(first)} and {other} is {in_words(here)}; give images "
                    "of one size and kind."
                )
        return cls(path, len(files), first, files)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.count, self.batch):
            yield torch.stack([_pixels(file) for file in self.files[start : start + self.batch]])

    @property
    def libraries(self) -> tuple[str, ...]:
        """The decoder's, where a file may have been compressed with a loss."""
        return ("pillow",) if any(file.suffix.lower() in _LOSSY for file in self.files) else ()

    @property
    def names(self) -> tuple[str, ...]:
        """Relative to the folder, with slashes."""
        return tuple(file.relative_to(self.path).as_posix() for file in self.files)

    @cached_property
    def sha256(self) -> str:
        """Over the names and contents of all images."""
        digest = hashlib.sha256()
        for name, file in zip(self.names, self.files, strict=True):
            # As bytes: names on the disk need not be UTF-8.
            digest.update(os.fsencode(name) + f"\0{_file_sha256(file)}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class ArrayImages(ImageSource):
    """The images of one array in a file.

    is_last   whether channels come last, (N, H, W, C)
    rows      reads the next rows of the array, `batch` at a time
    """

    is_last: bool
    rows: Callable[[int], Iterator[np.ndarray[Any, Any]]]

    def __iter__(self) -> Iterator[Tensor]:
        with _explained(self.path):
            for rows in self.rows(self.batch):
                images = torch.from_numpy(np.ascontiguousarray(rows)).reshape(len(rows), *_stored_shape(self))
                yield images.permute(0, 3, 1, 2).contiguous() if self.is_last else images


@dataclass(frozen=True)
class StatisticsFile:
    """Statistics of real images in a file: mean and covariance, perhaps features too."""

    path: Path

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return _file_sha256(self.path)


def open_images(path: Path) -> ImageSource:
    """The images at a path: a folder, an .npz with an array (N, H, W[, C]) or a .safetensors with one (N, C, H, W).

    Raises `UserError`, one sentence, for a path that is not there, without images, or with others than uint8.
    """
    source = open_reference(path)
    if isinstance(source, StatisticsFile):
        raise UserError(f"{path} holds statistics, not images: give a folder or an array of images.")
    return source


def open_reference(path: Path) -> ImageSource | StatisticsFile:
    """As `open_images`, or a file of statistics: `mu` and `sigma` (.npz), `mean` and `covariance` (.safetensors)."""
    if path.is_dir():
        return ImageFolder.at(path)
    if not path.exists():
        raise UserError(f"There is no {path}: give a folder of images, an .npz or a .safetensors file.")
    with _explained(path):
        match path.suffix.lower():
            case ".npz":
                return _npz(path)
            case ".safetensors":
                return _safetensors(path)
    raise UserError(f"{path} is neither a folder of images nor an .npz or .safetensors file.")


def _npz(path: Path) -> ImageSource | StatisticsFile:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if {"mu", "sigma"} <= set(names):
            return StatisticsFile(path)
        name = _array_name(path, names)
        with archive.open(f"{name}.npy") as file:
            shape, dtype = _npy_header(file, path)

    def rows(batch: int) -> Iterator[np.ndarray[Any, Any]]:
        size = math.prod(shape[1:]) * dtype.itemsize
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            _npy_header(file, path)
            for start in range(0, shape[0], batch):
                count = min(batch, shape[0] - start)
                yield np.frombuffer(bytearray(file.read(count * size)), dtype).reshape(count, *shape[1:])

    return _array(path, shape, str(dtype), rows, prefers_last=True)


def _npy_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array, behind whose header the file then stands."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if is_fortran or dtype.hasobject:
        raise UserError(f"{path} holds an array in Fortran's order or of objects: save it again as uint8 in C's order.")
    return shape, dtype


def _safetensors(path: Path) -> ImageSource | StatisticsFile:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        names = list(file.keys())
        if {"mean", "covariance"} <= set(names):
            return StatisticsFile(path)
        name = _array_name(path, names)
        stored = file.get_slice(name)
        shape, dtype = tuple(stored.get_shape()), {"U8": "uint8"}.get(stored.get_dtype(), stored.get_dtype())

    def rows(batch: int) -> Iterator[np.ndarray[Any, Any]]:
        # By torch: NumPy lacks types that safetensors has, such as bfloat16.
        with safe_open(path, "pt") as file:
            stored = file.get_slice(name)
            for start in range(0, shape[0], batch):
                part: Tensor = stored[start : min(start + batch, shape[0])]
                yield (part if part.dtype == torch.uint8 else part.double()).numpy()

    return _array(path, shape, dtype, rows, prefers_last=False)


def _array_name(path: Path, names: list[str]) -> str:
    found = [name for name in NAMES if name in names] or (names if len(names) == 1 else [])
    if not found:
        raise UserError(
            f"{path} has no array called {', '.join(NAMES)}, but {', '.join(sorted(names)) or 'none at all'}: name the "
            "images so, or give statistics (mu and sigma, or mean and covariance)."
        )
    return found[0]


def _array(
    path: Path,
    shape: tuple[int, ...],
    dtype: str,
    rows: Callable[[int], Iterator[np.ndarray[Any, Any]]],
    prefers_last: bool,
) -> ImageSource:
    if dtype != "uint8":
        raise UserError(_not_uint8(path, dtype, rows))
    layout = _layout(shape, prefers_last)
    if layout is None:
        raise UserError(
            f"{path} holds an array of shape {shape}, not images (N, H, W, C) or (N, C, H, W) of 1 or 3 channels."
        )
    is_last, image = layout
    if shape[0] == 0:
        raise UserError(f"{path} has no images in it.")
    return ArrayImages(path, shape[0], image, is_last, rows)


def _not_uint8(path: Path, dtype: str, rows: Callable[[int], Iterator[np.ndarray[Any, Any]]]) -> str:
    if dtype.lower().startswith(("f", "bf")):
        for part in rows(256):
            if bad := int((~np.isfinite(part.reshape(len(part), -1)).all(1)).sum()):
                return f"{path} has NaN or infinite pixels in {bad} of its first {len(part)} images."
    return (
        f"{path} holds images of type {dtype}, and extractors take uint8: how they are rounded decides the values, "
        "so round them to 0 to 255 yourself."
    )


def _layout(shape: tuple[int, ...], prefers_last: bool) -> tuple[bool, tuple[int, int, int]] | None:
    """Whether channels come last, and (C, H, W)."""
    if len(shape) == 3:
        return True, (1, shape[1], shape[2])
    if len(shape) != 4 or 0 in shape[1:]:
        return None
    last, first = shape[3] in (1, 3), shape[1] in (1, 3)
    if last and (prefers_last or not first):
        return True, (shape[3], shape[1], shape[2])
    return (False, (shape[1], shape[2], shape[3])) if first else None


def _stored_shape(images: ArrayImages) -> tuple[int, int, int]:
    channels, height, width = images.shape
    return (height, width, channels) if images.is_last else images.shape


def _image_files(folder: Path) -> Iterator[Path]:
    """The images in a folder and below. Raises `UserError` where a part of it cannot be read.

    A link whose end is missing is among them: it is told when the image is read, not left out.
    """
    try:
        for root, _, names in os.walk(folder, onerror=_raise):
            for file in (Path(root, name) for name in names):
                if file.suffix.lower() in SUFFIXES and (file.is_file() or not file.exists()):
                    yield file
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}), so the images of {folder} are not all there: make it "
            "readable, or give a folder without it."
        ) from None


def _raise(error: OSError) -> None:
    """For `os.walk`, which goes on without a word otherwise."""
    raise error


def _header(file: Path) -> tuple[int, int, int]:
    """(C, H, W) of an image that is not decoded yet."""
    from PIL import Image

    with _decoding(file), Image.open(file) as image:
        mode, (width, height), is_clear = image.mode, image.size, "transparency" in image.info
    if mode not in _MODES:
        raise UserError(f"{file} is of mode {mode}: give images in RGB or grey, 8 bits a channel, without alpha.")
    if is_clear:
        raise UserError(f"{file} has a transparent colour: give images without, laid on the background that is meant.")
    return 3 if _MODES[mode] == "RGB" else 1, height, width


def _pixels(file: Path) -> Tensor:
    from PIL import Image

    with _decoding(file), Image.open(file) as image:
        pixels = np.array(image.convert(_MODES[image.mode]))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).contiguous()


@contextmanager
def _decoding(file: Path) -> Iterator[None]:
    """Turn what Pillow raises about a damaged image into one sentence."""
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image ({error}).") from None


def _counted(name: str) -> list[str]:
    """Sorts 2.png before 10.png and all else as texts sort: numbers get leading zeros, in each part of a path."""
    return [re.sub("[0-9]+", lambda number: number[0].zfill(_LONGEST_NAME), part) for part in name.split("/")]


def in_words(shape: tuple[int, int, int]) -> str:
    """For messages: `32x32 in colour`."""
    channels, height, width = shape
    return f"{height}x{width} in {'grey' if channels == 1 else 'colour'}"


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what libraries raise about a damaged file into one sentence."""
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{path} cannot be read: it is damaged or not what its name says ({error}).") from None
