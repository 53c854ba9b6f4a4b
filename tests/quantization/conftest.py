"""Fixtures of a small denoiser."""

from net_fixtures import example, net, quantized

__all__ = ["example", "net", "quantized"]
