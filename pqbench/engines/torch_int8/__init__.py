"""Integer matrix products of torch as an engine, on a CPU and on a GPU."""

from pqbench.engines.torch_int8.engine import TorchInt8

__all__ = ["TorchInt8"]
