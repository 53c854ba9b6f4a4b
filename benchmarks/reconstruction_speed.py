"""Reconstruction iterations a second: our loop against Q-Diffusion's released code, on the same block.

    git clone https://github.com/Xiuyu-Li/q-diffusion DIR
    pip install einops        # all that DIR's modules need beside torch, numpy, tqdm and pillow
    python benchmarks/reconstruction_speed.py --official DIR --shapes 256x8 256x16 --iterations 10

The block is DIR's own residual block of its CIFAR-10 model (two 3x3 convolutions and a time projection), with the same
random weights, cached inputs, batch and iterations for both, AdaRound with the published settings at W4. They take
turns in one process. Four lines a shape: the released code; ours; ours with bfloat16 convolutions (`mixed`); and the
floor of the first two, the block's convolutions and matrix product alone, forward and backward in float32, with every
gradient that AdaRound needs (all weights', and all inputs' but the first layer's).
The released code keeps its dropout on (0.1), as it does when it is run; its loop is written for a GPU, so its moves
"to cuda" are answered with the tensor itself when there is none. Its own caching of inputs is not timed.

Times are medians of wall time and, where other work shares the machine, of the process's CPU time, which is the fairer
of the two there. Nothing of the released code is part of pqbench: it is imported from DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqbench.quantization.learning.block_data import BlockData
from pqbench.quantization.learning.reconstruction import Descent, reconstruct
from pqbench.quantization.learning.rounding import RoundingPressure, start_rounding
from pqbench.quantization.net.layers import QuantizedLayer, quantizable_layers, replace_module
from pqbench.quantization.ranges.fitting import calibrate_weights
from pqbench.quantization.ranges.rules import minmax

BITS, BATCH, SAMPLES, EMBEDDING = 4, 32, 128, 512
WEIGHT, WARMUP = 0.01, 0.2


@dataclass(frozen=True)
class Problem:
    """A full-precision block, and what it sees and answers on all samples."""

    block: nn.Module
    x: Tensor
    embedding: Tensor
    target: Tensor


class OneBlock(nn.Module):
    """A net of one block, as the released code wants to be given it."""

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.block = block
        self.in_channels = channels

    def forward(self, x: Tensor, embedding: Tensor, _context: object = None) -> Tensor:
        """The block's answer."""
        result: Tensor = self.block(x, embedding)
        return result


def problem(channels: int, size: int) -> Problem:
    """The released code's block with random weights, on noise."""
    torch.manual_seed(0)
    kind = importlib.import_module("ddim.models.diffusion").ResnetBlock
    block = kind(in_channels=channels, dropout=0.1, temb_channels=EMBEDDING).eval()
    x, embedding = torch.randn(SAMPLES, channels, size, size), torch.randn(SAMPLES, EMBEDDING)
    with torch.no_grad():
        target = torch.cat([block(a, b) for a, b in zip(x.split(BATCH), embedding.split(BATCH), strict=True)])
    return Problem(block, x, embedding, target)


