"""The contract of workloads."""

from __future__ import annotations

import torch

from pqbench.contracts import Workload
from pqbench.testing.checks.expect import expect, expect_sound_facts
from pqbench.testing.checks.leaks import no_leaked_globals
from pqbench.testing.checks.models import answer, example, expect_sound_model, same_state


def check_workload(workload: Workload) -> None:
    """Check a workload.

    Every denoiser is a fresh copy of the same one in evaluation mode, its checkpoint loads into the architecture, its
    time steps, conditions, prompts, pictures, features and reference fit together, and nothing global changes.
    """
    expect_sound_facts(type(workload))
    with no_leaked_globals():
        first, second = workload.denoiser(), workload.denoiser()
    expect(not any(module.training for module in first.modules()), "Its denoiser is not in evaluation mode.")
    expect(same_state(first.state_dict(), second.state_dict()), "Two denoisers have different weights.")
    addresses = {value.data_ptr() for value in first.state_dict().values() if value.numel()}
    shared = any(value.data_ptr() in addresses for value in second.state_dict().values() if value.numel())
    expect(not shared, "Two denoisers share their weights: a quantizer that changes one would change the other.")
    expect_sound_model(first, workload)
    expect(workload.fingerprint() == workload.fingerprint(), "Its fingerprint changes from call to call.")
    _expect_timesteps(workload)
    _expect_conditions(workload)
    _expect_prompts(workload)
    _expect_measurable(workload, answer(first, workload))


def _expect_timesteps(workload: Workload) -> None:
    t, total = workload.timesteps(workload.steps), workload.schedule().train_steps
    expect(len(t) == workload.steps and t.dtype == torch.int64, f"Its run has {len(t)} time steps of type {t.dtype}.")
    falling = bool((t[1:] < t[:-1]).all()) and 0 <= int(t.min()) <= int(t.max()) < total
    expect(falling, f"Its time steps do not fall within 0 to {total - 1}: {t.tolist()}.")


def _expect_conditions(workload: Workload) -> None:
    with no_leaked_globals():
        all_three, two = workload.condition(0, range(3)), workload.condition(0, [2, 0])
    for several, fewer in zip(all_three, two, strict=True):
        sound = len(several) == 3 and several.dtype in (torch.int64, torch.float32) and several.device.type == "cpu"
        expect(sound, f"The conditions of 3 images are {several.dtype} of shape {tuple(several.shape)}.")
        same = torch.equal(several[[2, 0]], fewer)
        expect(same, "The condition of an image depends on more than the seed, the purpose and its index.")


def _expect_prompts(workload: Workload) -> None:
    """None at all, or a text for each image that depends on the seed, the purpose and its index alone."""
    with no_leaked_globals():
        three, two, again = (workload.prompts(0, indices) for indices in (range(3), [2, 0], range(3)))
        calibration = workload.prompts(0, range(3), "calibration")
    sound = isinstance(three, tuple) and all(isinstance(prompt, str) for prompt in three) and len(three) in (0, 3)
    expect(sound, f"The prompts of 3 images are {three!r}, not a tuple of 3 texts, nor an empty one.")
    expect(three == again, "The prompts of the same images change from call to call.")
    expect(
        two == (three[2:] + three[:1]),
        "The prompt of an image depends on more than the seed, the purpose and its index.",
    )
    expect(
        len(calibration) == len(three),
        f"It has {len(three)} prompts for 3 images and {len(calibration)} for calibration.",
    )
    expect(
        not three or bool(workload.condition(0, range(1))),
        "It has prompts and no condition: its model is not told what the prompts say.",
    )


@torch.no_grad()
def _expect_measurable(workload: Workload, prediction: torch.Tensor) -> None:
    count = len(example(workload)[1])
    images = workload.decode(prediction)
    fits = images.dtype == torch.uint8 and images.dim() == 4 and len(images) == count
    expect(fits, f"It decodes {count} samples to {images.dtype} of shape {tuple(images.shape)}.")
    features = workload.extractor().net(images)
    expect(features.dim() == 2 and len(features) == count, f"Its extractor answers with shape {tuple(features.shape)}.")
    reference, width = workload.reference(), features.shape[1]
    shapes = tuple(reference.mean.shape), tuple(reference.covariance.shape), reference.features.shape[1]
    expect(
        shapes == ((width,), (width, width), width), f"Its reference has shapes {shapes}, its features {width} values."
    )
