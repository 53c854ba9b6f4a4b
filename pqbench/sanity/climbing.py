"""The rungs, climbed one after the other on one workload.

Each is a comparison with full precision along its own denoising runs: a relative error of one step, image by image, so
that a few images tell what a distance of thousands of them would not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.base.text import percent
from pqbench.contracts import Engine, Precision, Workload
from pqbench.quantization.checkpoint.io import load_checkpoint, save_checkpoint
from pqbench.sanity.rungs import (
    BITS,
    ERROR_LIMIT,
    NEAR_BITS,
    PSNR_LIMIT,
    WORSE_SHARE,
    Rung,
)
from pqbench.sanity.runs import FullPrecisionRuns, distances
from pqbench.timing.parity import agrees, allowed

ModelAt = Callable[[Precision], nn.Module]
"""The workload's model quantized at a precision, in as many steps as full precision."""

_CONFIDENCE = 0.95


def climb(
    model_at: ModelAt,
    workload: Workload,
    final: Callable[[], nn.Module],
    *,
    bits: Sequence[int] = BITS,
    images: int = 16,
    seed: int = 0,
    engines: Sequence[Engine] = (),
) -> Iterator[Rung]:
    """Yield every rung, passed or not.

    final     the model that is shipped, distilled and corrected if the method does that: its file and what engines
              make of it are checked
    bits      widths at which more bits must not be worse, two at least
    images    runs that are followed, two at least
    engines   which must agree with the simulation of `final`
    """
    runs = FullPrecisionRuns.of(workload, images, seed)
    yield _identity(runs, model_at(Precision()))
    near = model_at(Precision(NEAR_BITS, NEAR_BITS))
    yield _near(runs, near)
    widths = sorted(set(bits))
    for what, precision in _AXES.items():
        yield _more_bits(runs, what, widths, lambda b, precision=precision: model_at(precision(b)))  # type: ignore[misc]
    net = final().eval()
    yield _packed(runs, net)
    for engine in engines:
        yield _engine(runs, engine, net)


_AXES: dict[str, Callable[[int], Precision]] = {
    "weights": lambda bits: Precision(bits, NEAR_BITS),
    "activations": lambda bits: Precision(NEAR_BITS, bits),
}


def _identity(runs: FullPrecisionRuns, net: nn.Module) -> Rung:
    found = runs.predictions(net.eval())
    same = all(map(torch.equal, found, runs.predicted))
    return Rung(
        "identity",
        "W32A32 is full precision, bit for bit",
        "equal" if same else f"{percent(float(distances(found, runs.predicted).mean()))} off a step",
        "equal",
        same,
        "what the quantizer does to a net besides rounding: folded or replaced layers, changed weights, a clamp that "
        "stays at 32 bits, a net that is left in training mode",
    )


def _near(runs: FullPrecisionRuns, net: nn.Module) -> Rung:
    error, decibels = float(runs.errors(runs.predictions(net.eval())).mean()), float(runs.psnr(net).mean())
    return Rung(
        "near",
        f"W{NEAR_BITS}A{NEAR_BITS} is near full precision",
        f"{percent(error)} off a step, PSNR {decibels:.1f} dB",
        f"at most {percent(ERROR_LIMIT)}, at least {PSNR_LIMIT:g} dB",
        error <= ERROR_LIMIT and decibels >= PSNR_LIMIT,
        "ranges: are activations calibrated at all time steps, is a zero-point lost or a scale shared by channels that "
        "differ; pqbench diagnose names the layer and the time step",
    )


def _more_bits(runs: FullPrecisionRuns, what: str, bits: Sequence[int], model: Callable[[int], nn.Module]) -> Rung:
    errors = [runs.errors(runs.predictions(model(width).eval())) for width in bits]
    worse = [
        f"{high} than {low}"
        for low, high, fewer, more in zip(bits, bits[1:], errors, errors[1:], strict=False)
        if is_worse(more, fewer)
    ]
    listed = ", ".join(f"{percent(float(e.mean()))} at {b}" for b, e in zip(bits, errors, strict=True))
    return Rung(
        what,
        f"more bits of {what} are not worse (the other at {NEAR_BITS})",
        f"{listed}{f'; worse: {chr(44).join(worse)}' if worse else ''}",
        f"no error grows by more than {percent(WORSE_SHARE)} of itself beyond noise (paired t test)",
        not worse,
        "a grid whose end points or zero-point are wrong at one width, packing of that width, a search or a training "
        "that diverges, and whether the width is applied at all (pqbench audit)",
    )


def is_worse(more: Tensor, fewer: Tensor) -> bool:
    """Whether the errors `more` exceed `fewer` beyond noise and tolerance, image by image; both (N,), N >= 2.

    One-sided paired t test of the excess over `WORSE_SHARE` of the error; NaN is worse than anything.
    """
    from scipy.special import stdtrit

    if not torch.isfinite(more).all():
        return True
    excess = more - (1 + WORSE_SHARE) * fewer
    reach = float(stdtrit(len(excess) - 1, _CONFIDENCE)) * float(excess.std()) / math.sqrt(len(excess))
    return float(excess.mean()) > reach


def _packed(runs: FullPrecisionRuns, net: nn.Module) -> Rung:
    expected = runs.predictions(net)
    problem = ""
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        path = Path(folder) / "model.safetensors"
        try:
            save_checkpoint(net, path)
            again = load_checkpoint(path, runs.workload.architecture()).eval()
            if not all(map(torch.equal, runs.predictions(again), expected)):
                problem = "the file answers differently"
        except UserError as error:
            problem = str(error)
    return Rung(
        "packed",
        "the packed file holds the same bits as the simulation",
        problem or "equal",
        "equal",
        not problem,
        "state that the checkpoint does not keep, or weights that were changed after their codes were fixed "
        "(freeze the layer again)",
    )


def _engine(runs: FullPrecisionRuns, engine: Engine, net: nn.Module) -> Rung:
    """An engine's rounding flips are amplified by a deep net, so both are held against full precision."""
    name, look_at = (
        f"engine {engine.name}",
        (
            "how the engine lowers the net: the grid's end points and rounding, scales, layers that fell back "
            "(the table's footnote on arithmetic), and an operation that this engine computes otherwise"
        ),
    )
    checked = f"{engine.name} agrees with the simulation"
    limit = allowed()
    simulated = runs.predictions(net)
    try:
        executed = runs.predictions(runs.executable(engine, net))
    except UserError as error:
        return Rung(name, checked, str(error), limit, False, look_at)
    apart = float(distances(executed, simulated).mean())
    ours, theirs = float(runs.errors(executed).mean()), float(runs.errors(simulated).mean())
    return Rung(
        name,
        checked,
        f"{percent(ours)} off full precision, the simulation {percent(theirs)}, {percent(apart)} apart",
        limit,
        agrees(apart, ours, theirs),
        look_at,
    )
