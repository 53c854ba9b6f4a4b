"""What libraries raise about files of arrays that are damaged or not what their names say."""

from __future__ import annotations

import zipfile
import zlib
from tokenize import TokenError

from safetensors import SafetensorError

DAMAGE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
    TokenError,  # NumPy reads the header of an array as Python
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,  # encryption and compressions that Python lacks; a `NotImplementedError` is one
)
"""Of reading an .npz or .safetensors file: its archive, its headers, its contents."""
