"""Block after block of a net that is being quantized: what each sees and should answer, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pqbench.quantization.learning.block_data import CAPTURE_BATCH, BlockData, Captured, MixedBlockData, capture
from pqbench.quantization.learning.row_store import MEMORY_LIMIT, Rows, RowStore

Inputs = Literal["quantized", "full", "mixed"]
"""Where a block's inputs come from: the quantized prefix, the full-precision net, or element by element from both."""


@dataclass(frozen=True)
class Mixing:
    """How quantized-prefix and full-precision inputs are mixed (QDrop): `share` is that of full precision."""

    share: float
    generator: torch.Generator


class BlockSource:
    """Data for the reconstruction of the blocks of `net`.

    net            the net that is being changed: its prefix makes a block's inputs
    reference      the full-precision net, with modules of the same names: its answers are the targets
    blocks         in the order of execution (`block_names`, or layers)
    samples        what the nets are called with, each (N, ...): x_t, t and the condition (`CalibrationSet.inputs`)
    memory_limit   bytes of inputs and targets that are kept in memory at a time; more goes to temporary files

    The reference is run for as many blocks together as half of the memory holds, and its data is kept for the next
    stage if all of it fits. Use as a context manager: it removes the files, also on errors.
    """

    def __init__(
        self,
        net: nn.Module,
        reference: nn.Module,
        blocks: Sequence[str],
        *samples: Tensor,
        memory_limit: int = MEMORY_LIMIT,
        batch: int = CAPTURE_BATCH,
    ) -> None:
        self.net, self.reference, self.blocks = net, reference, list(blocks)
        self._samples, self._batch = samples, batch
        self._store = RowStore(memory_limit)
        self._full = Captured({}, {})

    def __len__(self) -> int:
        """Calibration samples."""
        return len(self._samples[0])

    def __enter__(self) -> BlockSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
        self._full = Captured({}, {})

    @contextmanager
    def data(self, block: str, inputs: Inputs = "quantized", mixing: Mixing | None = None) -> Iterator[BlockData]:
        """The data of one block, which is there until the context ends; `mixing` belongs to mixed inputs."""
        full = self._of_reference(block, with_inputs=inputs != "quantized")
        target = full.outputs[block]
        if inputs == "full":
            yield BlockData(*full.inputs[block], target, self._samples[1])
            return
        own = capture(self.net, [block], [], self._samples, self._batch, self._store)
        arguments, fixed = own.inputs[block]
        try:
            if mixing is None:
                yield BlockData(arguments, fixed, target, self._samples[1])
            else:
                theirs = full.inputs[block][0]
                t, (share, generator) = self._samples[1], (mixing.share, mixing.generator)
                yield MixedBlockData(arguments, fixed, target, t, theirs, share, generator)
        finally:
            self._free(arguments.values())

    def _of_reference(self, block: str, with_inputs: bool) -> Captured:
        held = block in self._full.outputs and (not with_inputs or block in self._full.inputs)
        if not held:
            for arguments, _ in self._full.inputs.values():
                self._free(arguments.values())
            self._free(self._full.outputs.values())
            self._full = Captured({}, {})
            names = self._that_fit(block, with_inputs)
            inputs = names if with_inputs else []
            self._full = capture(self.reference, inputs, names, self._samples, self._batch, self._store)
        return self._full

    def _that_fit(self, block: str, with_inputs: bool) -> list[str]:
        """`block` and the blocks after it whose data fits into half of the memory together."""
        left = self.blocks[self.blocks.index(block) :]
        first = [each[:1] for each in self._samples]
        example = capture(self.reference, left if with_inputs else [], left, first)
        room = self._store.memory_limit / 2 / len(self)
        chosen: list[str] = []
        for name in left:
            kept = [example.outputs[name], *(example.inputs[name][0].values() if with_inputs else ())]
            room -= sum(rows.nbytes for rows in kept)
            if chosen and room < 0:
                break
            chosen.append(name)
        return chosen

    def _free(self, rows: Any) -> None:
        for each in list[Rows](rows):
            self._store.free(each)