def official(given: Problem, iterations: int) -> Callable[[], None]:
    """The released code's optimisation of the block, ready to run."""
    module: Any = importlib.import_module("qdiff.block_recon")
    net = OneBlock(copy.deepcopy(given.block), given.x.shape[1])
    weights = {"n_bits": BITS, "channel_wise": True, "scale_method": "max"}
    inputs = {"n_bits": 8, "symmetric": True, "channel_wise": False, "scale_method": "max", "leaf_param": True}
    quantized = module.QuantModel(net, weights, inputs)
    quantized.set_quant_state(True, False)
    with torch.no_grad():
        quantized(given.x[:2], given.embedding[:2])
    quantized.train()

    def run() -> None:
        with (
            mock.patch.object(module, "save_inp_oup_data", return_value=([given.x, given.embedding], given.target)),
            _cuda_is_here(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            module.block_reconstruction(
                quantized,
                quantized.model.block,
                None,
                batch_size=BATCH,
                iters=iterations,
                weight=WEIGHT,
                asym=True,
                warmup=WARMUP,
                act_quant=False,
            )

    return run


@contextlib.contextmanager
def _cuda_is_here() -> Iterator[None]:
    """Without a GPU, `tensor.to("cuda")` is the tensor itself."""
    move = Tensor.to

    def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if args and args[0] == "cuda" else move(tensor, *args, **kwargs)

    if torch.cuda.is_available():
        yield
    else:
        with mock.patch.object(Tensor, "to", to):
            yield


def ours(given: Problem, iterations: int, mixed: bool) -> Callable[[], None]:
    """Our optimisation of the same block, ready to run."""
    net = nn.ModuleDict({"block": copy.deepcopy(given.block).eval().requires_grad_(False)})
    floats = {name: layer.weight.detach().clone() for name, layer in quantizable_layers(net)}
    for name, layer in list(quantizable_layers(net)):
        replace_module(net, name, QuantizedLayer(layer, BITS, 32, w_symmetric=False))
    calibrate_weights(net, minmax)
    data = BlockData({0: given.x, 1: given.embedding}, {}, given.target)

    def run() -> None:
        roundings = [layer.rounding for layer in start_rounding(net, floats).values()]
        reconstruct(
            "block",
            net["block"],
            data,
            [rounding.v for rounding in roundings],
            Descent(iterations, 1e-3, BATCH, mixed=mixed),
            torch.Generator().manual_seed(0),
            regulariser=RoundingPressure(roundings, iterations, WEIGHT, WARMUP),
        )

    return run


def floor(given: Problem, iterations: int) -> Callable[[], None]:
    """The arithmetic of the block alone, ready to run: its products, with nothing between them."""
    block = given.block
    # In the order of the block: conv1 on x, the projection of the embedding, conv2 on what conv1 made.
    convolutions: list[nn.Conv2d] = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    linear = next(m for m in block.modules() if isinstance(m, nn.Linear))
    weights = [m.weight.detach().clone().requires_grad_() for m in (*convolutions, linear)]
    batches = list(zip(given.x.split(BATCH), given.embedding.split(BATCH), strict=True))

    def run() -> None:
        for k in range(iterations):
            x, embedding = batches[k % len(batches)]
            for layer, weight in zip(convolutions, weights, strict=False):
                x = functional.conv2d(x, weight, None, layer.stride, layer.padding)
            projected = functional.linear(embedding, weights[-1])
            gradients = [torch.ones_like(x), torch.ones_like(projected)]
            torch.autograd.backward([x, projected], gradients)
            for weight in weights:
                weight.grad = None

    return run


def timed(make: Callable[[], Callable[[], None]]) -> tuple[float, float]:
    """Wall and CPU seconds of one run, its preparation left out."""
    run = make()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print four lines a shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--official", type=Path, required=True, help="a checkout of Xiuyu-Li/q-diffusion")
    parser.add_argument("--shapes", nargs="+", default=["256x4", "256x8", "256x16", "128x32"], help="channels x size")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # the released code's
    sys.path.insert(0, str(options.official))
    for shape in options.shapes:
        given = problem(*map(int, shape.split("x")))
        runs: dict[str, Callable[[], Callable[[], None]]] = {
            "official": lambda given=given: official(given, options.iterations),  # type: ignore[misc]
            "ours": lambda given=given: ours(given, options.iterations, False),  # type: ignore[misc]
            "ours mixed": lambda given=given: ours(given, options.iterations, True),  # type: ignore[misc]
            "floor": lambda given=given: floor(given, options.iterations),  # type: ignore[misc]
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(options.rounds + 1):
            for name, make in runs.items():
                times[name].append(timed(make))
        report(shape, options.iterations, times)


def report(shape: str, iterations: int, times: dict[str, list[tuple[float, float]]]) -> None:
    """Rates and ratios; the first round is a warm-up."""
    medians = {name: [statistics.median(each) for each in zip(*kept[1:], strict=True)] for name, kept in times.items()}
    for name, (wall, cpu) in medians.items():
        first_wall, first_cpu = medians["official"]
        print(
            f"{shape} {name:10}: {iterations / wall:6.2f} it/s, {iterations / cpu:6.2f} it per CPU second; "
            f"ratio {first_wall / wall:.2f} (CPU time {first_cpu / cpu:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
