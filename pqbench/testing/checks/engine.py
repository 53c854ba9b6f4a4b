"""The contract of engines."""

from __future__ import annotations

from typing import Any

import torch

from pqbench.contracts import Engine, ExecutedLayer, Workload
from pqbench.testing.checks.expect import expect, expect_sound_facts
from pqbench.testing.checks.leaks import no_leaked_globals
from pqbench.testing.checks.models import answer, example
from pqbench.testing.tiny import TinyWorkload


def check_engine(engine: Engine, *, workload: Workload | None = None, tolerance: float = 1e-3) -> str:
    """Check an engine with a full-precision model of a small workload; returns why it is not available, or nothing.

    It answers as eager torch does, the same when asked twice, says at which precisions it computed, and leaves the net
    and everything global as they were. Whether int8 agrees with its simulation depends on the kernels and is no part of
    the contract.

    tolerance   distance to eager torch that is allowed, relative to its norm
    """
    expect_sound_facts(type(engine))
    missing = engine.available()
    expect(isinstance(missing, str), "available() does not answer with a text.")
    if missing:
        return missing
    workload = workload or TinyWorkload()
    net = workload.denoiser()
    inputs, reference = example(workload), answer(net, workload)
    condition = inputs[2:]
    conditional: dict[str, Any] = {"condition": condition} if condition else {}
    with no_leaked_globals():
        executable = engine.compile(net, workload.shape, len(inputs[0]), threads=1, **conditional)
        found, again = executable(*inputs), executable(*inputs)
    expect(found.shape == reference.shape and found.dtype == torch.float32, f"It answers {found.dtype} {found.shape}.")
    expect(torch.equal(found, again), "It answers differently when it is asked again.")
    distance = float((found - reference).norm() / reference.norm())
    expect(distance <= tolerance, f"It is {distance:.2g} away from eager torch; {tolerance:.2g} is allowed.")
    layers, known = executable.layers(), dict(net.named_modules())
    sound = bool(layers) and all(isinstance(each, ExecutedLayer) and each.precision for each in layers)
    expect(sound, f"It does not say at which precisions its layers ran: {layers}.")
    strange = [name for each in layers for name in each.layers if name not in known]
    expect(not strange, f"It names modules that the net does not have: {', '.join(strange)}.")
    expect(torch.equal(answer(net, workload), reference), "It changed the net that it was given.")
    return ""
