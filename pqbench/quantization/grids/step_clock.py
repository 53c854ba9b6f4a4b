"""The step clock: at which of the sampler's time steps the rows of a batch are, for quantizers that depend on it.

A net's quantizers share one clock, and hooks of the net set it from the `t` of every call `net(x_t, t, ...)`. Where a
part of the net is run by itself, the caller says at which time steps: `with clock.at(t): block(...)`. Outside of both
the clock does not know the time, and says so instead of giving the last one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError


class StepClock:
    """The current places of a batch in a table over S time steps.

    time_steps   S training time steps, ascending; a time step between or beyond them counts as the nearest (of two
                 equally near ones, the lower)

    Raises `UserError` when there are none.
    """

    def __init__(self, time_steps: Iterable[int]) -> None:
        self.time_steps = tuple(sorted({int(t) for t in time_steps}))
        if not self.time_steps:
            raise UserError("A table over time steps needs at least one time step.")
        self._places: list[int | Tensor] = []

    def __len__(self) -> int:
        return len(self.time_steps)

    def places(self, t: Tensor) -> int | Tensor:
        """The rows of the table for time steps `t`, () or (N,): one int when they all are the same, else (N,) int64."""
        steps = torch.tensor(self.time_steps, device=t.device)
        nearest = (t.detach().reshape(-1, 1) - steps).abs().argmin(1)
        same = bool((nearest == nearest[:1]).all())
        return int(nearest[0]) if same else nearest

    @contextmanager
    def at(self, t: Tensor) -> Iterator[None]:
        """Within this context the batch's rows are at time steps `t`, () or (N,)."""
        depth = len(self._places)
        self._places.append(self.places(t))
        try:
            yield
        finally:
            del self._places[depth:]

    def follow(self, net: nn.Module) -> None:
        """Take the time from every call of `net`, net(x_t, t, ...) or net(x_t, t=t)."""
        # Bound methods: a deep copy of the net has hooks of the copied clock.
        net.register_forward_pre_hook(self._enter, with_kwargs=True)
        net.register_forward_hook(self._leave, always_call=True)

    def _enter(self, _net: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        t = args[1] if len(args) > 1 else kwargs.get("t")
        if not isinstance(t, Tensor):
            raise UserError("This net has activation parameters for each time step: call it as net(x_t, t).")
        self._places.append(self.places(t))

    def _leave(self, _net: nn.Module, _args: object, _output: object) -> None:
        del self._places[-1:]

    def rows(self, x: Tensor) -> int | Tensor:
        """The place in the table of every row of `x`: one int for all of them, or (len(x),) int64.

        Of the k N rows of an input that was reshaped from N samples, k following each other belong to one sample
        (attention folds its heads into the batch like that). Raises `UserError` when the time is not known or the rows
        are no multiple of the samples.
        """
        if not self._places:
            raise UserError(
                "Activation parameters for each time step are in use, and the time step is not known: run the whole "
                "net, or a part of it within `at_time_steps(part, t)`."
            )
        places = self._places[-1]
        if isinstance(places, int) or len(places) == len(x):
            return places
        if len(x) % len(places):
            raise UserError(
                f"A layer's input has {len(x)} rows for {len(places)} samples at several time steps, so it is not "
                "known which row is at which: exempt the layer, or run one time step at once."
            )
        return places.repeat_interleave(len(x) // len(places))

    def pick(self, table: Tensor, x: Tensor) -> Tensor:
        """What of a table (S,) belongs to `x`: () when all rows are at one time step, else (len(x), 1, ...)."""
        rows = self.rows(x)
        if isinstance(rows, int):
            return table[rows]
        return table[rows.to(table.device)].view(-1, *[1] * (x.dim() - 1))


def nearest_seen(time_steps: Sequence[int], seen: Collection[int]) -> list[int]:
    """For every place of a table, the nearest place in `seen` by time step (of two equally near ones, the lower)."""
    ordered = sorted(seen)
    return [min(ordered, key=lambda place: abs(time_steps[place] - t)) for t in time_steps]
