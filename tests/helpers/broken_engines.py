"""Engines that are wrong in one way each, where the processes of a timing can import them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.engines.torch_eager import EagerExecutable, TorchEager

NOTES = "PQBENCH_TEST_NOTES"
"""Names the folder in which each timing process leaves a file."""


class Missing(TorchEager):
    """An engine that is not installed."""

    def available(self) -> str:
        return "The engine missing needs hardware that this machine lacks."


class Crashing(TorchEager):
    """An engine whose kernels bring the process down."""

    def compile(self, net: torch.nn.Module, shape: tuple[int, int, int], batch: int, threads: int) -> EagerExecutable:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
        return super().compile(net, shape, batch, threads)


class Raising(TorchEager):
    """An engine with a bug."""

    def compile(self, net: torch.nn.Module, shape: tuple[int, int, int], batch: int, threads: int) -> EagerExecutable:
        raise ZeroDivisionError("no such kernel")


class Sleeping(TorchEager):
    """An engine of known speed: 10 ms a step, and 60 ms in the second process: far enough for a busy machine."""

    def compile(self, net: torch.nn.Module, shape: tuple[int, int, int], batch: int, threads: int) -> EagerExecutable:
        notes = Path(os.environ[NOTES])
        (notes / str(os.getpid())).touch()
        pause = 0.060 if len(list(notes.iterdir())) == 2 else 0.010

        class Slow(EagerExecutable):
            def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
                time.sleep(pause)
                return super().__call__(x_t, t)

        return Slow(net, threads)


class Wrong(TorchEager):
    """An engine whose kernels scale every prediction."""

    executes_quantized = True

    def compile(self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int) -> Any:  # type: ignore[override]
        inner = super().compile(net, shape, batch, threads)

        class Scaled:
            layers = inner.layers

            def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
                return 2 * inner(x_t, t)

        return Scaled()
