"""Progress of a progressive quantization: blocks done, out of all blocks of both stages."""

from __future__ import annotations

from dataclasses import dataclass

from pqbench.contracts import ProgressCallback


@dataclass
class BlockProgress:
    """Counts finished blocks over the two stages."""

    report: ProgressCallback
    total: int
    done: int = 0

    def finished(self, what: str) -> None:
        """One more block is done."""
        self.done += 1
        self.report(self.done, self.total, what)
