"""MODEL_CARD.md, written from card.json so that the two cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEMPLATE = """\
# `{workload}`: a small denoiser of {data[name]}

Made for benchmarking compression methods, not for making pictures. Written by
`python -m pqbench.workloads.training.bundle` from card.json; change that, not this.

## Model
- diffusers `UNet2DModel`, {parameters:,} parameters, block_out_channels {channels}, predicts epsilon;
  weights stored in {stored}, used in float32
- sampler: {sampler}; {steps} steps
- schedule: linear betas from {recipe[beta_start]} to {recipe[beta_end]}, T = {recipe[train_steps]}

## Data
[{data[name]}]({data[source]}) ({data[license]}), {data[train_images]:,} training images; {data[preparation]}.
The data set does not ship with pqbench.

## Training
{images_seen:,} images in {iterations:,} iterations of {recipe[batch]}{mirrored}; AdamW, peak learning rate
{recipe[peak_lr]}, running average {recipe[ema]}, seed {recipe[seed]}, arithmetic in {floats}.
Training loss at the end: {final_loss}.{warning}

{commands}

The denoiser was trained on {trained[device]} (torch {trained[torch]}), the extractor on
{extractor[trained][device]} (torch {extractor[trained][torch]}), the other files were made
on {made_with[device]} (torch {made_with[torch]}). {repeatable}

## Distance
FD and KID are taken on the {extractor[features]} features of a small classifier trained on the same data
(accuracy on the test images {extractor[test_accuracy]:.2%}), against the statistics of all {reference[images]:,}
training images; {reference[kept_features]:,} features are kept for KID. The distance is not FID, and comparable with
nothing outside this workload. The {floor[images]:,} real test images have FD {floor[fd]:.3f}.

## Where the full-precision model must land
{windows}

Rule: {acceptance[rule]}. Pool: {acceptance[pool]:,} images.

## Files
{files}
"""


def render(card: Mapping[str, Any]) -> str:
    """The model card as Markdown."""
    return _TEMPLATE.format(
        **card,
        channels=tuple(card["architecture"]["block_out_channels"]),
        mirrored=", half of them mirrored" if card["recipe"].get("mirror") else "",
        floats=card["recipe"].get("floats", "float32"),
        commands=_commands(card),
        repeatable=_repeatable(card),
        warning="" if card["complete"] else "\n**These weights are from an unfinished training run.**",
        windows=_windows(card["acceptance"]["windows"]),
        files=_table(("file", "sha256"), [(name, f"`{value}`") for name, value in sorted(card["sha256"].items())]),
    )


def _commands(card: Mapping[str, Any]) -> str:
    """The three commands that made the files."""
    acceptance, extractor = card["acceptance"], card["extractor"]
    counts = ",".join(str(window["n"]) for window in acceptance["windows"])
    made = (
        ("denoiser", "--out TRAINING", f"--images {card['recipe']['images']}", card["trained"]),
        ("extractor", "--out TRAINING", f"--epochs {extractor['recipe']['epochs']}", extractor["trained"]),
        ("bundle", "--training TRAINING", f"--pool {acceptance['pool']} --counts {counts}", card["made_with"]),
    )
    return "\n".join(
        f"    python -m pqbench.workloads.training.{module} {card['workload']} --data FOLDER {folder} {options}"
        f"{_device(where)}"
        for module, folder, options, where in made
    )


def _device(made: Mapping[str, str]) -> str:
    """The option for the device that something was made on."""
    return "" if made["device"] in ("CPU", "not recorded") else " --device cuda"


def _repeatable(card: Mapping[str, Any]) -> str:
    if any(map(_device, (card["trained"], card["extractor"]["trained"], card["made_with"]))):
        return "On a graphics card the commands give files like these, not the same bytes."
    return "The same torch on the same kind of processor gives the same bytes."


def _windows(windows: list[dict[str, Any]]) -> str:
    if not windows:
        return "No window was measured."
    header = ("images", "steps", "FD", "spread", "lowest", "highest")
    keys = ("n", "steps", "fd", "spread", "low", "high")
    return _table(header, [tuple(str(window[key]) for key in keys) for window in windows])


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
