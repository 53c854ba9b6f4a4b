"""All that decides how a training goes on: parameters, Adam's moments, the order of samples, what the watch knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.training.batches import ShuffledBatches
from pqbench.training.resume import ResumeFile
from pqbench.training.watch import Watch


class Keep:
    """Where a training keeps its state, and what belongs to the state besides its own moving parts.

    path      of the file; None: nothing is kept
    trace     rows that come from now on are the training's
    earlier   gets the seconds that led to a state which is gone back to
    """

    def __init__(
        self, path: Path | None, trace: list[dict[str, Any]] | None = None, earlier: list[float] | None = None
    ) -> None:
        self.path = path
        self._trace = [] if trace is None else trace
        self._begin = len(self._trace)
        self._earlier = [] if earlier is None else earlier

    def rows(self) -> list[dict[str, Any]]:
        """What the training has added to the trace."""
        return self._trace[self._begin :]

    def go_back(self, rows: Sequence[dict[str, Any]], seconds: float) -> None:
        """Make the trace that of a state, and count what led to it."""
        self._trace[self._begin :] = rows
        self._earlier.append(seconds)


@dataclass(frozen=True)
class TrainingState:
    """The moving parts of one training."""

    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    order: ShuffledBatches
    watch: Watch

    def save(self, file: ResumeFile, keep: Keep, iteration: int) -> None:
        """Keep the state after `iteration` iterations."""
        tensors = {"order/left": self.order.left, "order/generator": self.order.generator.get_state()}
        for i, (parameter, good) in enumerate(zip(self.parameters, self.watch.good, strict=True)):
            tensors |= {f"{i}/value": parameter, f"{i}/good": good}
            tensors |= {f"{i}/adam/{name}": value for name, value in self.optimizer.state[parameter].items()}
        file.save(tensors, {"iteration": iteration, "watch": self.watch.numbers(), "trace": keep.rows()})

    def load(self, file: ResumeFile, keep: Keep) -> int:
        """Go back to the kept state, if there is one; returns the number of iterations that it has behind it."""
        saved = file.load()
        if saved is None:
            return 0
        tensors, facts = saved.tensors, saved.facts
        for i, parameter in enumerate(self.parameters):
            parameter.data.copy_(tensors[f"{i}/value"])
            self._put_back_moments(parameter, _below(f"{i}/adam/", tensors))
        self.order.left = tensors["order/left"]
        self.order.generator.set_state(tensors["order/generator"])
        self.watch.put_back(facts["watch"], [tensors[f"{i}/good"] for i in range(len(self.parameters))])
        keep.go_back(facts["trace"], saved.seconds)
        return int(facts["iteration"])

    def _put_back_moments(self, parameter: nn.Parameter, moments: dict[str, Tensor]) -> None:
        # Adam counts its steps on the CPU; a parameter without gradients so far has no moments.
        if moments:
            placed = {name: m if name == "step" else m.to(parameter.device) for name, m in moments.items()}
            self.optimizer.state[parameter] = placed


def _below(prefix: str, tensors: Any) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
