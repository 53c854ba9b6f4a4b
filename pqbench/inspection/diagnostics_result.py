"""What the diagnostics find, as it is kept and drawn; nothing here needs torch."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict


class Diagnosis(BaseModel):
    """How far a quantized net is from the full-precision one along the latter's own denoising runs.

    Both nets see the same x_t at every step, so a step's error is not one that earlier steps have left behind. Within
    a step the errors of earlier layers do reach later ones.

    title           the cell: `rtn w4a4 seed 0`
    timesteps       training time steps of the run, descending, (S,)
    layers          names in the order of execution, (L,)
    layer_errors    (L, S): |quantized - FP|^2 / |FP|^2 of each layer's output, summed over all images
    output_errors   (S,): the same of the net's output
    images          runs that were followed
    seed            the runs start from noise that depends on (purpose "diagnosis", seed, index of the image) alone
    """

    # JSON has no infinity; written as a text, it reads back as a float.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    title: str
    timesteps: tuple[int, ...]
    layers: tuple[str, ...]
    layer_errors: tuple[tuple[float, ...], ...]
    output_errors: tuple[float, ...]
    images: int
    seed: int

    def rows(self) -> list[dict[str, str | int | float]]:
        """One flat row for every layer and step, the net's output last, under the layer name ""."""
        named = [*zip(self.layers, self.layer_errors, strict=True), ("", self.output_errors)]
        return [
            {"layer": layer, "t": t, "step": step, "relative_error": error, "snr_db": snr_db(error)}
            for layer, errors in named
            for step, (t, error) in enumerate(zip(self.timesteps, errors, strict=True))
        ]


def snr_db(relative_error: float) -> float:
    """Signal-to-noise ratio in decibels: -10 log10 of the relative squared error; infinite without any error."""
    return math.inf if relative_error == 0 else -10 * math.log10(relative_error)
