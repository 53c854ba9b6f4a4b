"""LPIPS (Zhang et al., 2018, version 0.1), as the package lpips 0.1.4 computes it."""
