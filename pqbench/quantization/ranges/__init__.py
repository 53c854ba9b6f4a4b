"""Ranges: rules, observers, and fitting them to weights and to a calibration set."""
