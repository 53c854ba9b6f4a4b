"""Tables of activation parameters, one set for each of the sampler's time steps.

(So et al., "Temporal dynamic quantization", NeurIPS 2023, as a table; He et al., "EfficientDM", ICLR 2024, TALSQ.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.quantization.grids.step_clock import StepClock
from pqbench.quantization.net.layers import ActivationQuantizer


def keep_time(net: nn.Module, time_steps: Iterable[int]) -> StepClock:
    """Give all activation quantizers of `net` one clock over `time_steps` that follows the calls net(x_t, t).

    They stay static until they are given a table. A net that has a clock already keeps it, with the new time steps:
    its tables must then be set anew.
    """
    quantizers = list(_quantizers(net))
    clocks = _clocks(quantizers)
    if clocks:
        clock = clocks[0]
        clock.time_steps = StepClock(time_steps).time_steps
    else:
        clock = StepClock(time_steps)
        clock.follow(net)
    for quantizer in quantizers:
        quantizer.clock = clock
    return clock


def start_tables(net: nn.Module, time_steps: Iterable[int]) -> None:
    """Give every static activation grid of `net` a table over `time_steps`, whose values are to be set."""
    steps = len(keep_time(net, time_steps))
    for quantizer in _quantizers(net):
        if quantizer.grid is not None and not quantizer.dynamic:
            place = quantizer.scale.device
            quantizer.set(torch.ones(steps, device=place), torch.zeros(steps, dtype=torch.int32, device=place))


@contextmanager
def at_time_steps(part: nn.Module, t: Tensor | None) -> Iterator[None]:
    """Run `part` of a net by itself at time steps `t`, () or (N,); without tables or without `t` this does nothing."""
    with ExitStack() as stack:
        if t is not None:
            for clock in _clocks(_quantizers(part)):
                stack.enter_context(clock.at(t))
        yield


def table_steps(net: nn.Module) -> tuple[int, ...]:
    """The time steps of the tables of `net`, ascending; empty when no quantizer has a table that can be used.

    Raises `UserError` when its quantizers have tables over different time steps.
    """
    tables = {q.clock.time_steps for q in _quantizers(net) if q.scale.dim() and q.clock is not None}
    if len(tables) > 1:
        raise UserError("The net's layers have activation tables over different time steps: calibrate them together.")
    return tables.pop() if tables else ()


def _quantizers(net: nn.Module) -> Iterator[ActivationQuantizer]:
    return (module for module in net.modules() if isinstance(module, ActivationQuantizer))


def _clocks(quantizers: Iterable[ActivationQuantizer]) -> list[StepClock]:
    return list({id(q.clock): q.clock for q in quantizers if q.clock is not None}.values())
