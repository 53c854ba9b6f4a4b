"""Reads models and changes none: bit audit, MACs, diagnostics, with the results that records keep."""
