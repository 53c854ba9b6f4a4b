"""Readers for the standard files of the data sets that the bundled workloads were trained on.

The data sets do not ship with pqbench; these functions take the folder that holds their official files.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pqbench.base.errors import UserError

Split = Literal["train", "test"]

_FASHION_FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}

_CIFAR10_FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_CIFAR10_SHAPE = (3, 32, 32)
_CIFAR10_CLASSES = 10


def read_idx(path: Path) -> np.ndarray:
    """Read one gzip-compressed idx file of unsigned bytes (LeCun's MNIST format).

    Raises `UserError` when the file is missing, truncated, or not of that format.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: pass --data the folder that holds the official gzip idx files.")
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise UserError(f"{path} is not a complete gzip file ({error}): download it again.") from None
    zero, dtype, rank = struct.unpack(">HBB", raw[:4])
    if zero != 0 or dtype != 0x08:
        raise UserError(f"{path} is not an idx file of unsigned bytes.")
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    data = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank)
    if data.size != int(np.prod(shape)):
        raise UserError(f"{path} holds {data.size} bytes but its header promises {shape}.")
    return data.reshape(shape)


def fashion_mnist(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST (Xiao et al., 2017), padded from 28x28 to 32x32 with black.

    Returns images (N, 1, 32, 32) uint8 and labels (N,) int64.
    """
    images_name, labels_name = _FASHION_FILES[split]
    images = torch.from_numpy(read_idx(folder / images_name).copy())
    labels = torch.from_numpy(read_idx(folder / labels_name).astype(np.int64))
    return torch.nn.functional.pad(images, (2, 2, 2, 2)).unsqueeze(1), labels


def cifar10(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """CIFAR-10 (Krizhevsky, 2009) from its binary version: data_batch_1.bin and the others.

    The version for Python is not read: its files are pickles. Returns images (N, 3, 32, 32) uint8 and labels (N,)
    int64. Raises `UserError` when a file is missing or truncated.
    """
    records = np.concatenate([_cifar10_records(folder / name) for name in _CIFAR10_FILES[split]])
    images = torch.from_numpy(records[:, 1:].reshape(-1, *_CIFAR10_SHAPE))
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


def _cifar10_records(path: Path) -> np.ndarray:
    """The records of one file, (N, 1 + 3072) uint8: a label, then red, green and blue, row by row."""
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: pass --data the folder of CIFAR-10's binary version (cifar-10-batches-bin)."
        )
    data = np.fromfile(path, dtype=np.uint8)
    size = 1 + int(np.prod(_CIFAR10_SHAPE))
    if not data.size or data.size % size:
        raise UserError(f"{path} has {data.size} bytes, no multiple of {size}: it is truncated, download it again.")
    records = data.reshape(-1, size)
    if records[:, 0].max() >= _CIFAR10_CLASSES:
        raise UserError(f"{path} is not a file of CIFAR-10: it has the label {records[:, 0].max()}, of 0 to 9.")
    return records
