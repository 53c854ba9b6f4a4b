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

from pqbench.errors import UserError

Split = Literal["train", "test"]

_FASHION_FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


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
