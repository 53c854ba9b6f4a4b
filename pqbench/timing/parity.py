"""Parity: whether an engine computes the model that its simulation does, judged by the distance to full precision.

Rounding flips that a deep network amplifies make elementwise equality the wrong test: on a trained net one W4A4 step of
the engine and of the simulation are 12 % apart while both are 19.9 % from full precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pqbench.base.text import percent
from pqbench.timing.spec import ParityStep, ParityUse

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pqbench.contracts import Executable, Workload

STEPS = 4
"""Time steps at which predictions are compared, evenly over a run."""
IMAGES = 4
"""Denoising runs that the inputs come from."""
RATIO_LIMIT = 1.25
"""An engine's error to full precision may be this many times its simulation's, if the two are not farther apart than
the simulation is from full precision: a model that is far off would otherwise excuse any other that is as far off.
"""
DIFFERENCE_LIMIT = 0.03
"""Or, where both are close to full precision, engine and simulation may differ by this much of the prediction."""


def agrees(difference: float, engine: float, simulation: float) -> bool:
    """Whether an engine computes what its simulation does.

    difference           of the engine to the simulation, relative to it
    engine, simulation   both ones' distance to full precision, relative to it
    """
    if not math.isfinite(engine) or not math.isfinite(difference):
        return False
    return difference <= DIFFERENCE_LIMIT or (engine <= RATIO_LIMIT * simulation and difference <= simulation)


def allowed() -> str:
    """What `agrees` allows, in words."""
    return (
        f"{RATIO_LIMIT:g} times the simulation's error to full precision and no farther apart than that error, or "
        f"{percent(DIFFERENCE_LIMIT)} apart"
    )


def complaint(parity: ParityUse) -> str:
    """Nothing when the engine agrees with the simulation, else why not, in one sentence; means over the time steps."""
    difference, engine, simulation = (parity.mean(name) for name in ("difference", "engine_to_fp", "simulation_to_fp"))
    if agrees(difference, engine, simulation):
        return ""
    if not math.isfinite(engine):
        return "the engine's predictions are NaN or infinite."
    return (
        f"a step is {percent(engine)} from full precision on the engine and {percent(simulation)} in the simulation, "
        f"which are {percent(difference)} apart; allowed are {allowed()}."
    )


def measure_parity(executable: Executable, batch: int, net: nn.Module, workload: Workload, steps: int) -> ParityUse:
    """Compare one step's predictions along runs of the full-precision model in `steps` steps.

    executable   the engine's, compiled for `batch` samples; fewer images than a batch are repeated to fill it
    net          the same model in torch: the simulation
    """
    from pqbench.base.devices import device_of
    from pqbench.diffusion.ddim import ddim_sample
    from pqbench.diffusion.noise import initial_noise
    from pqbench.engines.batches import filling

    device = device_of(net)
    full_precision = workload.denoiser().eval().to(device)
    images = min(IMAGES, batch)
    timesteps = workload.timesteps(steps).to(device)
    wanted = _evenly(steps)
    noise = initial_noise(0, range(images), workload.shape).to(device)
    condition = [each.to(device) for each in workload.condition(0, range(images))]
    predict = filling(executable, batch)
    found: list[ParityStep] = []

    def compare(k: int, x_t: Tensor) -> None:
        if k not in wanted:
            return
        inputs = (x_t, timesteps[k].expand(images), *condition)
        exact, simulated = full_precision(*inputs), net(*inputs)
        executed = predict(*inputs).to(device)
        found.append(
            ParityStep(
                t=int(timesteps[k]),
                difference=_relative(executed, simulated),
                engine_to_fp=_relative(executed, exact),
                simulation_to_fp=_relative(simulated, exact),
            )
        )

    ddim_sample(
        full_precision,
        workload.schedule(),
        timesteps,
        noise,
        visit=compare,
        prediction=workload.prediction,
        condition=condition,
    )
    return ParityUse(images=images, steps=tuple(found))


def _evenly(steps: int) -> Sequence[int]:
    """Places of the compared steps in a run, the first and the last among them."""
    count = min(STEPS, steps)
    return sorted({round(place * (steps - 1) / max(count - 1, 1)) for place in range(count)})


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())
