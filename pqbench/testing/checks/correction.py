"""The contract of corrections."""

from __future__ import annotations

import torch
from torch import nn

from pqbench.contracts import Context, Correction, Precision, Workload
from pqbench.testing.checks.expect import expect, expect_sound_facts
from pqbench.testing.checks.leaks import no_leaked_globals
from pqbench.testing.checks.models import answer, expect_sound_model, round_to_nearest, same_state
from pqbench.testing.tiny import TinyWorkload


def check_correction(correction: Correction, *, workload: Workload | None = None) -> None:
    """Check a correction on a small workload with a round-to-nearest W4A4 model.

    Weights and grids stay as they are, the packed checkpoint brings the corrected model back, the same seed gives the
    same one, the full-precision model is left as it was, and nothing global changes.
    """
    expect_sound_facts(type(correction))
    workload = workload or TinyWorkload()
    net = round_to_nearest(workload)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    corrected = _correct(correction, workload, net)
    expect_sound_model(corrected, workload)
    after = corrected.state_dict()
    changed = [name for name, value in before.items() if name not in after or not torch.equal(after[name], value)]
    expect(not changed, f"It changed what is not its own: {', '.join(changed[:3])}.")
    trained = [name for name, parameter in corrected.named_parameters() if parameter.requires_grad]
    expect(not trained, f"It left parameters that can be trained: {', '.join(trained[:3])}.")
    again = _correct(correction, workload, round_to_nearest(workload))
    same = torch.equal(answer(corrected, workload), answer(again, workload))
    expect(same, "The same seed gives two different corrections: draw from context.generator or initial_noise alone.")


def _correct(correction: Correction, workload: Workload, net: nn.Module) -> nn.Module:
    full_precision = workload.denoiser().requires_grad_(False)
    state = {name: value.clone() for name, value in full_precision.state_dict().items()}
    context = Context(workload, Precision(4, 4), workload.steps)
    with no_leaked_globals():
        corrected = correction.correct(context, net, full_precision, workload.steps)
    expect(same_state(full_precision.state_dict(), state), "It changed the full-precision model, which is read-only.")
    return corrected
