"""How much faster the range searches are than a Python loop over the same candidates.

    python benchmarks/range_search.py --threads 1

Loop and search take turns in one process, so that a busy machine slows both; the ratio of their medians counts. The
loop is the plain one: fake-quantize, take the error, keep the better. It works on all rows of a tensor at once, which
is already kinder than the field's code, where another loop goes over the channels (`--per-channel-loop` adds that
one). Both must find the same: the largest excess of the search's error over the loop's is printed, from float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.ranges.rules import LP_CANDIDATES, LP_NORM, lp_search, lp_search_2d

Found = tuple[Tensor, Tensor]
Candidates = Callable[[Tensor, Grid], Iterator[Found]]


@dataclass(frozen=True)
class Case:
    """One thing to be searched, by ours and by the loop over `candidates`."""

    name: str
    values: Tensor
    grid: Grid
    search: Callable[[Tensor, Grid], Found]
    candidates: Candidates


def widths(values: Tensor, grid: Grid) -> Iterator[Found]:
    """Both ends shrunk together."""
    low, high = values.amin(1), values.amax(1)
    for i in range(LP_CANDIDATES):
        share = 1 - i / LP_CANDIDATES
        yield grid.parameters(low * share, high * share)


def widths_and_zeros(values: Tensor, grid: Grid) -> Iterator[Found]:
    """Every width with every zero-point."""
    full = (values.amax(1) - values.amin(1)) / (grid.high - grid.low)
    for i in range(LP_CANDIDATES, 0, -1):
        for zero in range(grid.low, grid.high + 1):
            yield full * (i / LP_CANDIDATES), torch.full_like(full, zero, dtype=torch.int32)


def loop(values: Tensor, grid: Grid, candidates: Candidates) -> Found:
    """The best candidate of every row, one candidate after the other."""
    least = torch.full_like(values[:, 0], torch.inf)
    best = torch.ones_like(least), torch.zeros_like(least, dtype=torch.int32)
    for scale, zero in candidates(values, grid):
        steps = torch.clamp(torch.round(values / scale[:, None]) + zero[:, None], grid.low, grid.high)
        error = ((steps - zero[:, None]) * scale[:, None] - values).abs().pow(LP_NORM).mean(1)
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, scale, best[0]), torch.where(better, zero, best[1])
    return best


def loop_by_channel(values: Tensor, grid: Grid, candidates: Candidates) -> Found:
    """The same, one row after the other."""
    found = [loop(row[None], grid, candidates) for row in values]
    return torch.cat([scale for scale, _ in found]), torch.cat([zero for _, zero in found])


def excess(case: Case, found: Found, expected: Found) -> float:
    """By how much the error of `found` exceeds that of `expected`, as a share, in the worst row; in float64."""

    def error(scale: Tensor, zero: Tensor) -> Tensor:
        x, s, z = case.values.double(), scale.double()[:, None], zero.double()[:, None]
        codes = torch.clamp(torch.round(x / s) + z, case.grid.low, case.grid.high)
        return ((codes - z) * s - x).abs().pow(LP_NORM).mean(1)

    return float((error(*found) / error(*expected) - 1).max())


def cases() -> Iterator[Case]:
    """A convolution of 512 x 512 x 3 x 3 by output channel, and 65,536 activations as a SiLU leaves them."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(512, 512 * 9, generator=generator) * 0.02
    activations = torch.nn.functional.silu(1.5 * torch.randn(1, 65_536, generator=generator))
    for bits in (4, 8):
        yield Case(f"weights, {bits} bits, symmetric", weights, Grid(bits, True), lp_search, widths)
        yield Case(f"activations, {bits} bits", activations, Grid(bits), lp_search, widths)
    # Of the largest cases the loop takes minutes, so that it gets fewer rows or values.
    yield Case("weights of 32 channels, 4 bits, 2-D", weights[:32], Grid(4), lp_search_2d, widths_and_zeros)
    yield Case("activations, 4 bits, 2-D", activations, Grid(4), lp_search_2d, widths_and_zeros)
    yield Case("8,192 activations, 8 bits, 2-D", activations[:, :8192], Grid(8), lp_search_2d, widths_and_zeros)


def measured(case: Case, plain: Callable[[Tensor, Grid, Candidates], Found], rounds: int) -> str:
    """One line about a case, from runs that take turns."""
    seconds: dict[str, list[float]] = {"loop": [], "search": []}
    for _ in range(rounds):
        start = time.perf_counter()
        expected = plain(case.values, case.grid, case.candidates)
        middle = time.perf_counter()
        found = case.search(case.values, case.grid)
        seconds["loop"].append(middle - start)
        seconds["search"].append(time.perf_counter() - middle)
    slow, fast = (statistics.median(times) for times in seconds.values())
    return (
        f"{case.name:38} {plain.__name__} {slow * 1e3:8.1f} ms, search {fast * 1e3:6.1f} ms, "
        f"ratio {slow / fast:6.1f}, excess error {excess(case, found, expected):.1e}"
    )


@torch.no_grad()
def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--per-channel-loop", action="store_true", help="also against a loop over channels")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for case in cases():
        print(measured(case, loop, options.rounds), flush=True)
        if options.per_channel_loop and len(case.values) > 32:
            print(measured(case, loop_by_channel, 1), flush=True)


if __name__ == "__main__":
    main()
