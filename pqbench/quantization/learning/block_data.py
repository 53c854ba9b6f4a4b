"""What a block sees and what it should answer, captured from a net over a calibration set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pqbench.base.errors import UserError
from pqbench.quantization.grids.time_tables import at_time_steps
from pqbench.quantization.learning.row_store import Rows, RowStore

CAPTURE_BATCH = 64
"""Calibration samples that go through the net together while data is captured."""

_POWER_ROWS = 64


@dataclass
class BlockData:
    """What a block sees and what it should answer, for every sample of a calibration set.

    arguments   the block's arguments that hold a row a sample, each (N, ...), by position or name
    fixed       all other arguments, the same for every sample
    target      (N, ...) the full-precision block's output
    t           (N,) the samples' time steps, which a block with activation tables needs to know; None: it has none
    """

    arguments: dict[int | str, Rows]
    fixed: dict[int | str, Any]
    target: Rows
    t: Tensor | None = None

    def rows(self, index: Tensor) -> dict[int | str, Tensor]:
        """The arguments that hold a row a sample, for the samples `index`."""
        return {key: rows[index] for key, rows in self.arguments.items()}

    def call(self, block: nn.Module, index: Tensor) -> Tensor:
        """Run `block` on the samples `index`."""
        merged = self.fixed | self.rows(index)
        positional = [merged[k] for k in sorted(k for k in merged if isinstance(k, int))]
        named = {k: v for k, v in merged.items() if isinstance(k, str)}
        with at_time_steps(block, None if self.t is None else self.t[index]):
            return first_tensor(block(*positional, **named))

    def power(self) -> Tensor:
        """Mean square of the target, ()."""
        if isinstance(self.target, Tensor):
            return self.target.square().mean()
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(self.target), _POWER_ROWS):
            total += self.target[start : start + _POWER_ROWS].double().square().sum().cpu()
        return (total / self.target.shape.numel()).to(self.target.device, self.target.dtype)


@dataclass
class MixedBlockData(BlockData):
    """Data whose inputs are mixed, element by element, with those of the full-precision net (Wei et al., QDrop, 2022).

    full        the full-precision net's counterparts of `arguments`
    share       probability with which an element comes from `full`
    generator   draws anew at every call
    """

    full: dict[int | str, Rows] = field(default_factory=dict)
    share: float = 0.5
    generator: torch.Generator = field(default_factory=torch.Generator)

    def rows(self, index: Tensor) -> dict[int | str, Tensor]:
        """The arguments for the samples `index`, floating-point ones mixed."""
        mixed = super().rows(index)
        for key, value in mixed.items():
            if value.is_floating_point():
                taken = torch.rand(value.shape, generator=self.generator) < self.share
                mixed[key] = torch.where(taken.to(value.device), self.full[key][index], value)
        return mixed


def first_tensor(output: Any) -> Tensor:
    """A block's output tensor, also when it returns a tuple."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"A block returned {type(output).__name__}, not a tensor.")
    return output


@dataclass(frozen=True)
class Captured:
    """Arguments (those with rows (N, ...), and the rest) and outputs (N, ...) of blocks, by name."""

    inputs: dict[str, tuple[dict[int | str, Rows], dict[int | str, Any]]]
    outputs: dict[str, Rows]


@torch.no_grad()
def capture(
    net: nn.Module,
    inputs: Sequence[str],
    outputs: Sequence[str],
    samples: Sequence[Tensor],
    batch: int = CAPTURE_BATCH,
    store: RowStore | None = None,
) -> Captured:
    """Inputs of some blocks and outputs of some over a calibration set, from one pass.

    samples   x_t, t and what else the net is called with, each (N, ...)
    store     where the rows are kept; None: in memory

    Each forward ends as soon as all have been seen. A block that runs several times in one forward is seen at its first
    call. Raises `UserError` when an output has no row a sample, or an argument varies over the set without having one.
    """
    kept, count = RowStore(_UNLIMITED) if store is None else store, len(samples[0])
    watch = _Watch(
        {name: _Inputs(name, count, kept) for name in inputs},
        {name: _Outputs(name, count, kept) for name in outputs},
    )
    hooks = [net.get_submodule(name).register_forward_pre_hook(watch.before(name), with_kwargs=True) for name in inputs]
    hooks += [net.get_submodule(name).register_forward_hook(watch.after(name)) for name in outputs]
    try:
        parts = [slice(start, min(start + batch, count)) for start in range(0, count, batch)]
        # One sample first shows which arguments follow the number of samples: a table may be as long as a batch.
        for part in [slice(0, 1), *parts] if inputs else parts:
            watch.begin(part)
            try:
                net(*(each[part] for each in samples))
            except _Reached:
                continue
    finally:
        for hook in hooks:
            hook.remove()
    return Captured(
        {name: taken.result() for name, taken in watch.inputs.items()},
        {name: taken.result() for name, taken in watch.outputs.items()},
    )


