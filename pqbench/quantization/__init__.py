"""Quantized nets: grids, ranges, layers, learned rounding and step sizes, correction, packed checkpoints.

What is exported here is public; the modules of the subpackages are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pqbench.base.lazy import lazy_names

if TYPE_CHECKING:
    from pqbench.quantization.checkpoint.io import load_checkpoint, save_checkpoint
    from pqbench.quantization.correction.match import Match, match
    from pqbench.quantization.correction.runs import Runs
    from pqbench.quantization.grids.grid import Grid
    from pqbench.quantization.grids.step_clock import nearest_seen
    from pqbench.quantization.grids.time_tables import at_time_steps, start_tables
    from pqbench.quantization.learning.block_data import BlockData
    from pqbench.quantization.learning.block_source import BlockSource, Inputs, Mixing
    from pqbench.quantization.learning.reconstruction import Descent, reconstruction_step
    from pqbench.quantization.learning.reconstruction_stages import RoundingStage, StepSizeStage
    from pqbench.quantization.learning.tuning import OtherGrid, TunableLayer, settle, tunable_layers, tune
    from pqbench.quantization.net.blocks import block_names
    from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers
    from pqbench.quantization.net.output_correction import correct_output
    from pqbench.quantization.net.scope import quantize_layers, split_patterns
    from pqbench.quantization.net.verify import verify
    from pqbench.quantization.papers import PTQ4DM_BIBTEX, Q_DIFFUSION_BIBTEX
    from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
    from pqbench.quantization.ranges.observers import (
        RESERVOIR_VALUES,
        MinMax,
        MovingAverage,
        ObserverFactory,
        RangeRule,
        Reservoir,
    )
    from pqbench.quantization.ranges.rules import lp_search, lp_search_2d, minmax, percentile, rows
    from pqbench.training.batches import ShuffledBatches

__all__ = [
    "PTQ4DM_BIBTEX",
    "Q_DIFFUSION_BIBTEX",
    "RESERVOIR_VALUES",
    "BlockData",
    "BlockSource",
    "Descent",
    "Grid",
    "Inputs",
    "Match",
    "MinMax",
    "Mixing",
    "MovingAverage",
    "ObserverFactory",
    "OtherGrid",
    "QuantizedLayer",
    "RangeRule",
    "Reservoir",
    "RoundingStage",
    "Runs",
    "ShuffledBatches",
    "StepSizeStage",
    "TunableLayer",
    "at_time_steps",
    "block_names",
    "calibrate_activations",
    "calibrate_weights",
    "correct_output",
    "load_checkpoint",
    "lp_search",
    "lp_search_2d",
    "match",
    "minmax",
    "nearest_seen",
    "percentile",
    "quantize_layers",
    "quantized_layers",
    "reconstruction_step",
    "rows",
    "save_checkpoint",
    "settle",
    "split_patterns",
    "start_tables",
    "tunable_layers",
    "tune",
    "verify",
]

if not TYPE_CHECKING:  # a checker would take any name for one that exists
    __getattr__ = lazy_names(
        __name__,
        {
            "pqbench.quantization.checkpoint.io": ("load_checkpoint", "save_checkpoint"),
            "pqbench.quantization.correction.match": ("Match", "match"),
            "pqbench.quantization.correction.runs": ("Runs",),
            "pqbench.quantization.grids.grid": ("Grid",),
            "pqbench.quantization.grids.step_clock": ("nearest_seen",),
            "pqbench.quantization.grids.time_tables": ("at_time_steps", "start_tables"),
            "pqbench.quantization.learning.block_data": ("BlockData",),
            "pqbench.quantization.learning.block_source": ("BlockSource", "Inputs", "Mixing"),
            "pqbench.quantization.learning.reconstruction": ("Descent", "reconstruction_step"),
            "pqbench.quantization.learning.reconstruction_stages": ("RoundingStage", "StepSizeStage"),
            "pqbench.quantization.learning.tuning": ("OtherGrid", "TunableLayer", "settle", "tunable_layers", "tune"),
            "pqbench.quantization.net.blocks": ("block_names",),
            "pqbench.quantization.net.layers": ("QuantizedLayer", "quantized_layers"),
            "pqbench.quantization.net.output_correction": ("correct_output",),
            "pqbench.quantization.net.scope": ("quantize_layers", "split_patterns"),
            "pqbench.quantization.net.verify": ("verify",),
            "pqbench.quantization.papers": ("PTQ4DM_BIBTEX", "Q_DIFFUSION_BIBTEX"),
            "pqbench.quantization.ranges.fitting": ("calibrate_activations", "calibrate_weights"),
            "pqbench.quantization.ranges.observers": (
                "RESERVOIR_VALUES",
                "MinMax",
                "MovingAverage",
                "ObserverFactory",
                "RangeRule",
                "Reservoir",
            ),
            "pqbench.quantization.ranges.rules": ("lp_search", "lp_search_2d", "minmax", "percentile", "rows"),
            "pqbench.training.batches": ("ShuffledBatches",),
        },
    )
