"""Calibration samplers that come with pqbench; plugins name them, none imports another."""

BUILT_IN = (
    "pqbench.calibration.interval:Interval",
    "pqbench.calibration.ndtc:Ndtc",
    "pqbench.calibration.uniform:Uniform",
)
"""Where the registry finds the samplers, as `module:class`, so that listing them imports nothing heavy."""
