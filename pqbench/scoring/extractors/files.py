"""Reading files of weights, without ever unpickling an object."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor

from pqbench.base.errors import UserError


def read_state(weights: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a state dict that torch saved, by name.

    Raises `UserError` for a file that is damaged, or that holds anything but tensors.
    """
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(weights)
        held: object = torch.load(weights, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{weights} cannot be read ({error.strerror or error}).") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise _unreadable(weights, error) from None
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise _unreadable(weights, error) from None
        raise
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise UserError(f"{weights} is no state dict: it holds something else than named tensors.")
    return held


def read_torchscript(weights: Path) -> torch.jit.ScriptModule:
    """A TorchScript module, on the CPU and in evaluation mode. Only for files whose hash has been verified.

    Raises `UserError` for a file that is damaged or is none.
    """
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, and what is published is TorchScript.
            warnings.simplefilter("ignore", DeprecationWarning)
            module: torch.jit.ScriptModule = torch.jit.load(str(weights), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise _unreadable(weights, error) from None
    return module.eval()


def _unreadable(weights: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"{weights} is damaged, or no file of weights ({reason[:120]}).")