_UNLIMITED = 1 << 62


class _Reached(Exception):  # noqa: N818  (it is a signal, not an error)
    """Ends a forward pass once everything that was wanted has been seen."""


class _Watch:
    """Hands what hooks see to its takers: of every batch the first call alone."""

    def __init__(self, inputs: dict[str, _Inputs], outputs: dict[str, _Outputs]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._part = slice(0, 0)
        self._left: set[tuple[str, str]] = set()

    def begin(self, part: slice) -> None:
        """The rows of the batch that comes next."""
        self._part = part
        self._left = {("input", name) for name in self.inputs} | {("output", name) for name in self.outputs}

    def before(self, name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if ("input", name) in self._left:
                arguments: dict[int | str, Any] = dict(enumerate(args))
                arguments.update(kwargs)
                self.inputs[name].take(self._part, arguments)
                self._seen("input", name)

        return hook

    def after(self, name: str) -> Any:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            if ("output", name) in self._left:
                self.outputs[name].take(self._part, first_tensor(output))
                self._seen("output", name)

        return hook

    def _seen(self, kind: str, name: str) -> None:
        self._left.remove((kind, name))
        if not self._left:
            raise _Reached


class _Outputs:
    """The outputs of one block, batch after batch."""

    def __init__(self, block: str, count: int, store: RowStore) -> None:
        self._block, self._count, self._store = block, count, store
        self._rows: Rows | None = None

    def take(self, part: slice, output: Tensor) -> None:
        if not _has_rows(output, part):
            raise UserError(_refused(self._block, "its output has no row a sample"))
        if self._rows is None:
            self._rows = self._store.rows(self._count, output)
        self._rows[part] = output

    def result(self) -> Rows:
        if self._rows is None:
            raise UserError(_refused(self._block, "the net does not run it"))
        return self._rows


class _Inputs:
    """The arguments of one block, batch after batch: which have rows, and which are the same for all.

    The first call is of one sample and only says which arguments may have rows.
    """

    def __init__(self, block: str, count: int, store: RowStore) -> None:
        self._block, self._count, self._store = block, count, store
        self._follow: set[int | str] | None = None
        self._first: dict[int | str, Any] | None = None
        self._rows: dict[int | str, Rows] = {}
        self._constant: set[int | str] = set()

    def take(self, part: slice, arguments: dict[int | str, Any]) -> None:
        if self._follow is None:
            self._follow = {key for key, value in arguments.items() if _has_rows(value, part)}
            return
        if self._first is None:
            self._first = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, arguments)
            self._constant = set(arguments)
            self._rows = {
                key: self._store.rows(self._count, value)
                for key, value in arguments.items()
                if key in self._follow and _has_rows(value, part)
            }
        for key in self._constant & arguments.keys():
            if not _same_tensors(self._first[key], arguments[key]):
                self._constant.discard(key)
        for key in list(self._rows):
            if _has_rows(arguments[key], part):
                self._rows[key][part] = arguments[key]
            else:
                self._store.free(self._rows.pop(key))

    def result(self) -> tuple[dict[int | str, Rows], dict[int | str, Any]]:
        if self._first is None:
            raise UserError(_refused(self._block, "the net does not run it"))
        fixed = {key: value for key, value in self._first.items() if key not in self._rows}
        for key in fixed:
            if key not in self._constant:
                what = f"its argument {key!r} varies over the calibration set and has no row a sample"
                raise UserError(_refused(self._block, what))
        return self._rows, fixed


def _refused(block: str, why: str) -> str:
    return f"Block {block} cannot be reconstructed: {why}. Leave its layers in full precision: exempt='{block}.*'."


def _has_rows(value: Any, part: slice) -> bool:
    """Whether an argument is a tensor with one row for every sample of its batch."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == part.stop - part.start


def _same_tensors(one: Any, other: Any) -> bool:
    """Whether the tensors in two arguments, also nested ones, are the same."""
    leaves = [[leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)] for value in (one, other)]
    return len(leaves[0]) == len(leaves[1]) and all(torch.equal(a, b) for a, b in zip(*leaves, strict=True))
